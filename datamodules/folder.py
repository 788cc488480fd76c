"""Folder: the user's own images."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .image_files import ImageFiles
from .paths import to_path
from .sources import Source
from .spec import DataSpec
from .split_folders import SPLITS, own_splits, split_paths


class Folder(ImageFiles):
    """Your own images, in a folder nested as you like.

    Where every image lies in one of at least two subfolders, the subfolders are the classes. The split follows from a
    hash of each file's path, so it stays when files are added. Subfolders train, val (or valid, validation) and test
    are the splits, as in ``Paired``, and the classes lie in them; what has no folder is held out of train by the hash.
    For what images may be, see ``ImageFiles``.

    Args:
        root: the folder.
        options: those of all sets of image files, see ``ImageFiles``.
    """

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.root = to_path(root)

    @cached_property
    def split_folders(self) -> dict[str, Path]:
        """Split -> its folder, where the images lie in such."""
        return own_splits(self.root)

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Split -> relative paths of its images, sorted; listed once. All pages of a file are in one split."""
        folders = self.split_folders or {"train": self.root}
        parts = self.with_pages(split_paths(folders, self.val_fraction))
        above = os.path.join(self.root, "")  # no prefix of what lies in "."
        return {name: [path.removeprefix(above).replace(os.sep, "/") for path in parts[name]] for name in SPLITS}

    @property
    def names(self) -> list[str]:
        """Relative paths of all images, sorted."""
        return sorted(name for part in self.parts.values() for name in part)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes: the subfolders, if every image lies in one of at least two that are trained on."""
        known = {self._top(name) for name in (self.parts["train"] if self.split_folders else self.names)}
        complete = len(known) > 1 and "" not in known and all(self._top(name) in known for name in self.names)
        return sorted(known) if complete else []

    def _top(self, name: str) -> str:
        """The first subfolder on the way to an image, below the folder of its split."""
        folder, _, below = name.partition("/")
        if self.split_folders:
            folder, _, below = below.partition("/")
        return folder if below else ""

    def describe(self) -> DataSpec:
        """(C, H, W); ``size`` counts the training files, readable or not."""
        size, names, values = len(self.parts["train"]), tuple(self.classes), self.value_range.of_spec
        return DataSpec(self.reader.shape, size=size, num_classes=len(names), class_names=names, **values)

    def splits(self) -> dict[str, Source]:
        """Read the images, or prepare to read them batch by batch."""
        number = {name: k for k, name in enumerate(self.classes)}
        reader = self.in_range(self.reader)
        loaded = self.fits_in_memory((reader, sum(map(len, self.parts.values()))))
        sources: dict[str, Source] = {}
        for split, part in self.parts.items():
            paths = [str(self.root / name) for name in part]
            y = torch.tensor([number[self._top(name)] for name in part]) if number else None
            sources[split] = self.source(reader, paths, split == "train", loaded, y)
        return sources

    def folders_and_files(self) -> tuple[list[Path], list[str]]:
        """The folder, and its images."""
        return [self.root], [str(self.root / name) for name in self.names]

    def class_counts(self) -> Tensor:
        """(K,) training files of each class, readable or not."""
        count = Counter(self._top(name) for name in self.parts["train"])
        return torch.tensor([count[name] for name in self.classes])

    def training_files(self) -> list[str]:
        """The paths of the training images."""
        return [str(self.root / name) for name in self.parts["train"]]

    def notices(self) -> list[str]:
        """Which folders are the splits, and what does not fit into them."""
        others, lines = super().notices(), []
        if not self.split_folders:
            return others
        counts = ", ".join(f"{name} {len(part):,}" for name, part in self.parts.items())
        folders = ", ".join(path.name for path in self.split_folders.values())
        held_out = " and ".join(name for name in SPLITS if name not in self.split_folders)
        more = f"; {held_out} held out of train" if held_out else ""
        lines.append(f"the folders {folders} are the splits, not classes: {counts} pictures{more}")
        known = {self._top(name) for name in self.parts["train"]}
        lost = [name for part in self.parts.values() for name in part if self._top(name) not in known]
        if lost and len(known) > 1 and "" not in known:
            lines.append(f"no classes: {len(lost):,} pictures lie in no class of train, the first: {lost[0]}")
        return [*lines, *others]

    def report(self) -> str | None:
        """How many images were skipped, and which."""
        return self.skipped_summary(f"{sum(map(len, self.parts.values()))} images in {self.root}")
