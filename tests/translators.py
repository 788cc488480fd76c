"""Translators and segmenters that tests of translation hand to the scripts by import path."""

from typing import ClassVar

import torch
from torch import nn

from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.pair_data import PairData, PairSource
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.training.module import GenerativeModule

SPEC = DataSpec(shape=(3, 16, 16), size=4000, shape_b=(3, 16, 16), pairs="held_out")  # outline-shapes


def saved(model, folder, name="best"):
    """A run folder with the checkpoint of a model, as text."""
    path = folder / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True)
    about = {"model": f"{type(model).__module__}.{type(model).__qualname__}", "iteration": 7, "images": 56, "total": 7}
    parts = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "lightning_gen": about}
    torch.save(parts, path)
    return str(folder)


class Unchanged(GenerativeModule):
    """Both ways give the very pictures, grey ones in three channels where these are asked for."""

    players: ClassVar = {"all": ("layers",)}
    directions = ("a2b", "b2a")
    stride = 8

    def __init__(self, spec, **options):
        super().__init__(spec, **options)
        self.layers = nn.Conv2d(3, 3, 3, padding=1)
        self.feature_channels = []

    def loss_all(self, batch, shared):
        return self.layers(batch["a"]).mean(), {}

    def translate(self, x, direction="a2b"):
        assert all(side % self.stride == 0 for side in x.shape[2:])
        self.feature_channels.append(tuple(x.shape))
        channels = (self.spec.shape_b if direction == "a2b" else self.spec.shape)[0]
        return x.expand(-1, channels, -1, -1) if len(x[0]) == 1 else x[:, :channels]


class Mixing(Unchanged):
    """Knows one way, a random convolution."""

    directions = ("a2b",)

    def translate(self, x, direction="a2b"):
        return self.layers(x).tanh()


class BothMixing(Mixing):
    """Knows the way back, too: the negative."""

    directions = ("a2b", "b2a")

    def translate(self, x, direction="a2b"):
        return super().translate(x) if direction == "a2b" else -x


class Diverged(Unchanged):
    """Gives no numbers."""

    def translate(self, x, direction="a2b"):
        return x * float("nan")


class Perfect(Unchanged):
    """Knows the truth of every outline of the test pictures."""

    directions = ("a2b",)

    def translate(self, x, direction="a2b"):
        batch = OutlineShapes(size=16).examples("test", torch.arange(200))
        known = torch.cdist(x.flatten(1), batch["a"].flatten(1)).argmin(1)
        return batch["b"][known]


class GreyAndColour(PairData):
    """Pairs of a grey and a coloured picture 8x8."""

    def describe(self):
        return DataSpec(shape=(1, 8, 8), size=20, shape_b=(3, 8, 8), pairs="all")

    def splits(self):
        generator = torch.Generator().manual_seed(0)

        def some(channels):
            return Tensors(x=torch.randint(0, 256, (20, channels, 8, 8), generator=generator, dtype=torch.uint8))

        return {split: PairSource(*self.swap_for_direction(some(1), some(3))) for split in ("train", "val", "test")}


def brightness(x):
    """A segmenter of three classes: dark, grey and bright, (B, C, H, W) -> (B, 3, H, W)."""
    light = x.mean(1, keepdim=True)
    return torch.cat([-light, 0.4 - light.abs(), light], 1)


def flat(x):
    """No segmenter: one row of logits for each picture."""
    return x.flatten(1)
