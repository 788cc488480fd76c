"""Autoencoders: their losses by hand, what the encoder sees, where codes of samples come from."""

import pytest
import torch
import torch.nn.functional as F

from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder import AAE, Autoencoder
from lightning_gen.objectives.adversarial import ADVERSARIAL
from lightning_gen.training.noise import BatchNoise
from lightning_gen.training.players import freeze_all_but

SMALL = {"latent_dim": 3, "network_args": {"hidden": [16]}}


@pytest.fixture(scope="module")
def data():
    digits = Digits(batch_size=100)
    digits.setup()
    return digits


@pytest.fixture
def batch(data):
    return data.examples("train", torch.arange(32))


def made(data, cls=Autoencoder, **options):
    """A model in the middle of training, without a Trainer."""
    torch.manual_seed(0)
    model = cls(data.spec, **{**SMALL, **options})
    model._noise = BatchNoise(0)
    return model.train()


@pytest.mark.parametrize(("loss", "power"), [("squared", 2), ("absolute", 1)])
def test_the_loss_is_its_definition(data, batch, loss, power):
    model = made(data, loss=loss, terms={"code": 0.3, "decoder": "0..0.02@10"})
    model.iteration = 5
    with torch.no_grad():
        total, logs = model.loss_autoencoder(batch, {})
        x = batch["x"]
        z = model.encoder(x)
        error = float((x - model.decoder(z)).abs().pow(power).sum()) / len(x)
        code = 0.5 * float((z**2).sum()) / len(x)
        weights = 0.5 * sum(float((p**2).sum()) for p in model.decoder.parameters())
    assert float(logs["reconstruction"]) == pytest.approx(error, rel=1e-5)
    assert float(total) == pytest.approx(error + 0.3 * code + 0.01 * weights, rel=1e-5)


def test_only_training_corrupts_and_the_error_is_against_the_clean_picture(data, batch):
    model, x = made(data, corruption={"mask": 0.5}), batch["x"]
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    _, logs = model.loss_autoencoder(batch, {})
    changed = seen[0] != x
    assert (seen[0][changed] == -1).all()
    assert changed[x > -1].float().mean() == pytest.approx(0.5, abs=0.05)
    clean = (x - model.decoder(model.encoder(seen[0]))).square().flatten(1).sum(1).mean()
    assert torch.allclose(logs["reconstruction"], clean)
    model.eval()
    model.example_indices = list(range(len(x)))
    for use in (lambda: model.encode(x), lambda: model.reconstruct(x), lambda: model.validation_values(batch)):
        use()
        assert torch.equal(seen[-1], x)


def test_corruptions(data):
    x = torch.zeros(50, 1, 8, 8)
    model = made(data, corruption={"gaussian": "0..0.4@10"})
    model.iteration = 5
    assert float(model.corrupted(x).std()) == pytest.approx(0.2, rel=0.05)
    real = Autoencoder(DataSpec((5,), "vector", "real"), corruption={"mask": 1.0}, **SMALL)
    real._noise = BatchNoise(0)
    assert (real.train().corrupted(torch.ones(4, 5)) == 0).all()
    assert made(data, corruption={"mask": None}).corrupted(x) is x


def test_a_fitted_prior_has_the_moments_of_the_validation_codes(data, trainer):
    model = made(data, prior="fitted", terms={"code": 0.1})
    assert torch.equal(model.draw(torch.eye(3)), torch.eye(3))  # before any validation
    values = trainer().validate(model, data, verbose=False)[0]
    with torch.no_grad():
        z = model.eval().encode(data.examples("val", torch.arange(200))["x"])
        drawn = model.draw(torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(model.code_mean, z.mean(0), atol=1e-5)
    covariance = torch.cov(z.T, correction=0)
    assert torch.allclose(model.code_factor @ model.code_factor.T, covariance, rtol=1e-3, atol=1e-5)
    assert torch.allclose(drawn.mean(0), z.mean(0), atol=0.02 * float(z.std()))
    assert torch.allclose(torch.cov(drawn.T), covariance, atol=0.05 * float(covariance.diagonal().max()))
    assert values["val/code"] == pytest.approx(0.5 * float(z.square().sum(1).mean()), rel=1e-4)
    assert values["val/active_units"] == (z.var(0, correction=0) > 0.01).sum()
    before = model.code_mean.clone()
    trainer().test(model, data, verbose=False)
    assert torch.equal(model.code_mean, before)


def test_a_fitted_prior_of_constant_codes(data, trainer):
    model = made(data, prior="fitted")
    torch.nn.init.zeros_(model.encoder.head.weight)
    trainer().validate(model, data, verbose=False)
    with torch.no_grad():
        assert torch.allclose(model.draw(torch.ones(1, 3)), model.encoder.head.bias, atol=1e-4)


def test_the_mmd_of_codes_of_the_prior_is_zero_in_the_mean(data, batch):
    model, generator = made(data, terms={"mmd": 1.0}), torch.Generator().manual_seed(1)
    found = {0.0: [], 1.0: []}
    for iteration in range(200):
        model._noise.seek(iteration, 0, 0, 1)
        s = model.step(batch)
        for shift, values in found.items():
            s.z = torch.randn(32, 3, generator=generator) + shift
            values.append(model.term_values(s)["mmd"].mean())
    none, some = (torch.stack(values) for values in found.values())
    error = float(none.std()) / 200**0.5
    assert abs(float(none.mean())) < 4 * error < float(some.mean()) / 10


def test_non_saturating_losses():
    real, fake = torch.tensor([0.5, -2.0, 200.0]), torch.tensor([1.0, -1.0, -200.0])
    pair = ADVERSARIAL["non_saturating"]
    expected = -torch.sigmoid(real[:2]).log() - (1 - torch.sigmoid(fake[:2])).log()
    assert torch.allclose(pair.discriminator(real, fake)[:2], expected)
    assert torch.allclose(pair.generator(real, fake), torch.tensor([0.31326, 1.31326, 200.0]))


def test_each_player_of_an_adversarial_autoencoder_moves_only_its_own(data, batch):
    model, shared = made(data, AAE, adversarial=0.5), {}
    owned = {player: model.trainable(player) for player in model.players}
    freeze_all_but("autoencoder", owned)
    total, logs = model.loss_autoencoder(batch, shared)
    total.backward()
    z = model.encoder(batch["x"])
    lost = F.softplus(-model.discriminator(z)).mean()
    assert torch.allclose(total, (batch["x"] - model.decoder(z)).square().sum() / 32 + 0.5 * lost)
    assert torch.allclose(logs["adversarial"], lost)
    assert all(p.grad is None for p in owned["discriminator"])
    pulls = [p.grad.clone() for p in owned["autoencoder"]]
    freeze_all_but("discriminator", owned)
    model._noise.seek(0, 1, 0, 1)
    loss, logs = model.loss_discriminator(batch, shared)
    loss.backward()
    assert all(p.grad.any() for p in owned["discriminator"])
    assert all(torch.equal(p.grad, pull) for p, pull in zip(owned["autoencoder"], pulls, strict=True))
    prior = model.noise((32, 3), "prior")
    real, fake = model.discriminator(prior), model.discriminator(z)
    assert torch.allclose(loss, (F.softplus(-real) + F.softplus(fake)).mean())
    assert float(logs["accuracy"]) == pytest.approx(float(((real > 0).sum() + (fake <= 0).sum()) / 64))


def test_a_discriminator_pulls_the_codes_to_the_prior(data, trainer):
    def off(weight):
        torch.manual_seed(0)
        optimizers = {"discriminator": {"lr": 5e-3, "betas": [0.5, 0.999]}}
        model = AAE(data.spec, latent_dim=2, adversarial=weight, critic_args={"hidden": [64]}, optimizers=optimizers)
        trainer(max_steps=200, limit_val_batches=0).fit(model, Digits(batch_size=100))
        with torch.no_grad():
            return float((model.eval().encode(x).std(0) - 1).abs().max())

    x = data.examples("train", torch.arange(500))["x"]
    assert off(weight=10.0) < 0.3 < off(weight=0.0)


def test_a_short_run_rebuilds_digits(data, trainer):
    torch.manual_seed(0)
    model = Autoencoder(data.spec, latent_dim=8)
    trainer(max_steps=300, limit_val_batches=0).fit(model, Digits())
    reached = trainer().validate(model, data, verbose=False)[0]["val/reconstruction"]
    mean = data.examples("train", torch.arange(data.size("train")))["x"].mean(0)
    baseline = (data.examples("val", torch.arange(200))["x"] - mean).square().sum() / 200
    assert reached < 0.4 * baseline
    with torch.no_grad():
        x = model.eval().decode(50 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    assert x.min() == -1 and x.max() == 1


def test_conditional(data, batch):
    model = made(data, conditional=True).eval()
    with torch.no_grad():
        assert model.reconstruct(batch["x"], batch["y"]).shape == batch["x"].shape
        assert not torch.equal(model.sample(2, y=torch.tensor([3, 3])), model.sample(2, y=torch.tensor([3, 5])))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prior": "fited"}, "unknown prior 'fited': did you mean 'fitted'"),
        ({"prior": "fitted", "terms": {"mmd": 1}}, "take prior normal"),
        ({"loss": "cubed"}, "unknown loss 'cubed'"),
        ({"terms": {"kl": 1}}, "unknown term 'kl'"),
        ({"corruption": {"blur": 1}}, "unknown corruption 'blur'"),
        ({"corruption": {"mask": "0..2@10"}}, "probabilities, 0 to 1"),
        ({"corruption": {"gaussian": -1}}, "at least 0"),
        ({"latent_dim": 0}, "latent_dim 0"),
    ],
)
def test_mistakes(data, options, error):
    with pytest.raises(UserError, match=error):
        Autoencoder(data.spec, **options)


def test_other_mistakes(data):
    with pytest.raises(UserError, match="not tokens"):
        Autoencoder(DataSpec((10,), "text", "tokens", vocab=tuple("abcde")))
    with pytest.raises(UserError, match="take prior normal, not fitted"):
        AAE(data.spec, prior="fitted")
