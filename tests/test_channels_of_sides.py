"""Sides of different numbers of channels: grey to colour, masks to pictures, and the way back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_resume import StopAt, same

from lightning_gen.datamodules import UserError
from lightning_gen.datamodules.outline_shapes import COLOURS, SHAPES, draw, paint
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.unpaired import Unpaired
from lightning_gen.exits import Stopped
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.models.pix2pix import Pix2Pix
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load, read_checkpoint

SPLITS = ("train", "val", "test")
GREYS = (60, 120, 180)  # of the masks, for each shape
GREY_TO_COLOUR = {"channels": 1, "channels_b": 3}
MODEL = {
    "network_args": {"width": 8},
    "critic_args": {"width": 8, "layers": 2},
    "lr": 2e-3,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """48 masks whose grey level says the shape, and coloured pictures of them, each shape of its own colour."""
    folder = tmp_path_factory.mktemp("sides")
    shapes = draw(48, seed=5)
    inside = paint(shapes, 16, filled=True, black=True)[:, 0] < 128  # (N, 16, 16)
    for side in "ab":
        (folder / side).mkdir()
    for k, shape in enumerate(shapes.shape.tolist()):
        assert shape < len(SHAPES)
        mask = np.where(inside[k], GREYS[shape], 0).astype(np.uint8)
        picture = np.where(inside[k][..., None], COLOURS[2 * shape], 255).astype(np.uint8)
        Image.fromarray(mask).save(folder / "a" / f"{k}.png")
        Image.fromarray(picture).save(folder / "b" / f"{k}.png")
        both = np.concatenate([np.stack([mask] * 3, 2), picture], 1)
        (folder / "rows").mkdir(exist_ok=True)
        Image.fromarray(both).save(folder / "rows" / f"{k}.png")
    return folder


def options(folders, **more):
    base = {"a": str(folders / "a"), "b": str(folders / "b"), "size": 16, "batch_size": 16, "num_workers": 0}
    return {**base, **GREY_TO_COLOUR, **more}


def whole(data, split):
    """All stored examples of a split."""
    data.setup()
    return data._splits[split].fetch(torch.arange(data.size(split)))


def stored(path, mode):
    with Image.open(path) as image:
        x = torch.from_numpy(np.array(image.convert(mode)))
    return x[None] if mode == "L" else x.permute(2, 0, 1)


# Data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Paired, Unpaired])
@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_each_side_has_its_own_channels(folders, cls, memory):
    data = cls(**options(folders, memory=memory))
    assert (data.spec.shape, data.spec.shape_b) == ((1, 16, 16), (3, 16, 16))
    for split in SPLITS:
        batch = whole(data, split)
        for row, (a, b) in enumerate(zip(*(parts[split] for parts in data.parts), strict=False)):
            assert torch.equal(batch["a"][row], stored(a, "L")) and torch.equal(batch["b"][row], stored(b, "RGB"))
    assert data.report() is None, "nothing was converted"
    assert [data.side(side).spec.shape for side in "ab"] == [(1, 16, 16), (3, 16, 16)]
    assert torch.equal(
        data.side("b").examples("test", torch.arange(2))["x"][0, 0], data.examples("test", torch.arange(1))["b"][0, 0]
    )


@pytest.mark.parametrize("place", ["folders", "rows"])
def test_pairs_are_cropped_and_flipped_alike(folders, place):
    where = {"a": None, "b": None, "root": str(folders / "rows")} if place == "rows" else {}
    for direction in ("a2b", "b2a"):
        data = Paired(**options(folders, **where, size=8, load_size=16, flip=True, direction=direction))
        seen = [data.transform(batch, training=True) for batch in data.train_dataloader()]
        mask, picture = (torch.cat([batch[side] for batch in seen]) for side in ("ab" if direction == "a2b" else "ba"))
        assert (mask.shape[1:], picture.shape[1:]) == ((1, 8, 8), (3, 8, 8))
        assert torch.equal(mask[:, 0] > -1, picture.amin(1) < 1), "grey exactly where there is colour"


def test_without_channels_of_side_b_all_are_alike(folders):
    both = Paired(**options(folders, channels=3, channels_b=None))
    assert both.spec.shape == both.spec.shape_b == (3, 16, 16)
    assert both.spec == Paired(**options(folders, channels=3, channels_b=3)).spec
    both.setup()
    assert both.report() == f"48 grey images in {folders / 'a'} were converted to RGB"
    with pytest.raises(UserError, match=r"channels_b 2: possible are 1 \(grey\) and 3 \(colour\)"):
        Paired(**options(folders, channels_b=2))


def test_conversions_are_said_of_each_side(folders):
    data = Unpaired(**options(folders, channels=3, channels_b=1))
    data.setup()
    grey, colour = (
        f"48 {kind} images in {folders / side} were converted to {to}"
        for kind, side, to in (("grey", "a", "RGB"), ("colour", "b", "grey"))
    )
    assert data.report() == f"{grey}\n{colour}"
    rows = Paired(**options(folders, a=None, b=None, root=str(folders / "rows")))
    rows.setup()
    assert rows.report() == f"48 colour images in {folders / 'rows'} (left halves) were converted to grey"
    assert torch.equal(whole(rows, "test")["b"], whole(Paired(**options(folders, channels=3)), "test")["b"])


def test_memory_counts_the_channels_of_each_side(folders):
    size = 48 * 16 * 16 * (1 + 3) / 2**30
    for cls in (Paired, Unpaired):
        for memory, loaded in ((size, True), (0.999 * size, False)):
            data = cls(**options(folders, memory=memory, num_workers=1))
            data.setup()
            assert (data.num_workers == 0) is loaded


# Models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_pix2pix_learns(folders, direction, trainer):
    data = Paired(**options(folders, direction=direction))
    torch.manual_seed(0)
    model = Pix2Pix(data.spec, network="unet", terms={"l1": 100}, **MODEL, log_every=1)
    source, target = (1, 3) if direction == "a2b" else (3, 1)
    assert model.discriminator.body[0].in_channels == 4
    seen = []
    model.log_to_loggers = seen.append
    trainer(max_steps=60, limit_val_batches=0).fit(model, data)
    losses = [values["train/generator/l1"] for values in seen]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    made = model.eval().translate(torch.zeros(2, source, 16, 32))
    assert made.shape == (2, target, 16, 32)
    with pytest.raises(UserError, match=rf"takes pictures \(B, {source}, H, W\)"):
        model.translate(torch.zeros(2, target, 16, 16))


def cyclegan(folders):
    data = Unpaired(**options(folders, batch_size=4))
    torch.manual_seed(0)
    small = {"network": "resnet", "network_args": {"width": 4, "blocks": 1}, "critic_args": {"width": 4, "layers": 2}}
    return CycleGAN(data.spec, **small, terms={"cycle": 10}, pool=6, ema={"generators": 50.0}), data


def run(folders, folder, trainer, at=None, resume=False):
    model, data = cyclegan(folders)
    checkpoints = StopAt(folder, at, every=2)
    fit = trainer(
        max_steps=6,
        max_epochs=-1,
        enable_checkpointing=True,
        callbacks=[checkpoints],
        plugins=AtomicCheckpointIO(),
        val_check_interval=3,
        limit_val_batches=1,
        check_val_every_n_epoch=None,
    )
    fit.fit(model, data, ckpt_path=folder / "last.ckpt" if resume else None, weights_only=True)
    return read_checkpoint(folder / "last.ckpt")


def test_cyclegan_resumes_bit_by_bit(folders, tmp_path, trainer):
    uninterrupted = run(folders, tmp_path / "whole", trainer)
    assert uninterrupted["state_dict"]["pool_a.images"].shape[1:] == (1, 16, 16)
    assert uninterrupted["state_dict"]["pool_b.images"].shape[1:] == (3, 16, 16)
    with pytest.raises(Stopped):
        run(folders, tmp_path / "parts", trainer, at=3)
    same(uninterrupted, run(folders, tmp_path / "parts", trainer, resume=True))
    again = load(tmp_path / "parts" / "last.ckpt")
    assert again.spec == Unpaired(**options(folders)).spec
    for direction, x in (("a2b", torch.randn(2, 1, 16, 16)), ("b2a", torch.randn(2, 3, 16, 16))):
        assert again.translate(x, direction).shape == (2, 4 - x.shape[1], 16, 16)


def test_another_number_of_channels_is_another_data_set(folders):
    before = Paired(**options(folders)).state_dict()
    with pytest.raises(UserError, match="shape of side b 3x16x16 -> 1x16x16"):
        Paired(**options(folders, channels_b=1)).load_state_dict(before)


# Commands ---------------------------------------------------------------------------------------------------------


def test_a_run_from_fit_to_evaluate(folders, script, tmp_path):
    data = ["--data", "paired", "--data.a", folders / "a", "--data.b", folders / "b", "--data.size", 16]
    small = ["--model.network_args.width", 4, "--model.critic_args", '{"width": 4, "layers": 2}']
    given = [*data, "--data.channels", 1, "--data.channels_b", 3, "--data.batch_size", 8, *small]
    said = script("fit", "--model", "pix2pix", *given, "--steps", 4, "--val_every", 2).stdout
    assert "examples of 1x16x16 and 3x16x16; 4 iterations" in said
    folder = tmp_path / "tb_logs/pix2pix-paired/version_0"
    with Image.open(folder / "translations.png") as picture:
        assert picture.mode == "RGB"
    script("translate", folder, folders / "a", "out")
    with Image.open(tmp_path / "out" / "3.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (16, 16))
    script("evaluate", folder, "--metrics", "fd", "pairs", "identity", "cycle")
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert {"a2b_fd_raw", "a2b_psnr", "a2b_ssim", "a2b_l1"} == set(content["values"]) and not content["failed"]
    assert set(content["inapplicable"]) == {"untranslated", "identity", "cycle"}
    refused = script("fit", "--model", "cyclegan", *given, "--steps", 1, ok=False)
    assert refused.returncode == 2 and "give --model.terms.identity null" in refused.stderr
    script("fit", "--resume", folder, "--steps", 6)
