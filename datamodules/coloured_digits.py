"""ColouredDigits: coloured digits on black and black digits on colour, a translation with known pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .digits import Digits
from .errors import UserError
from .order import derive_seed
from .pair_data import PairData, PairSource
from .sources import Source, Tensors
from .spec import DataSpec

COLOURS = ((255, 48, 48), (255, 208, 0), (64, 208, 64), (0, 208, 224), (72, 104, 255), (240, 64, 224))
TRAIN = 1300 // 2 * len(COLOURS)  # half of the digits for each side, in all colours
SMALLEST = 8  # pixels


def masks(x: Tensor, size: int) -> Tensor:
    """Digits (N, 1, 8, 8) uint8 with a border of one pixel, enlarged: (N, 1, size, size) in [0, 1]."""
    x = F.pad(x.double() / 255, (1, 1, 1, 1))  # double: rounds alike on all machines
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def paint(mask: Tensor, colour: Tensor, ground: bool) -> Tensor:
    """Digits in colour on black, or, for ``ground``, what is left of the colour: black digits on it.

    Args:
        mask: (N, 1, H, W) in [0, 1].
        colour: (N,) positions in ``COLOURS``.
        ground: colour the ground.

    Returns:
        (N, 3, H, W) uint8.
    """
    full = torch.tensor(COLOURS, dtype=torch.uint8)[colour].view(-1, 3, 1, 1)
    digit = (mask * full).round().to(torch.uint8)
    return full - digit if ground else digit


class ColouredDigits(PairData):
    """The digits of scikit-learn in six colours: a a coloured digit on black, b the same in black on that colour.

    The truth is known, b = colour - a, and one-to-one. Validation and test are such pairs, 200 and 297, a colour drawn
    for each; training shows half of the digits on one side and half on the other, each in all colours, 3,900 a side.
    If ``paired``, it shows the first half and their true other sides.

    Args:
        paired: train on pairs.
        size: height and width in pixels.
        options: those of every set of pairs, see ``PairData``.
    """

    def __init__(self, paired: bool = False, *, size: int = 32, **options: Any) -> None:
        super().__init__(**options)
        if size < SMALLEST:
            raise UserError(f"size {size}: give {SMALLEST} pixels or more")
        self.paired, self.side_length = paired, size

    def describe(self) -> DataSpec:
        """Two sides (3, size, size) uint8."""
        shape = (3, self.side_length, self.side_length)
        pairs = "all" if self.paired else "held_out"
        return DataSpec(shape=shape, size=TRAIN, shape_b=shape, pairs=pairs)

    def splits(self) -> dict[str, Source]:
        """Colour the digits of each split."""
        return {split: self._coloured(split, digits) for split, digits in Digits().splits().items()}

    def _coloured(self, split: str, digits: Source) -> PairSource:
        mask = masks(digits.fetch(torch.arange(len(digits)))["x"], self.side_length)
        if split == "train":
            digit, colour = torch.cartesian_prod(torch.arange(len(mask)), torch.arange(len(COLOURS))).unbind(1)
            first, second = slice(TRAIN), slice(TRAIN, None)
        else:
            digit = torch.arange(len(mask))
            generator = torch.Generator().manual_seed(derive_seed("coloured-digits", split))
            colour = torch.randint(len(COLOURS), digit.shape, generator=generator)
            first = second = slice(None)
        if self.paired:
            second = first
        a = paint(mask[digit[first]], colour[first], ground=False)
        b = paint(mask[digit[second]], colour[second], ground=True)
        return PairSource(*self.swap_for_direction(Tensors(x=a), Tensors(x=b)))
