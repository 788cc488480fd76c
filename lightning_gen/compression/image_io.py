"""Picture files that are coded, value for value, and those that are written of what was decoded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_gen import kinds
from lightning_gen.compression.container import is_safe_filename
from lightning_gen.datamodules.decode import SUFFIXES, depth_of, open_picture, opened
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.images import kind_of
from lightning_gen.datamodules.pages import quiet_pillow
from lightning_gen.datamodules.paths import from_text, to_text
from lightning_gen.datamodules.pixels import to_float
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model, to_units
from lightning_gen.drawing.images import save_array
from lightning_gen.drawing.render import to_uint8
from lightning_gen.kinds.files import SkippedFiles

ARRAY = "examples.npy"  # of examples without names


def read_pictures(paths: Sequence[Path], spec: DataSpec, skipped: SkippedFiles) -> tuple[list[Path], Tensor]:
    """The pictures of exactly the model's size, and x (n, C, H, W) of them as it reaches the model, in [-1, 1].

    Those that cannot be read, or could not come back as they are, are left out.

    Raises:
        UserError: the model is not of pictures; all are left out, or one is and ``skipped`` is strict.
    """
    if kinds.kind_of(spec).suffix(spec) not in SUFFIXES:
        what = (
            "real numbers in units of their own" if spec.values == "real" else f"{spec.kind} data of shape {spec.shape}"
        )
        raise UserError(f"the model is of {what}, not of pictures: give --split test")
    kept, pictures = [], []
    for path in paths:
        try:
            with quiet_pillow():
                pictures.append(_read(path, spec))
        except UserError as error:
            skipped.add(str(error))
        else:
            kept.append(path)
    skipped.check_any_read(len(paths))
    return kept, torch.stack(pictures)


def _read(path: Path, spec: DataSpec) -> Tensor:
    """One picture (C, H, W), in [-1, 1]."""
    (channels, height, width), bits = spec.shape, spec.bits or 8
    try:
        with opened(path) as file:
            kind, depth, frames = kind_of(file), depth_of(file), getattr(file, "n_frames", 1)
        picture = open_picture(path)
    except Exception as error:  # Pillow's decoders raise anything on broken files
        raise UserError(f"cannot read {path} as a picture: {error}") from None
    plain = ("", "grey", f"{bits}-bit grey", f"{bits}-bit colour", "float grey")
    if depth.bits != bits or depth.is_reduced or kind not in plain or frames > 1:
        what = f"{frames} pictures in one" if frames > 1 else kind or "of 8 bits"
        raise UserError(f"{path} is {what}: coded are pictures of {bits} bits, grey or RGB, without transparency")
    if picture.size != (height, width):
        sizes = f"{picture.size[0]}x{picture.size[1]} (height x width), the model codes {height}x{width}"
        raise UserError(f"{path} has {sizes}: give pictures of that size, as a resized one would not come back")
    values = torch.from_numpy(picture.values(3).transpose(2, 0, 1).copy())  # (3, H, W); exact for grey pictures too
    if channels == 1 and not (values == values[:1]).all():
        raise UserError(f"{path} is in colour, and the model codes grey pictures")
    if spec.values == "binary" and not torch.isin(values, torch.tensor([0.0, 255.0])).all():
        raise UserError(f"{path} has values between black and white, and the model codes 0 and 255 alone")
    if not spec.range:
        return to_float(values[:channels].to(torch.uint8), "uint8")
    if bool((values < spec.range[0]).any()) or bool((values > spec.range[1]).any()):
        raise UserError(f"{path} has values outside of {spec.range[0]:g} to {spec.range[1]:g}, which the model codes")
    return to_model(values[:channels], spec)


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each result: that of its original, numbered where two are equal (but for case); as text in UTF-8.

    Raises:
        UserError: one cannot be a file's name everywhere.
    """
    stems = [to_text(path.stem) for path in paths]
    if len({stem.lower() for stem in stems}) < len(stems):
        stems = [f"{k:0{len(str(len(stems) - 1))}d}_{stem}" for k, stem in enumerate(stems)]
    for path, stem in zip(paths, stems, strict=True):
        if not is_safe_filename(stem):
            raise UserError(f"{path}: its name cannot be kept in the file: rename it, without leading dot or \\")
    return tuple(stems)


def check_empty_folder(folder: Path) -> None:
    """Whether results may go to a folder.

    Raises:
        UserError: there is something already.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already: give a new or empty folder, --out DIR")


def write_examples(x: Tensor, names: Sequence[str], spec: DataSpec, folder: Path) -> None:
    """Pictures NAME.png, of floats NAME.tif, or one array where they have no names; a new folder appears with all.

    Args:
        x: (n, *shape) in the range of the data.
        names: of the n examples, or none.
        spec: of the model.
        folder: new or empty.
    """
    check_empty_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if names:
            kind = kinds.kind_of(spec)
            for name, picture in zip(names, x, strict=True):
                kind.write(picture, part / from_text(f"{name}{kind.suffix(spec)}"), spec, None)
        else:
            save_array(to_stored_values(x, spec), part / ARRAY)
        part.chmod(0o777 & ~_umask())
        if folder.exists():  # it stays, as it may be a link, or where the user stands
            for made in part.iterdir():
                os.replace(made, folder / made.name)
        else:
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def to_stored_values(x: Tensor, spec: DataSpec) -> np.ndarray:
    """x as data sets store it: uint8 for "uint8" (0..255) and "binary" (0, 255), else floats in the user's units."""
    return to_uint8(x).numpy() if spec.values in ("uint8", "binary") else to_units(x, spec).numpy()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
