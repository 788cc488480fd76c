"""Vectors in the units of their data: looked at before training, standardized for the network, and given back."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import make_older
from torch import nn

from lightning_gen.commands import fit, reconstruct, sample
from lightning_gen.compression.image_io import write_examples
from lightning_gen.compression.report import _mean_squared_error
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import Toy
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.evaluation.samplers import encode_training_set
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.models.layered import LayeredVAE
from lightning_gen.models.vae import VAE
from lightning_gen.storage.checkpoints import find_checkpoint, load, read_checkpoint

CENTRE, SPREAD = np.array([3e4, 2e-4, 1.79e9]), np.array([1e4, 1e-4, 30.0])


@pytest.fixture(scope="session")
def rows():
    """(600, 3) in the units of a user: large, small, and times in seconds."""
    return np.random.default_rng(0).normal(size=(600, 3)) * SPREAD + CENTRE


@pytest.fixture(scope="session")
def path(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("columns") / "rows.npy"
    np.save(path, rows)
    return str(path)


class Rows(torch.utils.data.Dataset):
    """Rows of an array, each with a class."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        return self.rows[k].tolist(), k % 2


# Data


@pytest.mark.parametrize("of", ["file", "Dataset"])
def test_the_spec_has_mean_and_scale_of_the_training_split(path, rows, of):
    data = Arrays(path) if of == "file" else Custom(Rows(rows))
    with np.errstate(all="raise"):
        spec = data.spec
    data.setup()
    split = data._splits["train"]
    train = split.fetch(torch.arange(len(split)))["x"].numpy()
    assert train.dtype == np.float64 and len(train) == 480
    assert np.allclose(spec.mean, train.mean(0), rtol=1e-12) and np.allclose(spec.scale, train.std(0), rtol=1e-9)
    seen = data.examples("train", torch.arange(480))["x"]
    assert seen.dtype == torch.float32
    assert seen.mean(0).abs().max() < 1e-5 and torch.allclose(seen.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert all(type(number) is float for number in (*spec.mean, *spec.scale))  # a checkpoint holds plain numbers


def test_columns_are_left_as_they_are_where_asked_and_in_sets_of_our_own(path, rows):
    data = Arrays(path, standardize=False)
    assert data.spec.mean == data.spec.scale == () and Toy().spec.scale == ()
    seen, stored = data.examples("train", torch.arange(2))["x"], data._splits["train"].fetch(torch.arange(2))["x"]
    assert torch.equal(seen, stored.float())
    (line,) = data.notices()
    assert " to 1e+04, values up to 1.79e+09" in line and "--data.standardize true" in line


def test_a_constant_column_has_scale_1_and_is_named(tmp_path, rows):
    rows = np.column_stack([rows[:, 0], np.full(600, 0.1), rows[:, 1], np.full(600, 1e9)])
    np.save(tmp_path / "x.npy", rows)
    data = Arrays(str(tmp_path / "x.npy"))
    assert data.spec.scale[1] == data.spec.scale[3] == 1.0 and data.spec.mean[1] == 0.1 and data.spec.mean[3] == 1e9
    first, second = data.notices()
    assert first == "2 of 4 columns have a single value in the training examples: 1, 3"
    assert second.startswith("columns are standardized (standard deviations of the columns")
    assert not data.examples("val", torch.arange(9))["x"][:, [1, 3]].any()


@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_what_is_not_finite_is_named_by_row_and_column(tmp_path, rows, value, said):
    broken = rows.copy()
    broken[17, 2] = broken[40, 0] = value
    np.save(tmp_path / "x.npy", broken)
    match = rf"x\.npy: row 17, column 2 is {said}; 2 of 600 examples hold values that are not finite"
    with pytest.raises(UserError, match=match):
        _ = Arrays(str(tmp_path / "x.npy"), standardize=False).spec
    with pytest.raises(UserError, match=rf"this Dataset: row (17, column 2|40, column 0) is {said}"):
        _ = Custom(Rows(broken), val=Rows(rows), test=Rows(rows)).spec
    images = np.zeros((5, 4, 4), np.float32)
    images[3, 1, 2] = value
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(UserError, match=rf"images\.npy: row 3, at \(1, 2\) is {said}; 1 of 5"):
        _ = Arrays(str(tmp_path / "images.npy")).spec


def test_held_out_examples_of_a_dataset_are_looked_at_too(rows):
    broken = rows.copy()
    broken[3, 1] = np.nan
    data = Custom(Rows(rows), val=Rows(broken))
    with pytest.raises(UserError, match="row 3, column 1 is nan"):
        data.examples("val", torch.arange(10))


def test_numbers_without_a_variance_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1e200, 1.0], [-1e200, 2.0]] * 5))
    with pytest.raises(UserError, match=r"column 0 of .*x\.npy goes from .* whose variance is no number"):
        _ = Arrays(str(tmp_path / "x.npy")).spec


def test_images_have_no_columns(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 4, 4), np.uint8))
    assert Arrays(str(tmp_path / "x.npy")).spec.scale == ()
    with pytest.raises(UserError, match="standardize is of the columns of vectors; these are images"):
        _ = Arrays(str(tmp_path / "x.npy"), standardize=True).spec


def test_small_whole_numbers_are_vectors_too(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20, dtype=np.uint8).reshape(10, 2))
    data = Arrays(str(tmp_path / "x.npy"), standardize=False)
    assert data.examples("train", torch.arange(8))["x"].max() == 19
    kind = kind_of(data.spec)
    assert torch.equal(kind.read(tmp_path / "x.npy", data.spec), torch.arange(20.0).view(10, 2))


# Files and likelihoods


def test_files_are_in_the_units_of_the_data(tmp_path, path, rows):
    spec = Arrays(path).spec
    kind = kind_of(spec)
    x = kind.read(tmp_path.parent / path, spec)
    assert x.dtype == torch.float32 and x.abs().max() < 6
    kind.write(x, tmp_path / "back.npy", spec, {})
    back = np.load(tmp_path / "back.npy")
    assert np.allclose((back - rows) / SPREAD, 0, atol=1e-5)  # times too, which float32 would round to 128 s
    assert torch.equal(kind.restored(kind.stored(x, spec), spec), x)


def test_decoded_examples_and_their_error_are_in_the_units_of_the_data(tmp_path, path):
    spec = Arrays(path).spec
    x = kind_of(spec).read(tmp_path.parent / path, spec)
    write_examples(x, (), spec, tmp_path / "out")
    back = np.load(tmp_path / "out/examples.npy")
    assert np.allclose((back - np.load(path)) / SPREAD, 0, atol=1e-5)
    error = _mean_squared_error(x, x + 0.1, spec)
    assert error == pytest.approx(0.01 * np.square(spec.scale).mean(), rel=1e-3)


def nats_of(model, x):
    """-log p of a VAE that is the standard normal distribution, whatever its weights."""
    with torch.no_grad():
        return -model.log_likelihood(x, 3), model.elbo(x)[0], model.elbo(x)[1]


@pytest.mark.parametrize("kind", [VAE, LayeredVAE])
def test_nats_are_those_of_the_users_units(path, kind):
    """Gaussian data of scale s: nll = nll of the standardized data + log s, in every estimate."""
    data = Arrays(path)
    sizes = {"latent_dim": 2} if kind is VAE else {"latent_dims": (2, 2)}
    model = kind(data.spec, scale=1.0, **sizes).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # p(u|z) = N(0, I) and q = p
    x = data.examples("test", torch.arange(60))["x"]
    log_scale = sum(math.log(scale) for scale in data.spec.scale)
    expected = 0.5 * x.square().sum(1) + 1.5 * math.log(2 * math.pi) + log_scale
    nll, log_px, kl = nats_of(model, x)
    assert torch.allclose(nll, expected, atol=1e-4) and torch.allclose(-log_px, expected, atol=1e-4)
    assert torch.allclose(kl, torch.zeros(60), atol=1e-6)
    model.example_indices = list(range(60))
    values = model.validation_values({"x": x})
    for name in ("loss", "reconstruction", "nll_is8"):
        assert torch.allclose(values[name], expected, atol=1e-4), name
    truth = torch.distributions.Normal(
        *(torch.tensor(v, dtype=torch.float64) for v in (data.spec.mean, data.spec.scale))
    )
    raw = data._splits["test"].fetch(torch.arange(60))["x"]
    assert torch.allclose(nll.double(), -truth.log_prob(raw).sum(1), atol=1e-4)  # the density of the file's numbers


@pytest.mark.parametrize("estimator", ["elbo", "iwae", "stl", "dreg"])
def test_gradients_do_not_depend_on_the_units(path, estimator, trainer):
    """Losses differ by the log of the scales, weights not at all."""
    data, found = Arrays(path, batch_size=40), []
    for spec in (data.spec, data.spec._replace(mean=(), scale=())):
        torch.manual_seed(0)
        model = VAE(spec, latent_dim=2, estimator=estimator, k=1 if estimator == "elbo" else 3)
        model._noise = lambda shape, stream: torch.full(shape, 0.5)
        loss, _ = model.loss_vae({"x": data.examples("train", torch.arange(40))["x"]}, {})
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (loss, gradient), (plain, same) = found
    assert loss == pytest.approx(plain + sum(map(math.log, data.spec.scale)), rel=1e-5)
    assert torch.allclose(gradient, same, rtol=1e-4, atol=1e-4)


# Other data, other runs


def test_other_data_are_seen_in_the_units_of_the_model(path, rows, tmp_path):
    np.save(tmp_path / "later.npy", rows + SPREAD)  # one standard deviation further
    model = VAE(Arrays(path).spec, latent_dim=2).eval()
    other = Arrays(str(tmp_path / "later.npy"))
    seen = EvaluationRun(model, other, "none", 60).data
    assert seen.spec.mean == model.spec.mean and other.spec.mean != model.spec.mean
    assert torch.allclose(seen.examples("test", torch.arange(60))["x"].mean(0), torch.ones(3), atol=0.5)
    same = encode_training_set(model, other)
    assert torch.equal(same, encode_training_set(model, other.in_units_of(model.spec)))
    old = VAE(model.spec._replace(mean=(), scale=()), latent_dim=2).eval()  # of a checkpoint of 0.1
    assert EvaluationRun(old, other, "none", 60).data.spec.scale == ()
    own = Arrays(path)
    assert own.in_units_of(model.spec) is own


def test_raw_features_of_standardized_columns(path):
    """Else the times would be all of a distance. The hash tells these features from the bare numbers."""
    data = Arrays(path)
    extractor = find_extractor("auto", "rows", data.spec)
    x = data.examples("test", torch.arange(60))["x"]
    stored = kind_of(data.spec).stored(x, data.spec)
    assert stored.dtype == torch.float64 and torch.allclose(extractor(stored), x.double(), atol=1e-5)
    plain = find_extractor("raw", "rows", Arrays(path, standardize=False).spec)
    assert extractor.name == plain.name == "raw" and extractor.sha256 and not plain.sha256
    assert find_extractor("raw", "rows", data.spec).sha256 == extractor.sha256


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    """A trained run on the file."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["--data.batch_size", "64", "--model.lr", "3e-3", "--model.latent_dim", "4", "--val_every", "100"]
        fit.main(["--data", path, "--model", "vae", "--steps", "300", "--trainer.accelerator", "cpu", *options])
    (run,) = folder.glob("tb_logs/*/version_0")
    return run


def test_samples_and_reconstructions_are_in_the_units_of_the_data(run, path, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(find_checkpoint(str(run))).spec.scale == Arrays(path).spec.scale
    for more in ([], ["--sampler", "gmm", "--components", "2"]):
        sample.main([str(run), "-n", "500", "--out", "made", *more])
        made = np.load("made/samples.npy")
        assert made.shape == (500, 3) and np.isfinite(made).all()
        assert (np.abs(made.mean(0) - CENTRE) < 0.5 * SPREAD).all() and (made.std(0) < 2 * SPREAD).all()
    reconstruct.main([str(run), path, "--out", "rebuilt"])
    rebuilt = np.load("rebuilt/reconstructions.npy")
    assert (np.abs(rebuilt - rows).mean(0) < 1.2 * SPREAD).all()


def test_evaluation_is_in_the_units_of_the_data(run, path, rows, tmp_path, script):
    script("evaluate", run, "-n", "60", "--k", "10", "--metrics", "fd", "nll")
    values = json.loads((run / "evaluation.json").read_text())["values"]
    truth = 0.5 * 3 * (1 + math.log(2 * math.pi)) + np.log(SPREAD).sum()
    assert values["nll_is10"]["value"] == pytest.approx(truth, abs=0.6)
    assert values["nll_is10"]["likelihood"] == "Gaussian of real values"
    assert 0 <= values["fd_raw"]["value"] < 3  # of unit variances


def test_a_resumed_run_keeps_its_units(run, tmp_path, monkeypatch, rows, script):
    """Also one of 0.1, which knew none."""
    state = read_checkpoint(find_checkpoint(str(run), "last"))
    assert len(state["hyper_parameters"]["spec"]["scale"]) == 3
    np.save(tmp_path / "x.npy", rows[:100] / SPREAD - CENTRE / SPREAD)
    options = ["--data", "x.npy", "--model", "vae", "--data.batch_size", "16", "--model.latent_dim", "2"]
    script("fit", *options, "--data.standardize", "false", "--steps", "4", "--trainer.accelerator", "cpu")
    (old,) = tmp_path.glob("tb_logs/*/version_0")
    config = (old / "config.yaml").read_text()
    assert "standardize: false" in config
    make_older(old, "standardize")
    said = script("fit", "--resume", old, "--steps", "8").stdout
    assert "columns are standardized" not in said
    assert load(find_checkpoint(str(old), "last")).spec.scale == ()


def test_a_run_that_diverges_before_its_first_step_looks_at_the_data(tmp_path, script, rows):
    np.save(tmp_path / "x.npy", np.full((200, 3), 1e30) * np.random.default_rng(0).normal(size=(200, 3)))
    options = ["--data", "x.npy", "--model", "vae", "--data.batch_size", "16", "--trainer.accelerator", "cpu"]
    said = script("fit", *options, "--data.standardize", "false", "--steps", "4", ok=False)
    assert said.returncode == 2
    assert "before a step was taken" in said.stderr and "smaller --model.lr" not in said.stderr
    script("fit", *options, "--steps", "4")
