"""Differentiable augmentation (Zhao et al. 2020): the same augmentation of real and generated images.

The change is part of the discriminator's view, so the gradient of the generator goes through it, and the generator
learns the distribution whose augmented images look real, not the augmented images. For that a change must leave a trace
where it loses something: the border that ``translation`` uncovers and what ``cutout`` removes have the value 0, the
middle of [-1, 1], as in the paper. On digits this gives grey bars, which are intended: they show how far a digit was
translated. With black ones a digit generated off-centre would look like a translated one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.names import join_nested_paths, resolve
from lightning_gen.schedule import Schedule, schedule

FILL = 0.0  # of pixels that are lost, see above
MAX_TRANSLATION = 0.125  # of a translation: share of the side
LEAVES = frozenset({"probability", "function"})  # keys by which options are distinguished from an import path
CUTOUT_SIZE = 0.5  # side of what is cut out: share of the image's side

Function = Callable[[Tensor, Tensor], Tensor]


class Augmentation(NamedTuple):
    """A row of the table of augmentations.

    Args:
        function: of images x (B, C, H, W) in [-1, 1] and u (B, numbers), uniform in [0, 1]; it gives (B, C, H, W), each
            image from its own row of u alone, and differentiable in x.
        numbers: random numbers that one image takes.
    """

    function: Function
    numbers: int


def color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness, saturation (of RGB images) and contrast, in this order; the result may leave [-1, 1].

    Brightness adds b in [-0.5, 0.5]; saturation multiplies the difference from the mean over the channels by s in
    [0, 2], contrast that from the mean over the whole image by c in [0.5, 1.5].

    Args:
        x: (B, C, H, W).
        u: (B, 3), for b, s and c.
    """
    brightness, saturation, contrast = u[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    x = x + (brightness - 0.5)
    if x.shape[1] % 3 == 0:
        colours = x.unflatten(1, (-1, 3))  # (B, C / 3, 3, H, W): of pictures beside each other each has its own grey
        x = _stretch(colours, (2,), 2 * saturation.unsqueeze(1)).flatten(1, 2)
    return _stretch(x, (1, 2, 3), contrast + 0.5)


def _stretch(x: Tensor, dims: tuple[int, ...], factor: Tensor) -> Tensor:
    """Multiply the differences from the mean over ``dims``."""
    mean = x.mean(dims, keepdim=True)
    return mean + factor * (x - mean)


def translation(x: Tensor, u: Tensor) -> Tensor:
    """Shift down and right by whole pixels, each uniform in [-side/8, side/8] rounded; the border is ``FILL``.

    Args:
        x: (B, C, H, W).
        u: (B, 2), for the rows and for the columns.
    """
    height, width = x.shape[2:]
    rows, row_inside = _origin(height, u[:, 0])
    columns, column_inside = _origin(width, u[:, 1])
    place = rows.unsqueeze(2) * width + columns.unsqueeze(1)  # (B, H, W) of each pixel, where it comes from
    inside = (row_inside.unsqueeze(2) & column_inside.unsqueeze(1)).unsqueeze(1)  # (B, 1, H, W)
    moved = x.flatten(2).gather(2, place.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))  # (B, C, H * W)
    return torch.where(inside, moved.view(x.shape), FILL)


def _origin(side: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels (B, side) of one axis come from, and whether that is inside; u (B,)."""
    reach = int(side * MAX_TRANSLATION + 0.5)
    origin = torch.arange(side, device=u.device) - (_whole(u, 2 * reach + 1) - reach).unsqueeze(1)
    return origin.clamp(0, side - 1), (origin >= 0) & (origin < side)


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Set a rectangle of half the height and half the width to ``FILL``; its centre is anywhere in the image.

    Args:
        x: (B, C, H, W).
        u: (B, 2), for the row and for the column of the centre.
    """
    height, width = x.shape[2:]
    inside = _hole(height, u[:, 0]).unsqueeze(2) & _hole(width, u[:, 1]).unsqueeze(1)  # (B, H, W)
    return torch.where(inside.unsqueeze(1), FILL, x)


def _hole(side: int, u: Tensor) -> Tensor:
    """Which pixels (B, side) of one axis are cut out; u (B,)."""
    size = int(side * CUTOUT_SIZE + 0.5)
    first = _whole(u, side + 1 - size % 2) - size // 2  # an even hole has its centre between two pixels
    offset = torch.arange(side, device=u.device) - first.unsqueeze(1)
    return (offset >= 0) & (offset < size)


def _whole(u: Tensor, count: int) -> Tensor:
    """Uniform in [0, 1] -> uniform in 0..count - 1, int64 of the same shape."""
    return (u * count).long().clamp_max(count - 1)  # u may be 1 after rounding


AUGMENTATIONS: dict[str, Augmentation] = {
    "color": Augmentation(color, 3),
    "translation": Augmentation(translation, 2),
    "cutout": Augmentation(cutout, 2),
}


class Augment:
    """Random changes of images, each applied to a share of them; without parameters, and without randomness of its own.

    An adaptive controller attaches at ``chances``: it gives its own probabilities instead of those of ``schedules``.

    Example:
        >>> augment = Augment({"color": 1.0, "cutout": "0..0.5@1000"})
        >>> chances = {name: ramp(500) for name, ramp in augment.schedules.items()}
        >>> augment(torch.zeros(4, 1, 8, 8), torch.randn(4, augment.numbers), chances).shape
        torch.Size([4, 1, 8, 8])

    Args:
        given: name -> probability, a number or a ramp, applied in this order; None removes one. A name is of
            ``AUGMENTATIONS`` or the import path of an ``Augmentation``. A function of your own goes in as
            {"mine": {"probability": 0.5, "function": mine, "numbers": 2}}, by itself or by its import path.

    Raises:
        UserError: for an unknown name, what is no augmentation, and a probability outside [0, 1].
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.schedules: dict[str, Schedule] = {}
        self.policies: dict[str, Augmentation] = {}
        if not isinstance(given, Mapping):
            raise UserError(f"augment {given!r}: give names with probabilities, such as {{'color': 1, 'cutout': 0.5}}")
        for name, value in join_nested_paths(given, AUGMENTATIONS, LEAVES):
            if value is None:
                continue
            options = dict(value) if isinstance(value, Mapping) else {"probability": value}
            self.schedules[name] = _probability(name, options.pop("probability", None))
            self.policies[name] = _augmentation(name, **options)
        self._widths = [1 + policy.numbers for policy in self.policies.values()]
        self.numbers = sum(self._widths)  # that one image takes

    def __call__(self, x: Tensor, noise: Tensor, chances: Mapping[str, float | Tensor]) -> Tensor:
        """Change the images; the same noise changes any images in the same way.

        Args:
            x: (B, C, H, W) in [-1, 1].
            noise: (B, numbers) standard normal.
            chances: name -> probability now, of every policy.

        Returns:
            (B, C, H, W) of the dtype of x; an image that no policy is applied to stays as it is, bit for bit.

        Raises:
            UserError: an augmentation gives another shape.
        """
        assert noise.shape == (len(x), self.numbers), f"noise {tuple(noise.shape)}, not ({len(x)}, {self.numbers})"
        parts = torch.special.ndtr(noise).split(self._widths, 1) if self._widths else ()
        for (name, policy), u in zip(self.policies.items(), parts, strict=True):
            changed = policy.function(x, u[:, 1:])
            if changed.shape != x.shape:
                raise UserError(f"augmentation {name!r} makes {tuple(changed.shape)} of {tuple(x.shape)}: keep shapes")
            acts = (u[:, 0] < chances[name]).view(-1, *[1] * (x.dim() - 1))
            x = torch.where(acts, changed.to(x.dtype), x)
        return x

    def check(self, spec: DataSpec) -> None:
        """Refuse data that cannot be augmented.

        Raises:
            UserError: a row of the table does not apply to data of this kind.
        """
        applicable = kind_of(spec).augmentations(spec)
        if wrong := [name for name in self.policies if name in AUGMENTATIONS and name not in applicable]:
            possible = f"take {', '.join(applicable)}" if applicable else "take none of the list"
            raise UserError(
                f"augment {', '.join(wrong)} is for images in [-1, 1]; these data are of kind {spec.kind!r} with "
                f"{spec.values!r} values, which {possible}: leave it out, or give a function of your own"
            )


def _probability(name: str, given: Any) -> Schedule:
    if given is None:
        raise UserError(f"augment {name!r} needs a probability: a number from 0 to 1, or a ramp such as '0..1@10000'")
    ramp = schedule(given)
    if not (0 <= ramp.first <= 1 and 0 <= ramp.end <= 1):
        raise UserError(f"augment {name!r} has the probability {given}: possible is 0 to 1")
    return ramp


def _augmentation(name: str, function: Any = None, numbers: Any = None, **unknown: Any) -> Augmentation:
    """The row of a name, or of a function and its count of random numbers."""
    if unknown:
        raise UserError(f"augment {name!r} has no option {min(unknown)!r}: they are probability, function, numbers")
    found: Any = resolve(name if function is None else function, AUGMENTATIONS, "augmentation")
    if isinstance(found, Augmentation):
        return found
    if not callable(found):
        raise UserError(f"augment {name!r} is {found!r}: give an Augmentation, or a function (x, u) -> x")
    if isinstance(numbers, bool) or not isinstance(numbers, int) or numbers < 0:
        raise UserError(
            f"augment {name!r} is a function with numbers={numbers!r}: say how many random numbers an image takes, as "
            f'{{"{name}": {{"probability": 1, "numbers": 2}}}}'
        )
    return Augmentation(found, numbers)
