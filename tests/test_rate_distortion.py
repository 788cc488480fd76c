"""scripts/rate_distortion.py: rates and errors are what they are called, and runs are trained once."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from compressors import DIGITS, Quarters, levels, vae
from processes import ROOT

from lightning_gen.commands import fit, rate_distortion
from lightning_gen.compression.curves import Point, draw, image_codec_points
from lightning_gen.datamodules.errors import UserError

SMALL = [
    "--betas",
    "1",
    "--codes",
    "4",
    "--steps",
    "4",
    "-n",
    "50",
    "--vq.prior_args.width",
    "16",
    "--data.batch_size=40",
]


coding = pytest.mark.skipif(find_spec("constriction") is None, reason="needs the extra 'compress'")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_rate_of_a_vae_is_its_kl():
    model = vae(likelihood="gaussian", scale=0.1)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        list(model.encoder.parameters())[-1].copy_(torch.tensor([1.0, 0, 0, 0, 0, 0, 0, -2.0]))
    x = levels("random", 300, (1, 8, 8), "uint8")
    with torch.inference_mode():
        bits, rebuilt = rate_distortion.vae_rate_and_mean(model, x)
        drawn = rate_distortion.vae_rate_and_mean(model, x)[1]
    kl = 0.5 * 1.0 + 0.5 * (math.exp(-2) - 1 + 2)  # of a mean of 1, and of a variance of exp(-2)
    assert bits == pytest.approx(300 * kl / math.log(2), rel=1e-5)
    assert rebuilt.shape == x.shape and torch.equal(rebuilt, drawn)  # the draws are the same each time
    assert rebuilt.std(0).max() > 0  # and are draws


@coding
def test_the_rate_of_tokens_is_what_is_written():
    torch.manual_seed(0)
    model = Quarters(DIGITS, likely=0.0).eval()
    torch.nn.init.zeros_(model.prior.weight)  # all tokens are as likely
    x = levels("random", 100, (1, 8, 8), "uint8")
    with torch.inference_mode():
        bits, rebuilt = rate_distortion.token_rate_and_reconstruction(model, x)
    assert bits == pytest.approx(2 * 6400, abs=64)
    assert torch.equal(rebuilt, model.from_tokens(model.tokens(x)))


def test_errors_are_of_values_from_zero_to_one():
    assert Point("vae", "", 1.0, 0.01).psnr == pytest.approx(20.0)
    x = torch.full((10, 1, 8, 8), -1.0)  # 10 pictures fill 4 x 3 places of a sheet
    x[:, :, :4] = 1.0
    points = image_codec_points(x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    for curve in ("JPEG", "WebP"):
        own = [point for point in points if point.curve == curve]
        assert [p.rate for p in own] == sorted(p.rate for p in own)
        assert [p.error for p in own] == sorted((p.error for p in own), reverse=True)
        assert 0 < own[-1].error < own[0].error < 0.2


def test_the_plot_shows_every_curve():
    points = [Point(curve, f"{k}", 0.1 * k, 0.1 / k) for curve in ("vae", "vq-vae", "JPEG") for k in (1, 2, 3)]
    picture, fewer = draw(points, "title"), draw(points[:6], "title")
    assert picture.dtype == torch.uint8 and picture.shape[0] == 3 and not torch.equal(picture, fewer)
    assert len(np.unique(picture.numpy().reshape(3, -1), axis=1).T) > 20


@coding
def test_runs_are_trained_once_and_measured(place, capsys):
    trained = []

    def call(command, log):
        trained.append(command)
        fit.main(command[4:])
        return 0

    rate_distortion.main(SMALL, call)
    first = (place / "rate_distortion/rate_distortion.md").read_text(encoding="utf-8")
    assert len(trained) == 2 and (place / "rate_distortion/rate_distortion.png").stat().st_size > 5000
    assert [row.split(" | ")[:2] for row in first.splitlines()[4:6]] == [["| vae", "beta 1"], ["| vq-vae", "4 codes"]]
    assert "--vq.prior_args.width 16" in first and "JPEG" in first
    rate_distortion.main([*SMALL, "--out", "again"], call)
    again = (place / "again/rate_distortion.md").read_text(encoding="utf-8")
    assert len(trained) == 2 and again.splitlines()[:16] == first.splitlines()[:16]
    assert "vq-vae, 4 codes: " in capsys.readouterr().out


def test_options_reach_the_models_that_they_are_of():
    words = ["--betas", "2", "--codes", "8", "--vae.latent_dim", "5", "--vae.scale=0.2", "--vq.prior_args.depth", "1"]
    one, other = (job.arguments for job in rate_distortion.list_jobs(*rate_distortion._parse(words)))
    pairs, others = (dict(zip(words[::2], words[1::2], strict=True)) for words in (one, other))
    assert pairs["--model.terms.kl"] == "2" and pairs["--model.latent_dim"] == "5" and pairs["--model.scale"] == "0.2"
    assert others["--model.quantizer_args.codes"] == "8" and others["--model.prior_args.depth"] == "1"
    assert not {"--model.latent_dim", "--model.scale", "--model.terms.kl"} & set(others)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--betas", "--codes"], "nothing to measure"),
        (["--betas", "-1"], "--betas -1.0: each must be at least 0"),
        (["--betas", "nan"], "each must be"),
        (["--codes", "1"], "--codes 1: each must be at least 2"),
        (["--steps", "0"], "--steps 0"),
        (["-n", "0"], "--n 0"),
        (["--beta", "1"], "did you mean '--betas'"),
        (["--vae.nothing", "1"], "nothing"),
        (["--data", "digitz"], "did you mean 'digits'"),
    ],
)
def test_each_mistake_is_one_line(arguments, reason):
    with pytest.raises(UserError, match=reason):
        rate_distortion.main(arguments, call=lambda *_: pytest.fail("it trained"))


@coding
def test_a_run_that_fails_says_why():
    def call(command, log):
        log.write_text("iteration 3\nerror: the disk is full\n")
        return 2

    with pytest.raises(UserError, match=r"vae with beta 1 failed: the disk is full .*vae_beta_1\.log"):
        rate_distortion.main(SMALL, call)
    assert (ROOT / "scripts/rate_distortion.py").exists()
