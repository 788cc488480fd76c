"""Models that are told the class: training, asking for a class, pictures by class, and mistakes."""

import pytest
import torch
from PIL import Image

from lightning_gen.commands import fit, reconstruct
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.pictures import views
from lightning_gen.presets import PRESETS
from lightning_gen.storage.checkpoints import load
from lightning_gen.training.evaluation_mode import evaluation_mode


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(Digits().spec, latent_dim=4, network="mlp", conditional=True).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cvae that has learned digits a little."""
    from lightning_gen.config import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cvae"))
        arguments = ["--model", "cvae", "--steps", "600", "--val_every", "600"]
        return fit.train(cli.resolve_config(*parse_short_options(arguments))).resolve()


@torch.no_grad()
def test_the_class_reaches_encoder_and_decoder(model):
    x, z = torch.zeros(3, 1, 8, 8), torch.zeros(3, 4)
    y = torch.tensor([0, 1, 2])
    assert len(model.encode(x, y).unique(dim=0)) == 3
    assert len(model.decode(z, y).flatten(1).unique(dim=0)) == 3


@torch.no_grad()
def test_samples_without_a_class_take_all_in_turn(model):
    turns = model.sample(25, seed=1)
    asked = model.sample(25, y=torch.arange(25) % 10, seed=1)
    assert torch.equal(turns, asked)
    assert torch.allclose(model.sample(7, seed=1, start=18), turns[18:], atol=1e-5)


def test_a_conditional_model_learns_the_classes(run):
    """A classifier on real digits knows nearly every sample as the class that was asked for."""
    from lightning_gen.metrics.extractors import find_extractor

    model = load(run)
    y = torch.arange(200) % 10
    with evaluation_mode(model):
        samples = model.sample(200, y=y)
    extractor = find_extractor("digits_v1", "digits", model.spec)
    _, log_probs = extractor.features_and_log_probs(((samples + 1) * 127.5).round().byte())
    assert (log_probs.argmax(1) == y).float().mean() > 0.6  # by chance 0.1


def test_pictures_have_a_column_for_each_class(run):
    model, data = load(run), Digits()
    data.setup()
    batch = data.examples("val", torch.arange(6))
    with evaluation_mode(model):
        shown = dict(views.draw_all(model, batch, seed=0))
    assert {"samples", "class_swaps", "reconstructions"} <= set(shown)
    height, width = shown["samples"].shape[1:]
    tile = 56 + 2
    assert (height, width) == (8 * tile + 2, 10 * tile + 2)
    assert shown["class_swaps"].shape[1:] == (6 * tile + 2, 11 * tile + 2)


def test_a_swap_into_its_own_class_is_the_reconstruction(run):
    model, data = load(run), Digits()
    data.setup()
    batch = data.examples("val", torch.arange(1))
    with evaluation_mode(model):
        swaps = views.class_swaps(model, batch["x"], batch["y"]).float()
        rebuilt = views.sheet(model.reconstruct(batch["x"], batch["y"]), model.spec, columns=1).float()
    left = (1 + int(batch["y"])) * (56 + 2) + 2
    own = swaps[:, 2:58, left : left + 56]
    assert (own - rebuilt[:, :56, :56]).abs().max() <= 1 or (own - rebuilt[:, 2:58, 2:58]).abs().max() <= 1


def test_reconstruct_needs_the_class(run, tmp_path):
    picture = tmp_path / "three.png"
    Image.new("L", (8, 8), 128).save(picture)
    for label, said in (
        ([], "no --class: this model needs one of 0 to 9"),
        (["--class", "10"], "unknown class '10': known: 0 to 9"),
    ):
        with pytest.raises(UserError, match=said):
            reconstruct.main([str(run), str(picture), "--out", str(tmp_path / "out"), *label])
    reconstruct.main([str(run), str(picture), "--out", str(tmp_path / "out"), "--class", "3"])
    assert (tmp_path / "out" / "three.png").exists()


def test_mistakes(model):
    with pytest.raises(UserError, match="no class labels: take data with labels"):
        VAE(DataSpec(shape=(1, 8, 8)), conditional=True)
    with pytest.raises(UserError, match="class 3 to 10: possible are 2 ids from 0 to 9"):
        model.sample(2, y=torch.tensor([3, 10]))
    with pytest.raises(UserError, match="1 class ids for 2 samples"):
        model.sample(2, y=torch.tensor([3]))
    with pytest.raises(UserError, match="give the class of each example, 0 to 9"):
        model.encode(torch.zeros(1, 1, 8, 8))
    plain = VAE(Digits().spec, network="mlp")
    with pytest.raises(UserError, match="knows no classes: take a conditional one, such as cvae"):
        plain.sample(1, y=torch.tensor([0]))
    assert PRESETS["cvae"].arguments["conditional"]
