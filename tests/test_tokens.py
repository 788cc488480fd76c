"""Examples that are rows of tokens: as data, under a categorical likelihood, with an autoregressive decoder."""

import itertools
import math

import pytest
import torch
from toy_tokens import LENGTH, VOCAB, GRUDecoder, Texts, tokens

from lightning_gen.datamodules import pixels
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics.likelihood import discretisation
from lightning_gen.models.gan import GAN
from lightning_gen.models.layered import LayeredVAE
from lightning_gen.models.vae import VAE
from lightning_gen.objectives import likelihoods
from lightning_gen.objectives.categorical import Categorical
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load
from lightning_gen.training.evaluation_mode import evaluation_mode

SPEC = DataSpec((3,), "text", "tokens", vocab=("x", "y"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def data():
    return Texts(batch_size=40)


# Data -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_tokens_stay_whole_numbers(dtype):
    stored = torch.tensor([[0, 1], [4, 200]]).to(dtype)
    seen = pixels.to_float(stored, "tokens")
    assert seen.dtype == torch.int64 and torch.equal(seen, stored.long())


def test_batches_of_tokens(data):
    data.setup()
    batch = data.transform(next(iter(data.train_dataloader())), training=True)
    assert batch["x"].dtype == torch.int64 and batch["x"].shape == (40, LENGTH)
    assert batch["x"].min() >= 0 and batch["x"].max() < len(VOCAB)


# The likelihood -------------------------------------------------------------------------------------------------------


def test_equal_logits_give_l_times_log_v():
    model = likelihoods.build("auto", SPEC)
    assert isinstance(model, Categorical) and model.params() == (3, 2)
    x = torch.randint(2, (5, 3))
    torch.testing.assert_close(model.log_prob(x, torch.zeros(5, 3, 2)), torch.full((5,), -3 * math.log(2)))


def test_the_probabilities_of_all_texts_sum_to_1():
    spec = SPEC._replace(vocab=("x", "y", "z"))
    model, out = Categorical(spec), 2 * torch.randn(4, 1, 3, 3)  # (K, 1, L, V)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))  # (27, L)
    log_p = model.log_prob(every, out)
    assert log_p.shape == (4, 27)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(4))
    expected = torch.distributions.Categorical(logits=out).log_prob(every).sum(-1)
    torch.testing.assert_close(log_p, expected)


def test_draws_follow_the_logits_and_the_mean_is_the_most_probable():
    model, shares = Categorical(SPEC), torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    drawn = model.sample(shares.log().expand(20_000, -1, -1), torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64 and drawn.shape == (20_000, 3)
    torch.testing.assert_close(drawn.double().mean(0), shares[:, 1].double(), atol=0.015, rtol=0)
    assert model.mean(shares.log()[:2]).tolist() == [0, 1]


def test_bits_of_equal_tokens():
    rule = discretisation(Categorical(SPEC), SPEC)
    assert (rule.levels, rule.dequantise) == (2, False)


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("categorical", DataSpec((2,), "vector", "real"), "one of: gaussian, laplace"),
        ("gaussian", SPEC, "one of: categorical"),
        ("auto", SPEC._replace(vocab=()), "without a vocabulary: the spec needs vocab"),
    ],
)
def test_misfits_are_refused(name, spec, said):
    with pytest.raises(UserError, match=said):
        likelihoods.build(name, spec)


# Models ---------------------------------------------------------------------------------------------------------------


def made(data, network=tokens, **options):
    return VAE(data.spec, latent_dim=3, network=network, **{"optimizers": {"vae": {"lr": 0.01}}, **options})


@pytest.mark.parametrize("network", [tokens, "mlp"])
def test_a_token_model_learns_samples_and_round_trips(network, data, trainer, tmp_path):
    model = made(data, network, terms={"kl": "0..1@25% x2"})  # Fu et al. 2019: without it the code carries nothing
    before = trainer().validate(model, data, verbose=False)[0]
    run = trainer(max_steps=200, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(model, data)
    after = trainer().validate(model, data, verbose=False)[0]
    assert math.isfinite(after["val/loss"]) and after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/perplexity"] == pytest.approx(math.exp(-after["val/elbo"] / LENGTH))
    with evaluation_mode(model):
        samples = model.sample(9, seed=2)
        assert samples.dtype == torch.int64 and samples.shape == (9, LENGTH)
        assert samples.min() >= 0 and samples.max() < len(VOCAB)
        assert torch.equal(model.sample(4, seed=2, start=5), samples[5:])
        x = data.examples("val", torch.arange(40))["x"]
        assert (model.reconstruct(x) == x).double().mean() > 0.6
    if network == "mlp":  # an object has no path, by which a checkpoint could name it
        run.save_checkpoint(tmp_path / "model.ckpt")
        again = load(tmp_path / "model.ckpt")
        assert again.spec.vocab == VOCAB
        with evaluation_mode(again):
            assert torch.equal(again.sample(9, seed=2), samples)


def test_an_autoregressive_model_round_trips_by_its_path(data, trainer, tmp_path):
    model = made(data, "toy_tokens.tokens")
    run = trainer(max_steps=3, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt", trust=["toy_tokens"])
    with evaluation_mode(model), evaluation_mode(again):
        assert torch.equal(again.sample(5), model.sample(5))


@torch.no_grad()
def test_a_decoder_sees_the_tokens_before_alone_and_every_bound_passes_them(data):
    model = made(data, k=1).eval()
    x, z = torch.randint(5, (2, LENGTH)), torch.randn(2, 3)
    out = model.output(z, None, x)
    for place in range(LENGTH):
        changed = x.clone()
        changed[:, place] = (x[:, place] + 1) % 5
        other = model.output(z, None, changed)
        assert torch.equal(other[:, : place + 1], out[:, : place + 1])
        assert place == LENGTH - 1 or not torch.equal(other[:, place + 1 :], out[:, place + 1 :])
    noise = torch.randn(4, 2, 3)
    draws = model.importance_samples(x, None, noise)
    for one, log_px in zip(noise, draws.log_px, strict=True):
        s = model.infer(x, None, one)
        torch.testing.assert_close(model.likelihood.log_prob(x, s.out), log_px)


@torch.no_grad()
def test_decoding_is_greedy(data):
    """Without x, the logits are those of the decoder told its own choices."""
    model = made(data).eval()
    z = torch.randn(4, 3)
    chosen = model.decode(z)
    torch.testing.assert_close(model.output(z, None, chosen), model.output(z))


@torch.no_grad()
def test_the_probabilities_of_an_autoregressive_model_sum_to_1():
    spec = SPEC
    decoder = GRUDecoder(spec, 2, (3, 2))
    every = torch.tensor(list(itertools.product(range(2), repeat=3)))
    out = decoder(torch.randn(1, 2).expand(8, 2), x=every)
    torch.testing.assert_close(Categorical(spec).log_prob(every, out).exp().sum(), torch.tensor(1.0))


def test_classes_of_tokens(data, trainer):
    model = made(data, conditional=True)
    trainer(max_steps=150, limit_val_batches=0).fit(model, data)
    with evaluation_mode(model):
        y = torch.arange(40) % 4
        samples = model.sample(40, y=y)
    assert (samples == y[:, None] + 1).double().mean() > 0.7  # by chance 0.25


def test_the_bound_is_the_same_however_many_are_decoded_at_once(data, monkeypatch):
    model = made(data).eval()
    x, seen = torch.randint(5, (6, LENGTH)), []
    draws = model.importance_samples
    monkeypatch.setattr(
        model, "importance_samples", lambda x, y, noise: seen.append(noise.shape[0] * len(x)) or draws(x, y, noise)
    )
    with torch.no_grad():
        whole = model.log_likelihood(x, 10)
        assert seen == [60]
        monkeypatch.setattr("lightning_gen.models.vae_base.SMALLEST", 1)
        monkeypatch.setattr("lightning_gen.models.vae_base.MAX_DECODED_NUMEL", 4 * LENGTH * len(VOCAB))
        parts = model.log_likelihood(x, 10)
    assert max(seen[1:]) == 4 and sum(seen[1:]) == 60  # numbers bound the draws and the examples
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda spec: GAN(spec), "takes numbers, not tokens"),
        (lambda spec: VAE(spec, network="mlp", prior="vamp"), "pseudo-inputs, which tokens do not allow"),
        (lambda spec: LayeredVAE(spec, network=tokens), "takes no autoregressive decoders"),
    ],
)
def test_what_tokens_do_not_go_with(make, said, data):
    with pytest.raises(UserError, match=said):
        make(data.spec)
