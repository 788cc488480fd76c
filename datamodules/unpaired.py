"""Unpaired: two folders of the user's own images, without pairs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from .errors import UserError
from .pair_data import PairSource
from .pair_files import PairFiles, look_at
from .sources import Source
from .split_folders import SPLITS, Parts, split_folders, split_paths


def side_folders(root: Path, letter: str) -> dict[str, Path]:
    """Folders trainA, valA and testA of side "A", of which the last two may be missing on both sides.

    Raises:
        UserError: there is no folder for training, or one of the other side has no counterpart.
    """
    other = "B" if letter == "A" else "A"
    for split in SPLITS:
        lacks, has = root / f"{split}{letter}", (root / f"{split}{other}").is_dir()
        if not lacks.is_dir() and (has or split == "train"):
            found = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
            raise UserError(
                f"no folder {lacks}: --data.root takes one that holds {Unpaired.layout}; found: {found or 'none'}; "
                "folders of other names are given by --data.a and --data.b"
            )
    return {split: path for split in SPLITS if (path := root / f"{split}{letter}").is_dir()}


class Unpaired(PairFiles):
    """Your own images of two kinds, such as horses and zebras, without pairs.

    ``--data.a FOLDER --data.b FOLDER``, each with train, val and test in it or not, or ``--data.root FOLDER`` that
    holds trainA, trainB and, where there are, testA, testB, valA, valB. What has no folder is held out of the training
    images by a hash of their names.
    The sides may differ in number: in training each is shuffled for itself, and in validation and test the shorter one
    is repeated from its start. Images may be of any size and mode; see ``PairFiles`` for the options.
    """

    layout = "trainA and trainB, and testA, testB, valA, valB where there are"
    is_paired = False

    @cached_property
    def parts(self) -> tuple[Parts, Parts]:
        """Paths of both sides' images."""
        if self.root is None:
            assert self.folders is not None
            folders = [split_folders(folder) for folder in self.folders]
        else:
            folders = [side_folders(self.root, letter) for letter in "AB"]
        a, b = (self.with_pages(split_paths(found, self.val_fraction)) for found in folders)
        for split in ("val", "test"):
            if (
                not a[split] or not b[split]
            ):  # one side is too small to spare any: then training examples serve for both
                for parts in (a, b):
                    parts["train"] = sorted(parts["train"] + parts[split])
                    parts[split] = []
        return a, b

    def splits(self) -> dict[str, Source]:
        """Read the images of both sides, or prepare to read them batch by batch."""
        places = self.folders or (f"{self.root}/*A", f"{self.root}/*B")
        readers = self.in_range(self.reader), self.in_range(self.reader_b)
        for parts, reader, where in zip(self.parts, readers, places, strict=True):
            looks = look_at(parts)
            self.count_converted(looks, reader.channels, str(where))
            self.check_image_sizes(looks, str(where))
        counts = (sum(map(len, parts.values())) for parts in self.parts)
        loaded = self.fits_in_memory(*zip(readers, counts, strict=True))
        sides = (
            {split: self.source(reader, paths, split == "train", loaded) for split, paths in parts.items()}
            for reader, parts in zip(readers, self.parts, strict=True)
        )
        a, b = self.swap_for_direction(*sides)
        return {split: PairSource(a[split], b[split]) for split in a}
