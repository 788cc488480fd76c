"""Samplers that take the prior's place, and the scripts that use them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.commands import evaluate, fit, sample
from lightning_gen.datamodules.custom import Arrays
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import Toy
from lightning_gen.evaluation.report import FILE, PREVIOUS
from lightning_gen.evaluation.samplers import Normal, attach_sampler, encode_training_set, fit_mixture
from lightning_gen.models.autoencoder import Autoencoder
from lightning_gen.models.vae import VAE

AE, CVAE = "tb_logs/ae-digits/version_0", "tb_logs/vae-digits/version_0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with short runs of an autoencoder and of a conditional VAE on digits."""
    folder = tmp_path_factory.mktemp("place")
    before = os.getcwd()
    os.chdir(folder)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    try:
        fit.main(["--model", "ae", "--steps", "150", "--val_every", "150", "--model.latent_dim", "4", *quiet])
        fit.main(["--model", "vae", "--steps", "20", "--val_every", "20", "--model.conditional", "true", *quiet])
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def text(path):
    with Image.open(path) as picture:
        return picture.text


# The mixture


def test_a_mixture_recovers_two_clusters():
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    mix = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    codes = torch.cat([noise[:1000] @ mix.T + 20, 0.3 * noise[1000:] - 10])
    mixture = fit_mixture(codes, components=2)
    first = int(mixture.means[:, 0].argmax())
    assert mixture.weights[first] == pytest.approx(0.25, abs=1e-4)
    assert torch.allclose(mixture.means[first], torch.tensor([20.0, 20.0]), atol=0.3)
    drawn = mixture.draw(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1)))
    near = drawn[:, 0] > 5
    assert near.float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(torch.cov(drawn[near].T), torch.cov(codes[:1000].T), rtol=0.1)
    assert torch.allclose(torch.cov(drawn[~near].T), 0.09 * torch.eye(2), atol=0.01)


def test_a_fit_is_repeatable_and_leaves_the_global_generators_alone():
    codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = fit_mixture(codes), fit_mixture(codes)
    assert torch.equal(one.factors, two.factors)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_codes_that_do_not_vary():
    drawn = fit_mixture(torch.full((100, 3), 7.0), components=4).draw(torch.randn(10, 4))
    assert torch.allclose(drawn, torch.full((10, 3), 7.0), atol=1e-3)


# On a model


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


@pytest.fixture
def model(digits):
    torch.manual_seed(0)
    model = Autoencoder(digits.spec, latent_dim=4, prior="fitted").eval()
    model.code_mean += 3
    return model


def test_samples_do_not_depend_on_the_batch(model, digits):
    attach_sampler(model, "gmm", digits, components=5)
    with torch.no_grad():
        whole = model.sample(9, seed=1)
        parts = torch.cat([model.sample(2, seed=1), model.sample(7, seed=1, start=2)])
        other = model.sample(9, seed=2)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert (whole - other).abs().max() > 0.01


def test_what_a_sampler_draws(model, digits):
    with torch.no_grad():
        own = model.sample(4)
        assert attach_sampler(model, "normal") == {"sampler": "normal"}
        assert isinstance(model.sampler, Normal) and model.sampler.draw_dim == 4
        assert not torch.equal(model.sample(4), own)
        model.train()
        assert attach_sampler(model, "gmm", digits, 7) == {"sampler": "gmm", "components": 7}
        assert model.training
        drawn = model.sampler.draw(torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0)))
        z = encode_training_set(model.eval(), digits)
        assert torch.allclose(drawn.mean(0), z.mean(0), atol=0.05)
        assert torch.allclose(torch.cov(drawn.T), torch.cov(z.T), atol=0.05)
        assert attach_sampler(model, "prior") == {}
        assert torch.equal(model.sample(4), own)


def test_codes_are_of_binary_pictures_where_training_sees_such(images28):
    data = Arrays(str(images28), binarize="dynamic")
    model, seen = VAE(data.spec, latent_dim=2, network="mlp").eval(), []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        codes = encode_training_set(model, data)
    assert len(codes) == data.size("train") and set(torch.cat(seen).unique().tolist()) == {-1.0, 1.0}


class Bare:
    """A model without codes."""


def test_mistakes(model, digits):
    with pytest.raises(UserError, match=r"300 components .* 1,500 .* there are 1,300: try --components 260"):
        attach_sampler(model, "gmm", digits, components=300)
    with pytest.raises(UserError, match="components 0"):
        attach_sampler(model, "gmm", digits, components=0)
    with pytest.raises(UserError, match="unknown sampler 'gm': did you mean 'gmm'"):
        attach_sampler(model, "gm")
    with pytest.raises(UserError, match=r"Bare has none to draw: .* such as vae, ae, wae"):
        attach_sampler(Bare(), "normal")
    assert attach_sampler(Bare(), "prior") == {}
    with pytest.raises(UserError, match="the data have"):
        attach_sampler(model, "gmm", Toy())
    torch.nn.init.constant_(model.encoder.head.bias, float("nan"))
    with pytest.raises(UserError, match="are not finite"):
        attach_sampler(model, "gmm", digits)


# The scripts


def test_sample_with_a_sampler(there, capsys):
    sample.main([AE, "-n", "6"])
    sample.main([AE, "-n", "6", "--sampler", "gmm", "--components", "3"])
    assert "codes by gmm of 3 components" in capsys.readouterr().out
    prior, mixture = (there / AE / "samples" / name for name in ("seed_0", "seed_0_gmm_3"))
    assert text(mixture / "00002.png")["sampler"] == "gmm" and text(mixture / "00002.png")["components"] == "3"
    assert "sampler" not in text(prior / "00002.png")
    assert (pixels(prior / "00002.png") != pixels(mixture / "00002.png")).any()
    sample.main([AE, "-n", "3", "--sampler", "gmm", "--components", "3", "--out", "few", "--data.batch_size", "50"])
    assert abs(pixels(there / "few/00002.png") - pixels(mixture / "00002.png")).max() <= 1


def test_sample_of_chosen_classes(there):
    sample.main([CVAE, "-n", "20", "--out", "all", "--interpolate", "--traverse"])
    assert [text(there / f"all/{k:05d}.png")["class"] for k in (0, 9, 10)] == ["0", "9", "0"]
    tile = 8 * 7 + 2
    caption = 24  # one line above the grid
    assert pixels(there / "all/grid.png").shape[:2] == (caption + 2 * tile + 2, 10 * tile + 2)  # a column a class
    sample.main([CVAE, "-n", "12", "--class", "3", "5"])
    folder = there / CVAE / "samples/seed_0_class_3_5"
    assert [text(folder / f"{k:05d}.png")["class"] for k in range(3)] == ["3", "5", "3"]
    assert pixels(folder / "grid.png").shape[:2] == (caption + 3 * tile + 2, 300)  # 4 columns, as wide as captions
    assert (pixels(folder / "00002.png") != pixels(there / "all/00002.png")).any()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([CVAE, "--class", "3", "10"], "unknown class '10': known: 0 to 9"),
        ([AE, "--class", "0"], "this model knows no classes"),
        ([AE, "--sampler", "gmm", "--components", "400"], "try --components 260"),
        ([AE, "--sampler", "gmm", "--date.root", "x"], "unknown option '--date.root'"),
        ([AE, "--sampler", "gmm", "--data.rot", "x"], "unknown option '--data.rot'"),
        ([AE, "--data.root", "x"], "only --sampler gmm, flow takes data"),
        ([AE, "--sampler", "kde"], "invalid choice: 'kde'"),
    ],
)
def test_mistakes_on_the_command_line(there, arguments, error):
    with pytest.raises(UserError, match=error):
        sample.main(arguments)


def test_an_evaluation_says_where_the_codes_came_from(there, capsys):
    def values(*options):
        evaluate.main([AE, "--metrics", "fd", "reconstruction", *options])
        return json.loads((Path(AE) / FILE).read_text(encoding="utf-8"))

    prior, said = values(), capsys.readouterr().out
    assert "sampler" not in prior["setting"] and "codes by" not in said
    mixture, said = values("--sampler", "gmm"), " ".join(capsys.readouterr().out.split())
    assert mixture["setting"]["sampler"] == "gmm" and mixture["setting"]["components"] == 10
    assert "codes by gmm of 10 components" in said and "another setting (sampler, components)" in said
    fd = {name: report["values"]["fd_digits_v1"]["value"] for name, report in (("gmm", mixture), ("prior", prior))}
    assert fd["gmm"] < fd["prior"]
    assert mixture["values"]["psnr"]["value"] == prior["values"]["psnr"]["value"]
    kept = json.loads((Path(AE) / PREVIOUS).read_text(encoding="utf-8"))
    assert kept["values"]["fd_digits_v1"]["value"] == fd["prior"]
    assert text(Path(AE) / "evaluation/samples.png")["sampler"] == "gmm"
