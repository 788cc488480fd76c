"""Folder: the user's own images."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.base import DataModule
from datamodules.errors import UserError, unknown
from datamodules.images import CROPS, SUFFIXES, Files, Reader, read_all, to_size
from datamodules.order import mix
from datamodules.sources import Source, Tensors
from datamodules.spec import DataSpec

ACCEPTED = ", ".join(SUFFIXES)


def list_images(root: Path) -> list[str]:
    """Paths of the images below ``root``, relative, with forward slashes, sorted; hidden files are left out.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: --data takes a folder of images ({ACCEPTED}), nested as you like")
    found = []
    for folder, _, names in os.walk(root):
        images = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in images]
    if not found:
        raise UserError(f"no image in {root}: looked for {ACCEPTED} in it and all folders below")
    return sorted(found)


def split_by_hash(names: list[str], fraction: float) -> dict[str, list[int]]:
    """Positions of the train, val and test names; a name keeps its split when others are added.

    Train is never empty, and from three names on neither are val and test: the smallest hashes fill them.

    Args:
        names: all different.
        fraction: expected share of val, and of test.
    """
    score = {k: mix(name) / 2**56 for k, name in enumerate(names)}
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


class Folder(DataModule):
    """Your own images, in a folder nested as you like.

    Any size and mode will do: 16 bits are reduced to 8, transparent parts become white, EXIF rotation is applied.
    Where every image lies in one of at least two subfolders, the subfolders are the classes. The split follows from a
    hash of each image's path, so it stays when images are added. Images that fit into ``memory`` are read once; more
    are read by ``num_workers`` processes as they are needed.

    Args:
        root: the folder.
        size: height, or [height, width], in pixels.
        crop: "center" cuts the largest centred part of the right proportions, "stretch" takes the whole image.
        channels: 3 for colour, 1 for grey.
        on_error: "skip" warns of an image that cannot be read and leaves it out, "raise" stops.
        val_fraction: share of the images for validation, and the same for test; the rest is for training.
        memory: GiB that the decoded images may take.
        num_workers: processes that read images of folders too large for memory; 0 reads in the main process.
        options: those of every data set, see ``DataModule``.
    """

    def __init__(
        self,
        root: str,
        *,
        size: int | list[int] = 64,
        crop: Literal["center", "stretch"] = "center",
        channels: int = 3,
        on_error: Literal["skip", "raise"] = "skip",
        val_fraction: float = 0.1,
        memory: float = 2.0,
        num_workers: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **options)
        if crop not in CROPS:
            raise unknown("crop", crop, CROPS)
        if on_error not in ("skip", "raise"):
            raise unknown("on_error", on_error, ("skip", "raise"))
        if channels not in (1, 3):
            raise UserError(f"channels {channels}: possible are 1 (grey) and 3 (colour)")
        if not 0 < val_fraction < 0.5:
            raise UserError(f"val_fraction {val_fraction} must lie between 0 and 0.5")
        self.root = Path(root).expanduser()
        self.reader = Reader(*to_size(size), channels, crop)
        self.on_error, self.val_fraction, self.memory = on_error, val_fraction, memory
        self.skipped: dict[str, str] = {}
        self._names: list[str] = []
        self._parts: dict[str, list[int]] = {}

    @property
    def names(self) -> list[str]:
        """Relative paths of all images, sorted; listed once."""
        if not self._names:
            self._names = list_images(self.root)
            self._parts = split_by_hash(self._names, self.val_fraction)
        return self._names

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the subfolders, if every image lies in one of at least two."""
        tops = {name.partition("/")[0] if "/" in name else "" for name in self.names}
        return sorted(tops) if len(tops) > 1 and "" not in tops else []

    def describe(self) -> DataSpec:
        """(C, H, W) uint8; ``size`` counts the training files, readable or not."""
        names = self.names
        shape = (self.reader.channels, self.reader.height, self.reader.width)
        size = len(self._parts["train"]) if names else 0
        return DataSpec(shape=shape, size=size, num_classes=len(self.classes))

    def splits(self) -> dict[str, Source]:
        """Read the images, or prepare to read them batch by batch."""
        names, number = self.names, {name: k for k, name in enumerate(self.classes)}
        need = len(names) * self.reader.channels * self.reader.height * self.reader.width
        in_memory = need <= self.memory * 2**30
        if in_memory:
            self.num_workers = 0
        sources: dict[str, Source] = {}
        for split, part in self._parts.items():
            paths = [str(self.root / names[k]) for k in part]
            y = torch.tensor([number[names[k].partition("/")[0]] for k in part]) if number else None
            sources[split] = self._in_memory(paths, y) if in_memory else Files(self.reader, paths, y, split == "train")
        if in_memory and not len(sources["train"]):
            path, reason = next(iter(self.skipped.items()), ("", ""))
            raise UserError(f"none of the training images in {self.root} could be read; the first: {path} ({reason})")
        return sources

    def note(self, skipped: list[tuple[str, str]]) -> None:
        """Warn of each unreadable image once, or stop."""
        for path, reason in skipped:
            if self.on_error == "raise":
                raise UserError(f"cannot read {path} ({reason}); --data.on_error skip leaves such images out")
            if path not in self.skipped:
                self.skipped[path] = reason
                warnings.warn(f"skipped {path}: cannot be read ({reason})", stacklevel=2)

    def report(self) -> str | None:
        """How many images were skipped, and which."""
        if not self.skipped:
            return None
        some = ", ".join(list(self.skipped)[:5]) + (", ..." if len(self.skipped) > 5 else "")
        return f"{len(self.skipped)} of {len(self.names)} images in {self.root} could not be read: {some}"

    def _in_memory(self, paths: list[str], y: Tensor | None) -> Tensors:
        x, kept, skipped = read_all(self.reader, paths)
        self.note(skipped)
        return Tensors(x=x) if y is None else Tensors(x=x, y=y[kept])
