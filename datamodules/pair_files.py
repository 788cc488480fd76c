"""PairFiles: base class of data sets of two sides whose images are files."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import UserError
from .image_files import ImageFiles
from .images import ImageInfo, read_image_infos, to_size
from .pair_data import PairData
from .paths import to_path
from .reader import check_channels, check_interpolation
from .spec import DataSpec
from .split_folders import Parts


def counted(items: dict[str, int]) -> str:
    """{"grey": 2, "CMYK": 1} as "2 grey and 1 CMYK"."""
    *most, last = [f"{count} {kind}" for kind, count in sorted(items.items(), key=lambda item: (-item[1], item[0]))]
    return f"{', '.join(most)} and {last}" if most else last


class PairFiles(ImageFiles, PairData):
    """Two sides of image files; the base of ``Unpaired`` and ``Paired``.

    Args:
        a: folder of side a.
        b: folder of side b.
        root: in place of both, the folder that holds them.
        size: height, or [height, width], of what a model sees.
        load_size: height, or [height, width], that files are resized to; of it, a part of ``size`` is taken, at a
            random place in training and at the centre otherwise. Without it, files are resized to ``size``.
        upscale: take pictures that are smaller than ``size``.
        interpolation_b: of side b, where it is another than ``interpolation``, as nearest for label maps.
        channels_b: of side b, where they are others than ``channels``, as 1 for grey masks of coloured pictures.
        options: those of all sets of image files and of all pairs, see ``ImageFiles`` and ``PairData``.
    """

    layout: str  # what ``root`` must hold, for messages
    is_paired: bool  # the two sides of an example belong together

    def __init__(
        self,
        a: str | None = None,
        b: str | None = None,
        root: str | None = None,
        *,
        size: int | list[int] = 64,
        load_size: int | list[int] | None = None,
        upscale: bool = False,
        interpolation_b: str | None = None,
        channels_b: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(size=size if load_size is None else load_size, **options)
        self.height, self.width = to_size(size)
        if self.reader.height < self.height or self.reader.width < self.width:
            raise UserError(f"load_size {load_size} is smaller than size {size}, the part of it that is taken")
        kind = type(self).__name__.lower()
        ways = f"--data.a FOLDER --data.b FOLDER, or --data.root FOLDER with {self.layout}"
        if root is not None and (a is not None or b is not None):
            raise UserError(f"{kind} data given twice, by --data.root {root} and --data.a or --data.b: give {ways}")
        if root is None and (a is None or b is None):
            given = "neither --data.a nor --data.b" if a is b else "--data.a alone" if b is None else "--data.b alone"
            raise UserError(f"{kind} data: {given}: give {ways}")
        if a is not None and b is not None and to_path(a).resolve() == to_path(b).resolve():
            raise UserError(f"--data.a and --data.b are one folder, {a}: the two sides need one each")
        self.root = None if root is None else to_path(root)
        self.folders = None if a is None or b is None else (to_path(a), to_path(b))
        self.upscale = upscale
        own = self.reader.interpolation if interpolation_b is None else interpolation_b
        channels = self.reader.channels if channels_b is None else check_channels(channels_b, "channels_b")
        interpolation = check_interpolation(own, "interpolation_b")
        self.reader_b = self.reader._replace(interpolation=interpolation, channels=channels)
        self._converted: list[str] = []

    @property
    @abstractmethod
    def parts(self) -> tuple[Parts, Parts]:
        """Paths of the images of side a and of side b as they are on disk; listed once."""

    def folders_and_files(self) -> tuple[list[Path], list[str]]:
        """The folders of both sides, or the one that holds them, and the images."""
        roots = [folder for folder in self.folders or (self.root,) if folder is not None]
        return roots, [path for side in self.parts for paths in side.values() for path in paths]

    def training_files(self) -> list[str]:
        """The paths of the training images of both sides."""
        return sorted({path for side in self.parts for path in side["train"]})

    def describe(self) -> DataSpec:
        """Two sides (C, H, W), of one range; ``size`` counts the training files of the longer one, readable or not."""
        shapes = ((reader.channels, self.height, self.width) for reader in (self.reader, self.reader_b))
        shape, shape_b = self.swap_for_direction(*shapes)
        size = max(len(side["train"]) for side in self.parts)
        pairs, values = "all" if self.is_paired else "none", self.value_range.of_spec
        return DataSpec(shape=shape, size=size, shape_b=shape_b, pairs=pairs, **values)

    def report(self) -> str | None:
        """How many images were converted, and how many could not be read."""
        count = sum(len(paths) for side in self.parts for paths in side.values())
        what = f"{count // 2} pairs" if self.is_paired else f"{count} images"
        where = " and ".join(map(str, self.folders or (self.root,)))
        lines = [*self._converted, self.skipped_summary(f"{what} in {where}")]
        return "\n".join(line for line in lines if line) or None

    def count_converted(self, looks: dict[str, ImageInfo], channels: int, where: str) -> None:
        """Count what is converted to so many channels, for the report.

        Args:
            looks: path -> size and kind of the readable files of a side.
            channels: that they are read with.
            where: what to call the side.
        """
        to, plain = ("RGB", "colour") if channels == 3 else ("grey", "grey")
        found = (seen.kind or "colour" for seen in looks.values())
        kinds = Counter(kind for kind in found if kind.split()[-1] != plain)  # deep ones keep their values
        if kinds:
            self._converted.append(f"{counted(kinds)} images in {where} were converted to {to}")

    def check_image_sizes(self, looks: dict[str, ImageInfo], where: str) -> None:
        """Refuse pictures that are smaller than the crop; arguments as above.

        Raises:
            UserError: one is.
        """
        small = {path: s for path, s in looks.items() if s.height < self.height or s.width < self.width}
        if small and not self.upscale:
            path, first = next(iter(small.items()))
            raise UserError(
                f"{len(small)} of {len(looks)} pictures in {where} are smaller than the crop, {self.height} high and "
                f"{self.width} wide; the first, {path}: {first.height} high, {first.width} wide; try --data.size "
                f"{fitting(min(min(s.height, s.width) for s in small.values()))}, or --data.upscale true"
            )


def fitting(side: int) -> int:
    """The largest size up to this one that every translator takes: a multiple of 4."""
    return max(4, side - side % 4)


def look_at(parts: Parts) -> dict[str, ImageInfo]:
    """Size and kind of the readable images of all splits."""
    paths = [path for part in parts.values() for path in part]
    return {path: seen for path, seen in zip(paths, read_image_infos(paths), strict=True) if seen is not None}
