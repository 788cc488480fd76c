"""Paired: the user's own pairs of images, side by side in one file or in two folders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .decode import open_picture
from .errors import UserError
from .images import ImageInfo
from .pair_files import PairFiles, look_at
from .pair_matching import NAME, Matched, match_files, match_pages, rule_of
from .reader import Reader
from .sources import Batch, Source
from .split_folders import Parts, split_folders, split_paths


class PairReader(NamedTuple):
    """How a pair becomes one array: ``reader(path) -> (C_a + C_b, H, W)``, side a first.

    Args:
        readers: how side a and side b become arrays.
        partners: file of side a -> file of side b; empty where a file holds both, a left and b right.
        swapped: side b first.
    """

    readers: tuple[Reader, Reader]
    partners: dict[str, str]
    swapped: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C_a + C_b, H, W)."""
        return sum(self.channels), *self.readers[0].shape[1:]

    @property
    def channels(self) -> tuple[int, ...]:
        """Of both sides, in the order in which they are stacked."""
        channels = tuple(reader.channels for reader in self.readers)
        return channels[::-1] if self.swapped else channels

    @property
    def dtype(self) -> torch.dtype:
        """Of the arrays."""
        return self.readers[0].dtype

    def __call__(self, path: str) -> np.ndarray:
        """Read both sides; raises whatever Pillow raises on a broken one."""
        if self.partners:
            sides = [self.readers[0](path), self._partner(self.partners[path])]
        else:
            both = open_picture(path, max_pixels=self.readers[0].max_pixels)
            half = both.size[1] // 2
            sides = [reader.array(both.columns(x, x + half)) for x, reader in zip((0, half), self.readers, strict=True)]
        return np.concatenate(sides[::-1] if self.swapped else sides)

    def _partner(self, path: str) -> np.ndarray:
        try:
            return self.readers[1](path)
        except Exception as error:  # known by the other file's name
            raise OSError(f"its partner {path}: {error}") from error


class Halves:
    """Pairs whose two sides are stacked along the channels, as ``{"a", "b", "index"}``.

    Args:
        source: with "x" (B, C_a + C_b, H, W).
        channels: C_a and C_b.
    """

    def __init__(self, source: Source, channels: tuple[int, ...]) -> None:
        self.source, self.channels = source, channels

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, index: Tensor) -> Batch:
        """``a`` (B, C_a, H, W) and ``b`` (B, C_b, H, W)."""
        batch = self.source.fetch(index)
        a, b = batch.pop("x").split(self.channels, 1)
        return {"a": a, "b": b, **batch}


class Paired(PairFiles):
    """Your own pairs of images, such as labels and photographs.

    ``--data.root FOLDER`` of pictures that hold both sides, a left and b right, or ``--data.a FOLDER --data.b FOLDER``
    with equal names, where suffixes may differ, or names that ``match`` brings together. Subfolders train, val and test
    are the splits; what has no folder is held out of the training pairs by a hash of their names. A pair of which one
    side cannot be read is left out. Images may be of any size and mode; see ``PairFiles`` for the options. Both sides
    are cropped and flipped alike.

    Args:
        a: folder of side a.
        b: folder of side b.
        root: in place of both, the folder of side-by-side pictures.
        match: how partners are found in two folders: by "name", by "order", the n-th of a with the n-th of b (of names
            sorted by their numbers), or by a regular expression, whose first group, or whole match, finds in the path
            without its suffix the key that partners share.
        options: those of all sets of two sides of image files, see ``PairFiles``.
    """

    layout = "side-by-side pictures"
    is_paired = True

    def __init__(
        self, a: str | None = None, b: str | None = None, root: str | None = None, *, match: str = NAME, **options: Any
    ) -> None:
        super().__init__(a, b, root, **options)
        self.match, self.rule = match, rule_of(match)
        if root is not None and match != NAME:
            raise UserError(
                f"--data.match {match} finds partners in two folders, and a file of --data.root {root} holds both "
                "sides: leave it out, or give --data.a FOLDER --data.b FOLDER"
            )

    @cached_property
    def matched(self) -> Matched:
        """The pairs of two folders; none where a file holds both sides."""
        return Matched({}) if self.folders is None else match_files(self.rule, *self.folders)

    @cached_property
    def partners(self) -> dict[str, str]:
        """File of side a -> file of side b; empty where a file holds both."""
        pairs = self.matched.partners
        return pairs if self.pages == "first" else match_pages(pairs)

    @cached_property
    def parts(self) -> tuple[Parts, Parts]:
        """Paths of both sides' images; the same ones where a file holds both."""
        folder = self.root if self.folders is None else self.folders[0]
        assert folder is not None
        other = self.partners  # first, so that unequal names are reported before anything else
        a = self.with_pages(split_paths(split_folders(folder), self.val_fraction, self.matched.alone))
        return a, {split: [other.get(path, path) for path in paths] for split, paths in a.items()}

    def excluded_files(self) -> frozenset[str]:
        """Files that are in no pair."""
        return self.matched.alone

    def notices(self) -> list[str]:
        """Also pairs that are a guess, and files that are in none."""
        return [*super().notices(), *self.matched.notices]

    def identity(self) -> dict[str, Any]:
        """Of two folders also how their pairs were found."""
        return super().identity() | ({} if self.folders is None else {"match": self.match})

    def splits(self) -> dict[str, Source]:
        """Read the pairs, or prepare to read them batch by batch."""
        if self.folders is None:
            self._check_halves()
        else:
            self._check_folders(*self.folders)
        readers = self.in_range(self.reader), self.in_range(self.reader_b)
        reader = PairReader(readers, self.partners, self.direction == "b2a")
        loaded = self.fits_in_memory((reader, sum(map(len, self.parts[0].values()))))
        parts = self.parts[0].items()
        return {
            split: Halves(self.source(reader, paths, split == "train", loaded), reader.channels)
            for split, paths in parts
        }

    def _check_halves(self) -> None:
        """Raises UserError for a picture that cannot be two sides."""
        looks = look_at(self.parts[0])
        odd = [path for path, seen in looks.items() if seen.width % 2]
        if odd:
            raise UserError(
                f"{len(odd)} of {len(looks)} pictures in {self.root} have an odd width and no two halves, the first: "
                f"{odd[0]}, {looks[odd[0]].width} wide; sides in two folders are given by --data.a and --data.b"
            )
        looks = {path: seen._replace(width=seen.width // 2) for path, seen in looks.items()}
        for path, seen in looks.items():
            proportion = (seen.width / seen.height) / (self.width / self.height)
            if self.reader.crop == "center" and not 0.5 < proportion < 2:
                raise UserError(
                    f"half of {path} is {seen.height} high and {seen.width} wide, which does not fit size "
                    f"{self.height}x{self.width}: is it two pictures side by side? try another --data.size, or "
                    "--data.crop stretch; sides in two folders are given by --data.a and --data.b"
                )
        channels = [reader.channels for reader in (self.reader, self.reader_b)]
        halves = ["halves"] if channels[0] == channels[1] else ["left halves", "right halves"]
        for half, count in zip(halves, channels, strict=False):
            self.count_converted(looks, count, f"{self.root} ({half})")
        self.check_image_sizes(looks, f"{self.root} (halves)")

    def _check_folders(self, a: Path, b: Path) -> None:
        """Raises UserError for two pictures that the crop would move against each other."""
        looks = tuple(look_at(parts) for parts in self.parts)
        for path, partner in self.partners.items():
            own, other = looks[0].get(path), looks[1].get(partner)
            if own and other and self.reader.crop == "center" and not alike(own, other):
                raise UserError(
                    f"{path} is {own.height} high and {own.width} wide, {partner} {other.height} and {other.width}: "
                    "the sides of a pair need equal proportions; --data.crop stretch makes them equal"
                )
        for seen, reader, folder in zip(looks, (self.reader, self.reader_b), (a, b), strict=True):
            self.count_converted(seen, reader.channels, str(folder))
            self.check_image_sizes(seen, str(folder))


def alike(a: ImageInfo, b: ImageInfo) -> bool:
    """Whether two pictures have equal proportions, but for a pixel."""
    return abs(a.height * b.width - b.height * a.width) <= max(*a[:2], *b[:2])
