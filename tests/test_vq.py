"""VQ models: turns, the prior and its stream, tokens and back, classes, shapes, ranks, resume, and mistakes."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_resume import same

from lightning_gen.commands import fit, reconstruct
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.evaluation import codes
from lightning_gen.evaluation.evaluation_run import EvaluationRun, fixed_permutation
from lightning_gen.models.vqvae import VQVAE
from lightning_gen.networks.code_map import map_sizes
from lightning_gen.networks.code_prior import CachedTokenStream, CodePrior, sample_tokens
from lightning_gen.networks.condition import ConditionSpec
from lightning_gen.objectives.deterministic import commitment
from lightning_gen.objectives.latent import Step
from lightning_gen.presets import PRESETS
from lightning_gen.protocols import Decodes, Encodes, Likelihood, Reconstructs, SamplesClasses, Tokenises
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, read_checkpoint
from lightning_gen.training.evaluation_mode import evaluation_mode

TINY = {"network_args": {"width": 8}, "prior_args": {"width": 16, "depth": 2, "heads": 2}}
VECTOR = {"quantizer_args": {"codes": 12, "dim": 4}, "terms": {"commitment": 0.25}}
RESIDUAL = {"quantizer_args": {"codes": 6, "dim": 4, "depth": 2}, "terms": {"commitment": 0.25}}
FINITE = {"quantizer": "finite", "quantizer_args": {"levels": [4, 3]}}
KINDS = {"vector": VECTOR, "residual": RESIDUAL, "finite": FINITE}
DIGITS = DataSpec(shape=(1, 8, 8), values="uint8", num_classes=10, size=1437)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(spec=DIGITS, kind="vector", **options):
    return VQVAE(spec, **{**TINY, **KINDS[kind], **options})


@pytest.fixture(params=KINDS)
def model(request):
    return made(kind=request.param).eval()


# The prior and its stream


def prior(**options):
    made = CodePrior(
        10, 7, **{"width": 16, "depth": 3, "heads": 4, "condition": ConditionSpec("class", 3), "groups": 2, **options}
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that nothing is small
    return made.eval()


@torch.no_grad()
def test_the_stream_is_the_parallel_pass():
    net, tokens, c = prior(), torch.randint(7, (5, 10)), torch.tensor([0, 1, 2, 3, 3])
    stream = net.stream(5, c)
    logits = [stream.next_logits(None), *[stream.next_logits(tokens[:, i]) for i in range(9)]]
    assert torch.allclose(torch.stack(logits, 1), net(tokens, c), atol=1e-4)
    assert logits[0].dtype == torch.float32 and float(logits[3].std()) > 0.3


@torch.no_grad()
def test_a_place_does_not_see_itself_nor_what_follows():
    net, tokens = prior(), torch.randint(7, (1, 10))
    for place in range(10):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 7
        changed = (net(tokens) - net(other)).abs().amax((0, 2)) > 1e-5
        assert not changed[: place + 1].any() and changed[place + 1 :].all()


@torch.no_grad()
def test_the_stream_repeats_bit_by_bit():
    """What a coder needs: encoder and decoder walk the same block and see the same numbers."""
    net, tokens = prior(), torch.randint(7, (6, 10))
    walks = []
    for _ in range(2):
        stream = net.stream(6)
        walks.append([stream.next_logits(None), *[stream.next_logits(tokens[:, i]) for i in range(9)]])
    assert all(map(torch.equal, *walks))


@torch.no_grad()
def test_probabilities_of_all_rows_sum_to_one():
    net = CodePrior(3, 4, width=8, depth=1, heads=2).eval()
    rows = torch.cartesian_prod(*[torch.arange(4)] * 3)
    log_p = net(rows).log_softmax(2).gather(2, rows[:, :, None]).sum((1, 2))
    assert log_p.double().exp().sum() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_the_class_matters_and_so_does_none():
    net, tokens = prior(), torch.randint(7, (1, 10)).repeat(4, 1)
    logits = net(tokens, torch.tensor([0, 1, 2, 3]))
    assert all((logits[i] - logits[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))
    assert torch.allclose(net(tokens)[0], logits[3], atol=1e-5)  # without a class, by the embedding of none


def test_a_stream_is_asked_in_order():
    net = prior()
    with pytest.raises(ValueError, match="tokens at place 0"):
        net.stream(2).next_logits(torch.zeros(2, dtype=torch.long))
    stream = net.stream(2)
    stream.next_logits(None)
    with pytest.raises(ValueError, match="no tokens at place 1"):
        stream.next_logits(None)
    for _ in range(9):
        stream.next_logits(torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="place 10 of 10"):
        stream.next_logits(torch.zeros(2, dtype=torch.long))
    with pytest.raises(AssertionError):
        net.train().stream(2)


class Fixed(CachedTokenStream):
    """The same probabilities everywhere."""

    def __init__(self, shares):
        self.logits = torch.tensor(shares).log()

    def next_logits(self, previous):
        return self.logits.expand(100_000, -1)


def test_draws_have_the_probabilities():
    chance = torch.rand(100_000, 1)
    shares = torch.bincount(sample_tokens(Fixed([0.1, 0.0, 0.6, 0.3]), chance)[:, 0], minlength=4) / 100_000
    assert shares[1] == 0
    assert shares.tolist() == pytest.approx([0.1, 0, 0.6, 0.3], abs=0.006)  # 4 standard deviations


def test_the_ends_of_chance():
    ends = torch.tensor([[0.0], [1.0]]).repeat(50_000, 1)
    assert sample_tokens(Fixed([0.0, 0.5, 0.5]), ends)[:2, 0].tolist() == [1, 2]


# Tokens


@torch.no_grad()
def test_a_model_keeps_the_contract_of_tokens(model):
    assert all(isinstance(model, protocol) for protocol in (Tokenises, SamplesClasses, Reconstructs))
    assert not isinstance(model, Likelihood) and not isinstance(model, Encodes) and isinstance(model, Decodes)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    tokens = model.tokens(x)
    assert tokens.shape == (5, math.prod(model.tokens_shape)) and tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < model.vocab
    out = model.from_tokens(tokens)
    assert out.shape == x.shape and out.abs().max() <= 1
    assert torch.equal(out, model.reconstruct(x))
    assert torch.allclose(out, model.step({"x": x}).out.clamp(-1, 1), atol=1e-5)  # what training sees
    assert model.token_stream(4).next_logits(None).shape == (4, model.vocab)


def test_the_rate_of_the_three_presets_is_one():
    rates = []
    for name in ("vq-vae", "rvq-vae", "fsq-vae"):
        model = VQVAE(DIGITS, **PRESETS[name].arguments)
        rates.append(math.prod(model.tokens_shape) * math.log2(model.vocab))
    assert rates == [8 * 16] * 3


@torch.no_grad()
def test_an_evaluation_measures_the_rate_under_the_prior(model):
    data = Digits()
    data.setup()
    run = EvaluationRun(model.eval(), data, "no extractor", n=20)
    ((name, value),) = codes.rate(run)
    x = data.examples("test", fixed_permutation(data.size("test"))[:20])["x"]
    bits = model.code_length(model.tokens(x)).double() / math.log(2)
    assert name == "rate" and value.n == 20
    assert float(value.value) == pytest.approx(float(bits.mean()), rel=1e-6)
    assert float(value.std) == pytest.approx(float(bits.std()) / 20**0.5, rel=1e-6)


@torch.no_grad()
def test_the_code_length_is_what_the_stream_says(model):
    tokens = torch.randint(model.vocab, (3, math.prod(model.tokens_shape)))
    for y in (None, torch.tensor([2, 0, 9])):
        stream, nats, previous = model.token_stream(3, y), torch.zeros(3), None
        for now in tokens.unbind(1):
            nats -= stream.next_logits(previous).log_softmax(1).gather(1, now[:, None])[:, 0]
            previous = now
        assert torch.allclose(nats, model.code_length(tokens, y), atol=1e-3)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (torch.zeros(2, 15, dtype=torch.long), "possible are rows of 16"),
        (torch.full((2, 16), 12), "possible are 0 to 11"),
        (torch.full((2, 16), -1), "possible are 0 to 11"),
    ],
)
def test_impossible_tokens(tokens, text):
    with pytest.raises(UserError, match=text):
        made().eval().from_tokens(tokens)


SHAPES = {
    (1, 8, 8): (4, 4),
    (1, 28, 28): (7, 7),
    (3, 32, 32): (8, 8),
    (3, 9, 30): (4, 15),
    (2, 31, 17): (7, 4),
    (3, 64, 96): (16, 24),
    (6,): (3,),
    (1, 4, 4): (3,),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["vector", "residual"])
@torch.no_grad()
def test_shapes(shape, kind):
    conv = len(shape) == 3 and min(shape[1:]) >= 8
    args = TINY["network_args"] if conv else {"places": 3, "hidden": [8]}
    spec = DataSpec(shape=shape, kind="image" if len(shape) == 3 else "vector", values="unit")
    model = made(spec, kind, network_args=args).eval()
    assert model.tokens_shape == ((2,) if kind == "residual" else ()) + SHAPES[shape]
    assert model.reconstruct(torch.rand(2, *shape)).shape == (2, *shape)
    assert model.sample(2).shape == (2, *shape)
    assert model.classes == 0


@torch.no_grad()
def test_real_vectors_are_not_clamped():
    model = made(DataSpec(shape=(2,), kind="vector", values="real"), network_args={"places": 2, "hidden": [8]}).eval()
    model.decoder.body.head = torch.nn.Identity() if hasattr(model.decoder.body, "head") else None
    assert model._in_range(torch.tensor([-7.0, 5.0])).tolist() == [-7, 5]
    assert made()._in_range(torch.tensor([-7.0, 5.0])).tolist() == [-1, 1]


def test_halvings_of_the_map():
    assert map_sizes(DataSpec(shape=(1, 28, 28)), 1) == [(28, 28), (14, 14)]
    assert map_sizes(DataSpec(shape=(1, 12, 12))) == [(12, 12), (6, 6)]
    assert map_sizes(DataSpec(shape=(1, 64, 64)), 4)[-1] == (4, 4)


# Turns and losses


def test_who_moves_when():
    model = made(prior_from="40%")
    assert model.update_order(0) == ("autoencoder", "prior")  # before the length is known
    model.total = 10
    moves = [model.update_order(i) for i in range(10)]
    assert moves == [("autoencoder",)] * 4 + [("prior",)] * 6
    assert [made(prior_from=3).update_order(i)[0] for i in range(5)] == ["autoencoder"] * 3 + ["prior"] * 2
    assert made(prior_from=0).update_order(0) == ("prior",)
    assert "prior_from" in made(prior_from="40%").schedules  # so that an extended run says that it changes


def test_the_commitment_by_hand():
    z, q = torch.randn(3, 5, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    value = commitment(Step(z, None, z, q, z))
    assert torch.allclose(value, (z - q).square().sum((1, 2)))
    value.sum().backward()
    assert torch.allclose(z.grad, 2 * (z - q)) and q.grad is None


@pytest.fixture
def run(trainer, tmp_path):
    def fit(model, steps=8, data=None, **options):
        job = trainer(max_steps=steps, max_epochs=-1, plugins=AtomicCheckpointIO(), **options)
        job.fit(model, data or Digits(batch_size=100))
        job.save_checkpoint(tmp_path / "last.ckpt")
        return read_checkpoint(tmp_path / "last.ckpt")

    return fit


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_learns_tokens_that_no_longer_move(kind, run):
    model, seen = made(kind=kind, prior_from=4), {}
    x = torch.rand(20, 1, 8, 8) * 2 - 1
    step = model.after_step

    def after_step(player):
        values = step(player)
        with torch.no_grad():
            tokens = model.tokens(x)
        seen[model.iteration] = (player, tokens, model.prior.head.weight.detach().clone())
        return values

    model.after_step = after_step
    run(model)
    assert [seen[i][0] for i in range(8)] == ["autoencoder"] * 4 + ["prior"] * 4
    assert all(torch.equal(seen[3][1], seen[i][1]) for i in range(4, 8))
    assert torch.equal(seen[0][2], seen[3][2]) and not torch.equal(seen[3][2], seen[4][2])


def test_an_accumulated_start_is_not_thrown_away(run):
    """The first chunk starts the codes; their counts must be those of the step, or they look dead in it."""
    model = made(accumulate=20, prior_from=5, quantizer_args={"codes": 12, "dim": 4, "revive": 0.05})
    logged = []
    update = model.quantizer.update
    model.quantizer.update = lambda: logged.append(update()) or logged[-1]
    run(model, steps=1)
    assert [float(values["revived"]) for values in logged] == [0]
    assert model.quantizer.books[0].counts.sum() == pytest.approx(16 * 100, rel=0.05)  # places times examples


def test_accumulated_chunks_move_the_codes_as_the_whole_batch(run):
    """Codes that have started already; the k-means start sees the first chunk."""
    states = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = made(accumulate=accumulate, prior_from=5)
        model.quantizer.started.fill_(True)
        states.append(run(model, steps=3)["state_dict"])
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name


def test_training_lowers_both_losses(run, trainer):
    model, data = made(prior_from=150, lr=3e-3), Digits(batch_size=100)
    before = trainer().validate(model, data, verbose=False)[0]
    run(model, steps=400, data=data)
    after = trainer().validate(model, data, verbose=False)[0]
    assert after["val/reconstruction"] < 0.3 * before["val/reconstruction"]
    assert after["val/bits_per_token"] < 0.85 * math.log2(12)
    assert after["val/usage"] == 1 and after["val/perplexity"] > 7
    assert after["val/loss"] == pytest.approx(after["val/reconstruction"] + after["val/code"], rel=1e-4)
    assert after["val/bits_per_dim"] == pytest.approx(after["val/bits_per_token"] * 16 / 64, rel=1e-4)
    x, y = (Digits().examples("test", torch.arange(150))[key] for key in "xy")
    with evaluation_mode(model), torch.no_grad():
        tokens = model.tokens(x)
        told, wrong = model.code_length(tokens, y).mean(), model.code_length(tokens, (y + 1) % 10).mean()
    assert told < wrong - 1  # a nat: the classes are used


def test_usage_and_perplexity_of_a_known_code(trainer):
    """All places hold one token: of 12 codes one is used."""
    model = made()
    model.quantizer.books[0].vectors.fill_(1e6)
    model.quantizer.books[0].vectors[5] = 0.0
    values = trainer().validate(model, Digits(batch_size=64), verbose=False)[0]
    assert values["val/usage"] == pytest.approx(1 / 12) and values["val/perplexity"] == pytest.approx(1)


def test_the_share_without_class(run):
    told = []
    model = made(prior_from=0, no_class=0.3)
    length = model.code_length

    def code_length(tokens, y=None):
        told.append(y)
        return length(tokens, y)

    model.code_length = code_length
    run(model, steps=20)
    told = torch.cat([y for y in told if y is not None])
    assert len(told) == 20 * 100 and (told == 10).float().mean() == pytest.approx(0.3, abs=0.05)
    assert set(told.tolist()) == set(range(11))


@torch.no_grad()
def test_samples_follow_the_class_and_the_number():
    model = made().eval()
    model.prior.head.weight.mul_(30)  # untrained, it hardly says anything
    y = torch.arange(6) % 3
    assert torch.equal(model.sample(6, y=y), model.sample(6, y=y))
    assert torch.equal(model.sample(4), model.sample(4, y=torch.arange(4)))  # all classes in turn
    assert not torch.equal(model.sample(6, y=y), model.sample(6, y=y + 1))
    with pytest.raises(UserError, match="from 0 to 9"):
        model.token_stream(2, torch.tensor([3, 10]))
    without = made(conditional=False).eval()
    assert without.classes == 0 and without.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="knows no classes"):
        without.token_stream(2, torch.tensor([3, 1]))


# Ranks and resume


def test_resumed_bit_identically(run, trainer, tmp_path):
    """In the middle of either turn; codebooks, dropout and the prior's choices continue."""
    options = {"prior_args": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.3}, "prior_from": 6}
    whole = run(made(**options), steps=12)
    for stop in (3, 8):
        torch.manual_seed(0)
        run(made(**options), steps=stop)
        torch.manual_seed(99)
        model = made(**options)
        job = trainer(max_steps=12, max_epochs=-1, plugins=AtomicCheckpointIO())
        job.fit(model, Digits(batch_size=100), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        job.save_checkpoint(tmp_path / "resumed.ckpt")
        same(whole["state_dict"], read_checkpoint(tmp_path / "resumed.ckpt")["state_dict"])
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, nursery):
    """The same command on one and on two processes."""
    folder = tmp_path_factory.mktemp("vq")
    options = "--model vq-vae --model.network_args.width 8 --model.quantizer_args.codes 24 --steps 20 --val_every 20"
    options += " --model.prior_args.width 16 --model.prior_args.dropout 0 --trainer.accelerator cpu"
    for number, name in enumerate(("one", "two"), 1):
        nursery.fit(*options.split(), "--name", name, cwd=folder, ranks=number)
    return [folder / f"tb_logs/vq-vae-digits-{name}/version_0" for name in ("one", "two")]


def test_two_ranks_equal_one(ranks):
    """k-means, means and revival over both ranks, then the prior; the first iterations, as nearest codes may flip."""
    one, two = (read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"] for folder in ranks)
    for name, value in one.items():
        assert torch.allclose(value.float(), two[name].float(), atol=2e-3), name


def test_validation_of_two_ranks_equals_one(ranks):
    one, two = (json.loads((folder / "summary.json").read_text(encoding="utf-8"))["final"] for folder in ranks)
    assert one == pytest.approx(two, rel=1e-2)


# Mistakes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior_from": "soon"}, "give a share of the run, such as 60%"),
        ({"prior_from": "120%"}, "give a share of the run"),
        ({"prior_from": -5}, "give a share of the run"),
        ({"prior_from": 0.4}, "give a share of the run, such as 60%"),
        ({"quantizer_args": {"codes": 1}}, "codes 1: it must be at least 2"),
        ({"no_class": 0.0}, "above 0 and at most 1"),
        ({"quantizer": "vectorr"}, "did you mean 'vector'"),
        ({"quantizer_args": {"code": 3}}, "no option 'code'.*codes=256"),
        ({"network_args": {"widthh": 3}}, "no option 'widthh'"),
        ({"network_args": {"halvings": 4}}, "possible are 1 to 3"),
        ({"prior_args": {"width": 10, "heads": 4}}, "multiple of the heads"),
        ({"prior_args": {"heads": 0}}, "prior_args.heads 0"),
        ({"network": "conf"}, "did you mean 'conv'"),
        ({"ema": {"autoencoder": 1000.0}}, "possible is ema.prior"),
        ({"terms": {"commitmentt": 1}}, "did you mean 'commitment'"),
        ({**FINITE, "terms": {"commitment": 1.0}}, "no codes to commit to"),
        ({"loss": "squaredd"}, "did you mean 'squared'"),
    ],
)
def test_mistakes_are_named(options, text):
    with pytest.raises(UserError, match=text):
        made(**options)


def test_data_that_do_not_go():
    with pytest.raises(UserError, match="numbers, not tokens"):
        made(DataSpec(shape=(16,), kind="text", values="tokens", vocab=tuple("abcdefghi")))
    with pytest.raises(UserError, match="needs images"):
        made(DataSpec(shape=(16,), kind="vector", values="real"), network="conv")


def test_pictures_are_rebuilt_without_their_class(tmp_path, monkeypatch, capsys):
    """Only the prior knows classes."""
    monkeypatch.chdir(tmp_path)
    fit.main(["--model", "vq-vae", "--steps", "2", "--val_every", "2", "--watch", "none"])
    Image.new("L", (8, 8), 128).save("grey.png")
    given = ["tb_logs/vq-vae-digits/version_0", "grey.png", "--out", "out"]
    reconstruct.main(given)
    assert (tmp_path / "out" / "grey.png").exists()
    with pytest.raises(UserError, match="--class 3: this model rebuilds without one"):
        reconstruct.main([*given, "--class", "3"])


def test_a_quantizer_of_your_own():
    """By an object in the place of a name."""
    from lightning_gen.networks.quantizer import FiniteScalarQuantizer

    model = made(quantizer=FiniteScalarQuantizer, quantizer_args={"levels": (3, 3)}, terms={})
    assert model.vocab == 9 and model.eval().sample(2).shape == (2, 1, 8, 8)


def test_bits_of_uniform_tokens(trainer):
    """A prior that says nothing costs log2 K for each token."""
    model = made()
    with torch.no_grad():
        model.prior.head.weight.zero_()
        model.prior.head.bias.zero_()
    values = trainer().validate(model, Digits(batch_size=64), verbose=False)[0]
    assert values["val/bits_per_token"] == pytest.approx(np.log2(12), rel=1e-5)
