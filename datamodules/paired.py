"""Paired: the user's own pairs of images, side by side in one file or under one name in two folders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .decode import open_picture
from .errors import UserError
from .image_files import list_images
from .images import ImageInfo
from .pages import pages_named, pages_of
from .pair_files import PairFiles, look_at
from .reader import Reader
from .sources import Batch, Source
from .split_folders import Parts, split_folders, split_paths


class PairReader(NamedTuple):
    """How a pair becomes one array: ``reader(path) -> (2 C, H, W)``, side a first.

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
        """(2 C, H, W)."""
        channels, height, width = self.readers[0].shape
        return 2 * channels, height, width

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
        source: with "x" (B, 2 C, H, W).
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, index: Tensor) -> Batch:
        """``a`` and ``b`` (B, C, H, W)."""
        batch = self.source.fetch(index)
        a, b = batch.pop("x").chunk(2, 1)
        return {"a": a, "b": b, **batch}


def by_stem(folder: Path) -> dict[str, str]:
    """Name without its suffix -> path, of all images in a folder.

    Raises:
        UserError: two images differ by their suffix alone.
    """
    found: dict[str, str] = {}
    for name in list_images(folder):
        stem = Path(name).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{folder / name} and {found[stem]} have one name: which one is in the pair?")
        found[stem] = str(folder / name)
    return found


def match_by_stem(a: Path, b: Path) -> dict[str, str]:
    """File of side a -> file of side b, of equal names but for the suffix.

    Raises:
        UserError: a name has no counterpart.
    """
    sides = by_stem(a), by_stem(b)
    alone = [sorted(own.keys() - other.keys()) for own, other in (sides, sides[::-1])]
    if any(alone):
        said = (
            f"{len(names)} only in {folder}" + (f" ({', '.join(names[:5])}{', ...' * (len(names) > 5)})" * bool(names))
            for names, folder in zip(alone, (a, b), strict=True)
        )
        raise UserError(f"pairs need equal names, suffixes may differ: {' and '.join(said)}")
    return {path: sides[1][stem] for stem, path in sides[0].items()}


def match_pages(pairs: dict[str, str]) -> dict[str, str]:
    """Page of side a -> page of side b, of the same number, from files that belong together.

    Raises:
        UserError: two of them hold unequal numbers of pages.
    """
    pages = pages_of([*pairs, *pairs.values()])
    matched: dict[str, str] = {}
    for a, b in pairs.items():
        own, other = pages_named(a, pages.get(a, 1)), pages_named(b, pages.get(b, 1))
        if len(own) != len(other):
            raise UserError(
                f"{a} holds {len(own):,} pages and its partner {b} {len(other):,}: pairs need as many, or --data.pages "
                "first, which takes the first of each"
            )
        matched |= dict(zip(own, other, strict=True))
    return matched


class Paired(PairFiles):
    """Your own pairs of images, such as labels and photographs.

    ``--data.root FOLDER`` of pictures that hold both sides, a left and b right, or ``--data.a FOLDER --data.b FOLDER``
    with equal names, where suffixes may differ. Subfolders train, val and test are the splits; what has no folder is
    held out of the training pairs by a hash of their names. A pair of which one side cannot be read is left out. Images
    may be of any size and mode; see ``PairFiles`` for the options. Both sides are cropped and flipped alike.
    """

    layout = "side-by-side pictures"
    is_paired = True

    @cached_property
    def partners(self) -> dict[str, str]:
        """File of side a -> file of side b; empty where a file holds both."""
        if self.folders is None:
            return {}
        pairs = match_by_stem(*self.folders)
        return pairs if self.pages == "first" else match_pages(pairs)

    @cached_property
    def parts(self) -> tuple[Parts, Parts]:
        """Paths of both sides' images; the same ones where a file holds both."""
        folder = self.root if self.folders is None else self.folders[0]
        assert folder is not None
        other = self.partners  # first, so that unequal names are reported before anything else
        a = self.with_pages(split_paths(split_folders(folder), self.val_fraction))
        return a, {split: [other.get(path, path) for path in paths] for split, paths in a.items()}

    def splits(self) -> dict[str, Source]:
        """Read the pairs, or prepare to read them batch by batch."""
        if self.folders is None:
            self._check_halves()
        else:
            self._check_folders(*self.folders)
        readers = self.in_range(self.reader), self.in_range(self.reader_b)
        reader = PairReader(readers, self.partners, self.direction == "b2a")
        loaded = self.fits_in_memory(reader, sum(map(len, self.parts[0].values())))
        parts = self.parts[0].items()
        return {split: Halves(self.source(reader, paths, split == "train", loaded)) for split, paths in parts}

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
        for seen, folder in zip(looks, (a, b), strict=True):
            self.check_image_sizes(seen, str(folder))


def alike(a: ImageInfo, b: ImageInfo) -> bool:
    """Whether two pictures have equal proportions, but for a pixel."""
    return abs(a.height * b.width - b.height * a.width) <= max(*a[:2], *b[:2])
