"""ImageFiles: base class of data sets of image files, from the list of a folder to the count of broken files."""

from __future__ import annotations

import math
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .base import DataModule
from .decode import MAX_PIXELS, SUFFIXES
from .errors import UserError, unknown
from .images import Files, Reads, read_all, to_size
from .listing import left_out, list_pictures
from .order import derive_seed
from .pages import PAGES, describe_pages, pages_of, split_page, with_pages
from .paths import printable
from .reader import CROPS, Reader, check_channels, check_interpolation, check_range
from .sources import Source, Tensors
from .value_range import ValueRange, find_range, use_of_range

ACCEPTED = f"{', '.join(SUFFIXES)} and whatever else Pillow reads"


def list_images(root: Path) -> list[str]:
    """Paths of the images below ``root``, relative, with forward slashes, sorted; hidden files are left out.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: expected images ({ACCEPTED}) in it, nested as you like")
    found = sorted(list_pictures(root))
    if not found:
        others = left_out([root])
        there = f"; there are {others}" if others else ""
        raise UserError(f"no image in {root}: looked for {ACCEPTED} in it and all folders below{there}")
    return found


def split_by_hash(names: list[str], fraction: float) -> dict[str, list[int]]:
    """Positions of the train, val and test names; a name keeps its split when others are added.

    Train is never empty, and from three names on neither are val and test: the smallest hashes fill them.

    Args:
        names: all different.
        fraction: expected share of val, and of test.
    """
    score = {k: derive_seed(name) / 2**56 for k, name in enumerate(names)}
    ranked = sorted(score, key=lambda k: score[k])
    test = sum(s < fraction for s in score.values())
    val = sum(fraction <= s < 2 * fraction for s in score.values())
    if len(names) >= 3:
        test = min(max(test, 1), len(names) - 2)
        val = min(max(val, 1), len(names) - 1 - test)
    else:
        val = test = 0
    parts = {"train": ranked[test + val :], "val": ranked[test : test + val], "test": ranked[:test]}
    return {name: sorted(part) for name, part in parts.items()}


class ImageFiles(DataModule):
    """Images in files; the base of all sets that read such.

    Any size and mode will do: transparent parts become white, EXIF rotation is applied. Values of 8 bits are uint8.
    Where any file is deeper, all are float32 in one range, that of the deepest files, and shallower ones are widened to
    it; outputs are in this range, too. Images that fit into ``memory`` are read once; more are read by ``num_workers``
    processes as they are needed.

    Args:
        size: height, or [height, width], in pixels.
        crop: "center" cuts the largest centred part of the right proportions, "stretch" takes the whole image.
        channels: 3 for colour, 1 for grey.
        on_error: "skip" leaves out images that cannot be read, and says so once, "raise" stops.
        range: lowest and highest value, where files use less than their depth allows, as 0 4095 of 16 bits, and for
            floats, which are measured over the training images otherwise; what lies outside is cut.
        interpolation: bicubic, bilinear, box, lanczos, or nearest, which keeps the colours of label maps.
        max_pixels: most pixels of an image; larger ones are not decoded.
        val_fraction: share of the images for validation, and the same for test; the rest is for training.
        pages: of files of several pages, and of animations, the "first" page or frame, or "all" of them, which are in
            one split then.
        memory: GiB that the decoded images may take.
        num_workers: processes that read images of folders too large for memory; 0 reads in the main process.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(
        self,
        *,
        size: int | list[int] = 64,
        crop: Literal["center", "stretch"] = "center",
        channels: int = 3,
        on_error: Literal["skip", "raise"] = "skip",
        range: list[float] | None = None,
        interpolation: str = "bicubic",
        max_pixels: int = MAX_PIXELS,
        val_fraction: float = 0.1,
        pages: Literal["first", "all"] = "first",
        memory: float = 2.0,
        num_workers: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **options)
        if crop not in CROPS:
            raise unknown("crop", crop, CROPS)
        if on_error not in ("skip", "raise"):
            raise unknown("on_error", on_error, ("skip", "raise"))
        if pages not in PAGES:
            raise unknown("pages", pages, PAGES)
        if not 0 < val_fraction < 0.5:
            raise UserError(f"val_fraction {val_fraction} must lie between 0 and 0.5")
        if max_pixels < 1:
            raise UserError(f"max_pixels {max_pixels} must be at least 1")
        self._given_range = check_range(range)
        shape = (*to_size(size), check_channels(channels))
        self.reader = Reader(*shape, crop, check_interpolation(interpolation), max_pixels=max_pixels)
        self.on_error, self.val_fraction, self.pages, self.memory = on_error, val_fraction, pages, memory
        self.skipped: dict[str, str] = {}
        self._is_loading = self._has_told = False

    def folders_and_files(self) -> tuple[list[Path], list[str]]:
        """The user's folders, and the paths of the images in them that are data; a set tells its own."""
        return [], []

    def example_files(self) -> dict[str, str]:
        """The images, each named by its way from the folder; of two folders it starts with a or b."""
        roots, paths = self.folders_and_files()
        places = [os.path.join(os.fspath(root), "") for root in roots]
        sides = {root: f"{side}/" if len(places) > 1 else "" for root, side in zip(places, "ab", strict=False)}
        files = dict.fromkeys(split_page(path)[0] for path in paths)
        found = {path: next((root for root in places if path.startswith(root)), "") for path in files}
        return {sides.get(root, "") + path.removeprefix(root): path for path, root in found.items()}

    def with_pages(self, parts: dict[str, list[str]]) -> dict[str, list[str]]:
        """Split -> paths of its files, with their pages in the place of files of several, where all are to be taken."""
        if self.pages == "first":
            return parts
        pages = pages_of([path for paths in parts.values() for path in paths])
        return {split: with_pages(paths, pages) for split, paths in parts.items()}

    def excluded_files(self) -> frozenset[str]:
        """The paths of images that are no data for a reason that a set tells by itself."""
        return frozenset()

    def training_files(self) -> list[str]:
        """The paths of the images that are trained on; a set tells its own."""
        return self.folders_and_files()[1]

    @cached_property
    def value_range(self) -> ValueRange:
        """The range of the values of all files, read from their headers; floats are measured."""
        files = sorted(set(self.folders_and_files()[1]))
        return find_range(files, self.training_files(), self._given_range, self.reader.max_pixels)

    def in_range(self, reader: Reader) -> Reader:
        """A reader of images in the range of the data set."""
        return reader._replace(range=self.value_range.range, bits=self.value_range.bits)

    def notices(self) -> list[str]:
        """The range of the values, which files of the folders are left out, and which pages of files."""
        roots, taken = self.folders_and_files()
        files = {split_page(path)[0] for path in taken}
        hint = "; --data.pages all takes them too"
        others = left_out(roots, files | self.excluded_files())
        pages = describe_pages(pages_of(sorted(files)), self.pages == "all", hint)
        used = use_of_range(self.training_files(), self.value_range, self.reader.max_pixels)
        lines = [*self.value_range.notices, *used, *pages]
        return [*super().notices(), *lines, *([f"left out: {others}"] if others else [])]

    def setup(self, stage: str | None = None) -> None:
        """Load all splits, once, and tell of images that could not be read."""
        self._is_loading = True
        try:
            super().setup(stage)
        finally:
            self._is_loading = False
        self._tell_skipped()

    def record_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Count each unreadable image once, or stop."""
        for path, reason in skipped:
            if self.on_error == "raise":
                raise UserError(f"cannot read {path} ({reason}); --data.on_error skip leaves such images out")
            self.skipped.setdefault(path, reason)
        if not self._is_loading:  # then all of them are told at once
            self._tell_skipped()

    def _tell_skipped(self) -> None:
        """One line, once, and of several processes by the first."""
        if not self.skipped or self._has_told or (self.trainer is not None and self.trainer.global_rank):
            return
        self._has_told = True
        (path, reason), more = next(iter(self.skipped.items())), len(self.skipped) - 1
        others = f"; so are {more:,} more" if more else ""
        print(printable(f"skipped {path}: cannot be read ({reason}){others}"), file=sys.stderr)

    def gather_skipped(self) -> None:
        """Files that were read by other processes alone are counted by each of them."""
        group = torch.distributed
        if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            everywhere: list[Any] = [None] * group.get_world_size()
            group.all_gather_object(everywhere, self.skipped)
            for found in everywhere:
                self.skipped |= {path: reason for path, reason in found.items() if path not in self.skipped}

    def skipped_summary(self, what: str) -> str | None:
        """How many of ``what`` were skipped, and which, if any."""
        if not self.skipped:
            return None
        some = ", ".join(list(self.skipped)[:5]) + (", ..." if len(self.skipped) > 5 else "")
        return f"{len(self.skipped)} of {what} could not be read: {some}"

    def fits_in_memory(self, *images: tuple[Reads, int]) -> bool:
        """Whether so many images of each reader fit; then no workers are needed."""
        size = sum(count * math.prod(reader.shape) * reader.dtype.itemsize for reader, count in images)
        fits = size <= self.memory * 2**30
        if fits:
            self.num_workers = 0
        return fits

    def source(self, reader: Reads, paths: list[str], training: bool, loaded: bool, y: Tensor | None = None) -> Source:
        """The images of one split.

        Args:
            reader: how to read one.
            paths: the files.
            training: of training, where a broken image is replaced by the next and one must be readable.
            loaded: read them now.
            y: (N,) class ids, if any.
        """
        if not loaded:
            return Files(reader, paths, y, training)
        x, kept, skipped = read_all(reader, paths)
        self.record_skipped(skipped)
        if training and not len(kept):
            path, reason = skipped[0]
            where = os.path.commonpath([os.path.dirname(path) for path in paths])
            raise UserError(f"none of the training images in {where} could be read; the first: {path} ({reason})")
        return Tensors(x=x) if y is None else Tensors(x=x, y=y[kept])
