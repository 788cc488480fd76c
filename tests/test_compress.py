"""Compression: what is coded comes back, at the length that the model promises, in every shape and format."""

import numpy as np
import pytest
import torch
from compressors import DIGITS, Quarters, levels, vae
from scipy import stats

from lightning_gen.compression import baselines, codec, container, report
from lightning_gen.compression.bitsback import RAMP, BitsBack, Grid, block_slices
from lightning_gen.compression.pixel_coders import pixel_coder_for
from lightning_gen.compression.stack import AnsStack, import_constriction, initial_words
from lightning_gen.compression.tokens import TokenCoder
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.names import resolve
from lightning_gen.objectives import likelihoods
from lightning_gen.presets import PRESETS, preset

pytest.importorskip("constriction", reason="needs the extra 'compress'")

SHAPES = [
    ((1, 8, 8), {}),
    ((3, 8, 8), {}),
    ((1, 5, 7), {}),
    ((7,), {}),
    ((1, 28, 28), {}),
    ((3, 80, 72), {}),  # more elements than one table holds
    ((1, 16, 8), {"network": "dcgan", "network_args": {"width": 4, "norm": "batch"}}),
    ((3, 32, 32), {"network": "resnet", "network_args": {"width": 4}}),
]


def there_and_back(model, x, **options):
    """Encode, then decode the file with the model."""
    made = codec.encode(model, x, run="run", **options)
    return made, codec.decode(model, made.content, "file")[0]


# The stack


def test_popping_draws_from_the_ground_and_pushing_back_restores_it():
    stack, family = AnsStack(), import_constriction().stream.model.QuantizedGaussian(-512, 511)
    parameters = np.linspace(-40, 40, 30), np.linspace(0.5, 60, 30)
    drawn = []
    for _ in range(20):
        stack.reserve(24 * 30)
        drawn.append(stack.pop(family, *parameters))
    assert stack.num_initial_words > 8 and len({tuple(symbols) for symbols in drawn}) == 20
    z = (np.array(drawn) - parameters[0]) / parameters[1]
    assert abs(z.mean()) < 0.15 and abs(z.std() - 1) < 0.15  # random bits give draws of the model
    for symbols in reversed(drawn):
        stack.push(symbols, family, *parameters)
    assert stack.holds_initial_bits_only() and len(stack.words()) == stack.num_initial_words


def test_a_stack_never_runs_low():
    stack, family = AnsStack(), import_constriction().stream.model.Bernoulli(perfect=False)
    for bits in (1, 100, 10_000):
        stack.reserve(bits)
        assert stack._coder.num_valid_bits() >= bits + 64
        stack.pop(family, np.full(bits, 0.5))


def test_the_ground_is_the_same_everywhere():
    assert [int(word) for word in initial_words(3)] == [int(word) for word in initial_words(5)[2:]]
    assert container.fingerprint(initial_words(100).astype("<u4").tobytes()) == "13ea1d26bf6b5149f6f4e0565cd8ac22"


@pytest.mark.parametrize(("count", "most"), [(1, 64), (7, 64), (64, 64), (1000, 64), (1000, 1), (513, 10**6)])
def test_blocks_grow_from_one_example_and_cover_all(count, most):
    parts = list(block_slices(count, most))
    assert [row for part in parts for row in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start <= max(1, min(most, part.start // RAMP)) for part in parts)
    assert len(parts) <= count / most + 8 * RAMP * np.log(most + 2)


# Probabilities


@pytest.mark.parametrize("scale", ["learned", "pixel", 0.02])
def test_tables_hold_the_masses_of_the_likelihood(scale):
    spec = DataSpec(shape=(2, 3), kind="vector", values="uint8")
    likelihood = likelihoods.build("discretized_logistic", spec, scale)
    pixels = pixel_coder_for(likelihood, "uint8")
    out = torch.randn(likelihood.params(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        table = torch.from_numpy(pixels.table(*pixels.parameters(out)))  # (6, 256)
    assert table.shape == (6, 256) and torch.allclose(table.sum(1), torch.ones(6), atol=1e-5)
    for level in (0, 1, 100, 254, 255):
        x = pixels.to_x(torch.full((2, 3), level, dtype=torch.uint8))
        exact = likelihood.log_prob(x.unsqueeze(0), out).exp()
        assert table[:, level].prod().item() == pytest.approx(exact.item(), rel=1e-2, abs=1e-12)


def test_tables_of_black_and_white():
    spec = DataSpec(shape=(5,), kind="vector", values="binary")
    pixels = pixel_coder_for(likelihoods.build("bernoulli", spec), "binary")
    out = torch.tensor([-40.0, -1.0, 0.0, 1.0, 40.0])
    assert np.allclose(pixels.table(*pixels.parameters(out)), [0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1])


def test_levels_that_are_none_are_refused():
    pixels = pixel_coder_for(likelihoods.build("discretized_logistic", DIGITS), "uint8")
    x = levels("random", 2, (1, 8, 8), "uint8")
    assert torch.equal(pixels.to_x(pixels.to_levels(x)), x)
    with pytest.raises(UserError, match="256 levels"):
        pixels.to_levels(x + 0.001)


def test_the_grid_draws_the_posterior_and_knows_the_prior():
    grid = Grid(6)
    mean, deviation = grid.posterior(torch.tensor([[0.5, -30.0]]), torch.tensor([[-4.0, 900.0]]))
    assert mean[0].tolist() == [32, -512] and deviation[0, 0] == pytest.approx(64 * np.exp(-2))
    assert np.isfinite(deviation).all() and deviation.min() > 0
    cells = np.arange(-200, 200, dtype=np.int32)
    coder = import_constriction().stream.stack.AnsCoder(np.ones(4, np.uint32))
    before = coder.num_valid_bits()
    coder.encode_reverse(cells, grid.family, *grid.prior(len(cells)))
    exact = -np.log2(stats.norm.cdf((cells + 0.5) / 64) - stats.norm.cdf((cells - 0.5) / 64)).sum()
    assert coder.num_valid_bits() - before == pytest.approx(exact, rel=2e-3)
    assert grid.centre(cells[None]).tolist()[0] == [cell / 64 for cell in cells]


# Bits back


@pytest.mark.parametrize("values", ["binary", "uint8"])
@pytest.mark.parametrize(("shape", "options"), SHAPES)
def test_every_shape_comes_back(shape, options, values):
    model = vae(shape, values, **options)
    for kind, n in (("random", 21), ("random", 1), ("black", 3), ("white", 3), ("grey", 3)):
        x = levels(kind, n, shape, values)
        made, back = there_and_back(model, x)
        assert torch.equal(back, x), (kind, n)
        assert made.header.examples == n and made.header.shape == shape


@pytest.mark.parametrize("scale", ["learned", "pixel", 0.001, 1.0])
@pytest.mark.parametrize("block", [1, 5, 64])
def test_every_scale_and_block_comes_back(scale, block):
    model = vae(scale=scale)
    x = levels("random", 100, (1, 8, 8), "uint8")
    assert torch.equal(there_and_back(model, x, block=block)[1], x)


@pytest.mark.parametrize("binarize", ["threshold", "none"])
def test_the_length_is_the_elbo_of_a_trained_model(binarize, trainer):
    data = Digits(batch_size=130, binarize=binarize)
    torch.manual_seed(0)
    model = VAE(data.spec, latent_dim=8, terms={"kl": 1.0}, lr=3e-3)
    trainer(max_epochs=15, limit_val_batches=0).fit(model, data)
    model.eval()
    made, _ = there_and_back(model, data.examples("train", torch.arange(1300))["x"])
    with torch.inference_mode():
        bits = BitsBack(model).ideal_bits(made.symbols, 64)
    assert 0.98 * bits < 8 * made.payload < 1.02 * bits


def test_few_levels_take_fewer_bits_and_others_come_back_too():
    few = (0, 16, 100, 255)
    model = vae()
    model.spec = model.spec._replace(levels=few)
    chosen = torch.tensor(few)[torch.randint(4, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))]
    x = chosen.float().div(127.5).sub(1)
    made, back = there_and_back(model, x)
    assert torch.equal(back, x) and made.header.settings["levels"] == 4
    other = torch.cat([x, torch.full_like(x[:1], 7).div(127.5).sub(1)])  # one picture of another level
    longer, back = there_and_back(model, other)
    assert torch.equal(back, other) and longer.header.settings["levels"] == 256
    model.spec = model.spec._replace(levels=())
    usual, _ = there_and_back(model, x)  # as the file of a model of before, whose checkpoint names no levels
    assert made.payload < usual.payload - 60 * 64 / 8  # more than a bit for each value


def test_a_code_that_says_nothing_costs_nothing():
    """With q(z|x) = p(z) and a decoder that does not look at z, the length is -log p(x)."""
    model = vae((1, 12, 12), "binary")
    with torch.no_grad():
        for parameter in (*model.encoder.parameters(), *list(model.decoder.parameters())[:-1]):
            parameter.zero_()
        list(model.decoder.parameters())[-1].fill_(2.0)  # the logit of every pixel
    x = torch.where(torch.rand(1000, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.1, -1.0, 1.0)
    made, back = there_and_back(model, x)
    p, white = 1 / (1 + np.exp(-2)), (x > 0).double().mean().item()
    exact = -x.numel() * (white * np.log2(p) + (1 - white) * np.log2(1 - p))
    assert torch.equal(back, x) and 0 <= 8 * made.payload - exact - 32 * made.header.settings["ground"] < 0.001 * exact


def test_a_sharp_posterior_gets_a_fine_grid():
    model = vae()
    x = levels("random", 4, (1, 8, 8), "uint8")
    usual = codec.encode(model, x, run="").header.settings["grid"]
    with torch.no_grad():
        list(model.encoder.parameters())[-1][4:] -= 8  # the biases of the log-variances
    sharp, back = there_and_back(model, x)
    assert sharp.header.settings["grid"] > usual and torch.equal(back, x)


def test_a_code_far_from_the_prior_comes_back():
    model = vae(latent_dim=2)
    with torch.no_grad():
        list(model.encoder.parameters())[-1][:] += torch.tensor([100.0, -100.0, 30.0, -60.0])
    x = levels("random", 30, (1, 8, 8), "uint8")
    assert torch.equal(there_and_back(model, x)[1], x)


def test_the_block_is_part_of_the_format():
    model = vae()
    x = levels("random", 60, (1, 8, 8), "uint8")
    made = codec.encode(model, x, run="")
    header, words = container.unpack(made.content, "")
    with pytest.raises(UserError, match="does not decode"):
        codec.decode(model, container.pack(header._replace(block=3), words), "file")
    with pytest.raises(UserError, match="does not decode"):
        codec.decode(model, container.pack(header._replace(settings={"grid": 99}), words), "file")


def test_a_processor_that_computes_otherwise_is_noticed():
    model = vae()
    made = codec.encode(model, levels("random", 60, (1, 8, 8), "uint8"), run="")
    header, words = container.unpack(made.content, "")
    with torch.no_grad():
        model.decoder.get_parameter(next(iter(dict(model.decoder.named_parameters())))).mul_(1 + 1e-4)
    forged = container.pack(header._replace(weights=codec.weights_hash(model)), words)
    with pytest.raises(UserError, match="does not decode"):
        codec.decode(model, forged, "file")


def test_the_number_of_threads_is_that_of_the_encoder():
    with codec.threads(2):
        made = codec.encode(vae(), levels("black", 2, (1, 8, 8), "uint8"), run="")
    assert made.header.threads == 2 and torch.get_num_threads() == 1
    codec.decode(vae(), made.content, "file")
    assert torch.get_num_threads() == 1


def test_a_diverged_model_is_refused():
    model = vae()
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        codec.encode(model, levels("black", 2, (1, 8, 8), "uint8"), run="")


@pytest.mark.parametrize("values", ["binary", "uint8"])
def test_a_diverged_decoder_is_refused(values):
    model = vae((1, 8, 8), values)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="decoder gives values that are NaN"):
        codec.encode(model, levels("black", 2, (1, 8, 8), values), run="")


# Tokens


def quarters(**options):
    torch.manual_seed(0)
    return Quarters(DIGITS, **options).eval()


@pytest.mark.parametrize("n", [1, 7, 64, 65, 200])
def test_tokens_come_back(n):
    model = quarters()
    x = levels("random", n, (1, 8, 8), "uint8")
    made, back = there_and_back(model, x, block=64)
    assert torch.equal(made.symbols, model.tokens(x))
    assert torch.equal(back, model.from_tokens(model.tokens(x)))
    assert set(model.opened) == {min(n, 64), n % 64 or 64}  # both sides see the same blocks


def test_the_length_of_tokens_is_that_of_the_prior():
    model = quarters()
    x = torch.sign(levels("random", 1, (1, 8, 8), "uint8")).cumsum(2).clamp(-1, 1).repeat(400, 1, 1, 1)
    made = codec.encode(model, x, run="")
    with torch.inference_mode():
        bits = TokenCoder(model).ideal_bits(made.symbols, 64)
    assert 8 * made.payload == pytest.approx(bits, rel=0.005, abs=64)
    runs = (made.symbols[:, 1:] == made.symbols[:, :-1]).double().mean().item()
    stay = np.exp(2) / (np.exp(2) + 3)  # but for the small random part
    expected = 400 * (2 - 63 * (runs * np.log2(stay) + (1 - runs) * np.log2((1 - stay) / 3)))
    assert bits == pytest.approx(expected, rel=0.05)


def test_impossible_tokens_are_possible():
    """A prior that is sure, and wrong, costs many bits and loses nothing."""
    model = quarters(likely=500.0)
    x = levels("random", 20, (1, 8, 8), "uint8")
    assert torch.equal(there_and_back(model, x)[0].symbols, model.tokens(x))


def test_words_that_are_no_tokens_are_refused():
    model = quarters()
    made = codec.encode(model, levels("random", 9, (1, 8, 8), "uint8"), run="")
    header, words = container.unpack(made.content, "")
    for wrong in (words[:3], words[::-1], np.concatenate([words, words]), words[:0]):
        with pytest.raises(UserError, match="does not decode"):
            codec.decode(model, container.pack(header, wrong), "file")
    with pytest.raises(UserError, match="rows of 63 tokens"):
        codec.decode(model, container.pack(header._replace(settings={"length": 63}), words), "file")


@pytest.mark.parametrize("name", [name for name in PRESETS if "vq" in name or "fsq" in name])
def test_the_presets_with_tokens_code(name):
    row = preset(name)
    torch.manual_seed(0)
    model = resolve(row.model, {}, "model")(DIGITS, **row.arguments).eval()
    x = levels("random", 70, (1, 8, 8), "uint8")
    _, back = there_and_back(model, x)
    with torch.inference_mode():
        assert torch.equal(back, torch.cat([model.from_tokens(model.tokens(part)) for part in x.split(64)]))


# Which models


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vae", {"likelihood": "gaussian"}, "likelihood Gaussian gives no table"),
        ("vae", {"likelihood": "discretized_logistic_mixture"}, "likelihood DiscretizedLogisticMixture"),
        ("vae", {"likelihood": "bernoulli"}, "no distribution of their levels"),
        ("mixture-vae", {}, "prior Mixture"),
        ("vamp-vae", {}, "prior Vamp"),
        ("cvae", {}, "conditional"),
        ("ae", {}, "no Gaussian posterior"),
        ("iwae-mnist", {"likelihood": "auto"}, "more than one layer"),
        ("hierarchical-vae", {}, "no Gaussian posterior"),
        ("vae-gan", {}, "no likelihood"),
        ("gan", {}, "no Gaussian posterior"),
    ],
)
def test_models_that_cannot_are_told_why(name, options, reason):
    row = preset(name)
    model = resolve(row.model, {}, "model")(DIGITS, **{**row.arguments, **options}).eval()
    with pytest.raises(UserError, match=reason):
        codec.encode(model, levels("black", 2, (1, 8, 8), "uint8"), run="")


def test_another_model_is_refused():
    x = levels("random", 3, (1, 8, 8), "uint8")
    made = codec.encode(vae(), x, run="tb_logs/mine")
    with pytest.raises(UserError, match=r"other weights than these: .*tb_logs/mine"):
        codec.decode(vae(seed=1), made.content, "file")
    with pytest.raises(UserError, match=r"on uint8 data of shape \(1, 8, 8\)"):
        codec.decode(vae((1, 8, 9)), made.content, "file")
    with pytest.raises(UserError, match="this is a VAE on binary data"):
        codec.decode(vae(values="binary"), made.content, "file")
    with pytest.raises(UserError, match="by bits-back; this is a Quarters"):
        codec.decode(quarters(), made.content, "file")
    with pytest.raises(UserError, match=r"examples of shape \(1, 8, 9\)"):
        codec.encode(vae(), levels("random", 3, (1, 8, 9), "uint8"), run="")


def test_the_same_weights_with_another_activation_are_another_model():
    one, other = vae(), vae(network_args={"hidden": [24], "activation": "silu"})
    other.load_state_dict(one.state_dict())
    assert codec.weights_hash(one) == codec.weights_hash(vae()) != codec.weights_hash(other)


def test_the_error_of_tokens_is_in_the_units_of_the_data():
    x, y = torch.zeros(2, 3), torch.full((2, 3), 2.0)
    assert report._mean_squared_error(x, y, DataSpec((3,), "vector", "real")) == 4  # no pixels, so no range
    assert report._mean_squared_error(x, y, DataSpec((1, 1, 3))) == 1  # of [0, 1], where the model's are in [-1, 1]


# Other compressors


def test_others_are_given_the_same_examples():
    x = np.random.default_rng(0).integers(0, 2, (50, 1, 16, 16), dtype=np.uint8)
    rows = {(row.name, row.how): row.size for row in baselines.measure_baselines(x, binary=True)}
    random = 50 * 256 / 8  # bytes that nothing can beat
    assert all(size >= random for size in rows.values())
    assert rows["gzip -9", "packed bits"] < 1.05 * random and rows["PNG", "all in one picture"] < 1.2 * random
    assert rows["PNG", "a file each"] > rows["PNG", "all in one picture"]
    assert len(baselines.measure_baselines(x.reshape(50, 256), binary=True)) == 3


def test_a_mosaic_holds_every_picture():
    x = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    sheet = baselines.mosaic(x)
    found = [sheet[r : r + 4, c : c + 6] for r in range(0, len(sheet), 4) for c in range(0, sheet.shape[1], 6)]
    assert all((picture == x[k]).all() for k, picture in enumerate(found[:7])) and not np.any(found[7:])
    assert baselines.mosaic(np.broadcast_to(x[:1], (10**8, 4, 6, 3))) is None
