"""Folder: the user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .image_files import ImageFiles, list_images, split_by_hash
from .sources import Source
from .spec import DataSpec


class Folder(ImageFiles):
    """Your own images, in a folder nested as you like.

    Where every image lies in one of at least two subfolders, the subfolders are the classes. The split follows from a
    hash of each image's path, so it stays when images are added. For what images may be, see ``ImageFiles``.

    Args:
        root: the folder.
        options: those of all sets of image files, see ``ImageFiles``.
    """

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root).expanduser()
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
        size = len(self._parts["train"]) if names else 0
        return DataSpec(shape=self.reader.shape, size=size, num_classes=len(self.classes))

    def splits(self) -> dict[str, Source]:
        """Read the images, or prepare to read them batch by batch."""
        names, number = self.names, {name: k for k, name in enumerate(self.classes)}
        loaded = self.fits_in_memory(self.reader, len(names))
        sources: dict[str, Source] = {}
        for split, part in self._parts.items():
            paths = [str(self.root / names[k]) for k in part]
            y = torch.tensor([number[names[k].partition("/")[0]] for k in part]) if number else None
            sources[split] = self.source(self.reader, paths, split == "train", loaded, y)
        return sources

    def report(self) -> str | None:
        """How many images were skipped, and which."""
        return self.skipped_summary(f"{len(self.names)} images in {self.root}")
