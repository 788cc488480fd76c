"""Words beside pictures: a caption above one, labels of its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_gen.drawing.render import GROUND

SIZE, LEADING, MARGIN = 12, 16, 4  # of the letters, of a line, and round the text, in pixels
NARROW = 300  # a narrower picture is widened, so that a caption has some words in a line
INK = (64, 64, 64)


def captioned(picture: Tensor, text: str) -> Tensor:
    """A picture below its caption, whose lines are as wide as it is.

    Args:
        picture: uint8 (3, H, W).
        text: the caption; empty for none.

    Returns:
        uint8 (3, H + lines, max(W, 300)).
    """
    if not text:
        return picture
    picture = F.pad(picture, (0, max(0, NARROW - picture.shape[2])), value=GROUND)
    lines = _wrapped(text, picture.shape[2] - 2 * MARGIN)
    strip = _written(
        lines, LEADING * len(lines) + 2 * MARGIN, picture.shape[2], [LEADING * k for k in range(len(lines))]
    )
    return torch.cat([strip, picture], 1)


def with_row_labels(picture: Tensor, labels: Sequence[str]) -> Tensor:
    """A picture uint8 (3, H, W) of as many rows of equal heights as labels, each with its label on the left."""
    height = picture.shape[1] / len(labels)
    width = 2 * MARGIN + max(round(_font().getlength(label)) for label in labels)
    middles = [round(height * (k + 0.5) - LEADING / 2 - MARGIN) for k in range(len(labels))]
    return torch.cat([_written(labels, picture.shape[1], width, middles), picture], 2)


def _written(lines: Sequence[str], height: int, width: int, tops: Sequence[int]) -> Tensor:
    """White, uint8 (3, height, width), with lines of text at some heights."""
    image = Image.new("RGB", (width, height), (GROUND,) * 3)
    draw = ImageDraw.Draw(image)
    for line, top in zip(lines, tops, strict=True):
        draw.text((MARGIN, top + MARGIN), line, fill=INK, font=_font())
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words that are at most so many pixels wide, where single words are."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SIZE)
