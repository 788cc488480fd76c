"""Translate a user's own pictures with a trained model: what scripts/translate.py does."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.decode import MAX_PIXELS
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.example_files import ExampleFile, check_originals, find_examples, notices_of
from lightning_gen.datamodules.files import check_memory
from lightning_gen.datamodules.images import try_read
from lightning_gen.datamodules.pages import quiet_pillow
from lightning_gen.datamodules.reader import INTERPOLATIONS, Reader, reader_of
from lightning_gen.datamodules.units import to_model
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.drawing.render import to_uint8
from lightning_gen.kinds import kind_of
from lightning_gen.kinds.files import SkippedFiles
from lightning_gen.pictures.tiles import OVERLAP, Tiling, map_tiles, tiling_of
from lightning_gen.pictures.views import image_row_blocks
from lightning_gen.protocols import Translates
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.loaded import DEVICES, describe_device, load_on, provenance

GRID, SHOWN = "grid.png", 16
THUMBNAIL = 256  # pixels of a picture in the grid, at most
SIZES = 8  # sizes of which pictures may wait for others of their size
FAR = 2  # times larger or smaller than in training
LEAST = 4  # strides of the smallest picture that a network is given: inside it is smaller, and reflected again
TRAINING = "train"  # --size
BYTES_PER_PIXEL = 64  # of a picture, of its translation and of one map between them, at least


class Job(NamedTuple):
    """A picture to translate: its file, its name below the input and that of the result, with forward slashes."""

    path: Path
    name: str
    result: str


def main(argv: list[str]) -> None:
    """Parse, check what would be written, load, translate, save."""
    given = _parse(argv)
    path = find_checkpoint(given.run, given.which)
    model = load_on(path, given.device, given.trust)
    direction = _direction(model, given.direction)
    tiling = _tiling(model, given.tile, given.overlap)
    specs = [model.spec._replace(shape=shape) for shape in (model.spec.shape, model.spec.shape_b)]
    own, other = specs if direction.startswith("a") else specs[::-1]
    kind = kind_of(other)
    jobs = list_jobs(given.pictures, given.out, kind.suffix(other))
    sheet = _grid_name(jobs) if given.grid else ""
    check_no_overwrite(jobs, given.out, sheet, given.force)
    source = provenance(model, path) | {"direction": direction}
    size = own.shape[1:] if given.size == TRAINING else given.size
    options = {"interpolation": given.interpolation, "max_pixels": given.max_pixels}
    reader = reader_of(own, (size[0], size[1]) if size else (0, 0), **options)
    skipped = SkippedFiles(given.strict)
    pictures = _read(jobs, reader, skipped, None if size else own.shape[1:])
    first, shown, tiles = {job.name for job in jobs[:SHOWN]}, {}, []
    thumbnail = min(THUMBNAIL, max(own.shape[1:]))
    with torch.inference_mode():
        for job, x, made in translations(model, pictures, direction, given.batch, tiling):
            kind.write(made.cpu(), given.out / job.result, other, source | {"original": job.name})
            if sheet and job.name in first:
                shown[job.name] = [_thumbnail(to_uint8(picture), thumbnail) for picture in (x, made)]
            tiles += [tiling.num_tiles(*x.shape[1:])] if tiling else []
    skipped.check_any_read(len(jobs))
    says = ""
    if shown:
        pairs = [shown[job.name] for job in jobs if job.name in shown]
        text = f"in turn a row of pictures, and of their {direction}"
        save_png(captioned(_sheet(pairs), text), given.out / sheet, source)
        says = f"; {sheet} shows {'some' if len(jobs) > SHOWN else 'each'} below its original"
    for line in notices_of([given.pictures], (ExampleFile(job.path, job.name) for job in jobs)):
        print(line)
    if tiling:
        print(tiling.summary(tiles))
    done = len(jobs) - len(skipped.reasons)
    by = f"{path}, on {describe_device(model.device)}"
    print(f"{done} of {len(jobs)} pictures translated {direction} by {by}, in {given.out}{says}")
    skipped.finish(len(jobs))


def _direction(model: Any, given: str | None) -> str:
    """The requested direction, or the model's first."""
    if not isinstance(model, Translates):
        raise UserError(f"{type(model).__name__} does not translate pictures: cyclegan, pix2pix and cut do")
    if given is not None and given not in model.directions:
        raise unknown(f"--direction of this {type(model).__name__}", given, model.directions)
    return given or model.directions[0]


def _parse(argv: list[str]) -> Any:
    parser = Parser(
        prog=program("translate"),
        description="Translate pictures of any size with a trained model.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument(
        "pictures", metavar="IN", help='a picture, a folder of them, nested or not, or "a pattern*.jpg"'
    )
    parser.add_argument("rest", metavar="OUT", nargs="*", help="folder for the results; the same as --out")
    parser.add_argument("--out", type=Path, help="folder for the results, which keep names and sub-folders")
    parser.add_argument("--direction", metavar="a2b|b2a", help="default: the model's first")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument(
        "--size",
        help=f"cut and resize the pictures to so many pixels first: 256, 256x320 (height x width), or {TRAINING}, the "
        "size of training (default: each keeps its own size)",
    )
    parser.add_argument(
        "--interpolation",
        choices=list(INTERPOLATIONS),
        default="bicubic",
        help="how --size resizes (default bicubic); nearest keeps the colours of label maps",
    )
    parser.add_argument(
        "--max_pixels", type=int, default=MAX_PIXELS, help=f"largest picture that is decoded (default {MAX_PIXELS})"
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures of one size in one pass (default 8)")
    parser.add_argument(
        "--tile",
        type=int,
        help="cut pictures with a longer side than this into tiles, translated one by one, if whole ones do not fit "
        "into memory; instance norm then has the statistics of a tile, and contrasts differ from the whole picture's",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        help=f"pixels that neighbouring tiles share and fade across (default {OVERLAP}, at most half a tile)",
    )
    parser.add_argument("--strict", action="store_true", help="end at the first picture that cannot be read")
    parser.add_argument("--force", action="store_true", help="write over results that are there")
    parser.add_argument(
        "--grid", action=argparse.BooleanOptionalAction, default=True, help=f"{GRID} of the first {SHOWN} (default yes)"
    )
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given = parser.parse_intermixed_args(argv)
    if len(given.rest) > 1:
        raise UserError(f'{len(given.rest) + 1} paths after the run: a pattern is written in quotes, "photos/*.jpg"')
    if bool(given.rest) == (given.out is not None):
        raise UserError("where do the results go? give one folder: --out OUT" + (", or OUT" if given.rest else ""))
    given.out = given.out or Path(given.rest[0])
    if given.batch < 1:
        raise UserError(f"--batch {given.batch}: at least 1 picture in one pass")
    if given.overlap is not None and given.tile is None:
        raise UserError(f"--overlap {given.overlap} is that of tiles: give their side too, such as --tile 512")
    if given.tile is not None and given.tile < 1:
        raise UserError(f"--tile {given.tile}: the side of a tile in pixels, such as 512")
    given.size = _size(given.size)
    return given


def _size(text: str | None) -> Any:
    """None, "train", or (H, W)."""
    if text is None or text == TRAINING:
        return text
    numbers = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if numbers is None:
        raise UserError(f"--size {text}: give the height in pixels, such as 256, or 256x320, or {TRAINING}")
    size = int(numbers[1]), int(numbers[2] or numbers[1])
    check_memory(BYTES_PER_PIXEL * size[0] * size[1], f"--size {text}: a picture", "give a smaller size")
    return size


# Which files


def list_jobs(given: str, out: Path, suffix: str = ".png") -> list[Job]:
    """The pictures that a file, a folder or a pattern stands for, and the names of their results.

    Raises:
        UserError: there is none.
    """
    files = find_examples(given, out)
    results = result_names([file.name for file in files], suffix)
    return [Job(file.path, file.name, result) for file, result in zip(files, results, strict=True)]


def result_names(names: Sequence[str], suffix: str = ".png") -> list[str]:
    """Each name with the suffix of the results; those that would be equal keep their own before it, or get a number.

    Names that differ by case alone are the same on some systems.
    """
    plain = [PurePosixPath(name).with_suffix(suffix).as_posix() for name in names]
    count: dict[str, int] = {}
    for name in plain:
        count[name.lower()] = count.get(name.lower(), 0) + 1
    taken = {name.lower() for name in plain if count[name.lower()] == 1}
    taken |= {parent.as_posix().lower() for name in plain for parent in PurePosixPath(name).parents}
    pairs = zip(names, plain, strict=True)
    return [own if count[own.lower()] == 1 else _free(name, taken, suffix) for name, own in pairs]


def _free(name: str, taken: set[str], suffix: str = ".png") -> str:
    """name.png, or the first of name_2.png, name_3.png, ... that is not taken; it is then."""
    number, free = 1, f"{name}{suffix}"
    while free.lower() in taken:
        number += 1
        free = f"{name}_{number}{suffix}"
    taken.add(free.lower())
    return free


def _grid_name(jobs: Sequence[Job]) -> str:
    """A name that no result has."""
    taken = {job.result.lower() for job in jobs}
    taken |= {parent.as_posix().lower() for job in jobs for parent in PurePosixPath(job.result).parents}
    return GRID if GRID not in taken else _free("grid", taken)


def check_no_overwrite(jobs: Sequence[Job], out: Path, sheet: str, force: bool) -> None:
    """Refuse to write over anything, before there is anything to write.

    Args:
        jobs: the pictures.
        out: folder of the results.
        sheet: name of the grid, if there will be one.
        force: results may be written over, but never the pictures.

    Raises:
        UserError: that names what is in the way.
    """
    paths = [out / name for name in (*(job.result for job in jobs), sheet) if name]
    check_originals((ExampleFile(job.path, job.name) for job in jobs), paths)
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder, where a result would be written: give another one, --out OUT")
    for folder in {parent for path in paths for parent in path.parents}:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, where a folder of results is needed: give another one, --out OUT")
    there = [path.relative_to(out).as_posix() for path in paths if path.exists()]
    if there and not force:
        some = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise UserError(f"{out} holds results already ({some}): give another folder, or --force to write over them")


# Pictures


def _read(
    jobs: Sequence[Job], reader: Reader, skipped: SkippedFiles, training: tuple[int, ...] | None
) -> Iterator[tuple[Job, Tensor]]:
    """Each picture (C, H, W) as stored. Unreadable ones are counted; a size far from that of training is reported."""
    for job in track(jobs, "translating", disable=not sys.stdout.isatty(), transient=True):
        with quiet_pillow():
            image = try_read(reader, str(job.path))
        if isinstance(image, str):
            skipped.add(f"cannot read {job.name}: {image}")
            continue
        own = image.shape[1:]
        if training and any(max(n / m, m / n) > FAR for n, m in zip(own, training, strict=True)):
            sizes = " and ".join(f"{height} x {width}" for height, width in (own, training))
            print(
                f"warning: {job.name} and training differ in size, {sizes} pixels: such pictures may come out worse; "
                f"--size {TRAINING} resizes all of them",
                file=sys.stderr,
            )
            training = None  # said once
        yield job, torch.from_numpy(image)


def of_one_size(
    pictures: Iterable[tuple[Job, Tensor]], most: int, longest: float = math.inf
) -> Iterator[list[tuple[Job, Tensor]]]:
    """Batches of at most ``most`` pictures of one size; a size that finds no more partners goes alone.

    So does at once a picture with a side above ``longest``.
    """
    waiting: dict[tuple[int, ...], list[tuple[Job, Tensor]]] = {}
    for job, x in pictures:
        if max(x.shape[1:]) > longest:
            yield [(job, x)]
            continue
        same = waiting.setdefault(tuple(x.shape), [])
        same.append((job, x))
        if len(same) == most:
            yield waiting.pop(tuple(x.shape))
        elif len(waiting) > SIZES:  # so that no more than so many batches are in memory
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def translations(
    model: Any, pictures: Iterable[tuple[Job, Tensor]], direction: str, batch: int, tiling: Tiling | None = None
) -> Iterator[tuple[Job, Tensor, Tensor]]:
    """Each stored picture as the model sees it, (C, H, W) in [-1, 1], and its translation (C', H, W), on the CPU.

    Raises:
        UserError: the model has diverged.
    """
    for part in of_one_size(pictures, batch, tiling.longest if tiling else math.inf):
        seen = to_model(torch.stack([x for _, x in part]), model.spec)
        if tiling and tiling.num_tiles(*seen.shape[2:]) > 1:  # then it goes alone
            made = map_tiles(lambda tile: translate_batch(model, tile[None], direction)[0], seen[0], tiling)[None]
        else:
            made = translate_batch(model, seen, direction)
        yield from ((job, x, y) for (job, _), x, y in zip(part, seen, made, strict=True))


def translate_batch(model: Any, pictures: Tensor, direction: str) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1] of any size -> their translations (B, C', H, W), of the same size, on the CPU.

    Raises:
        UserError: the model has diverged.
    """
    height, width = pictures.shape[2:]
    x = padded(pictures.to(model.device), model.stride, _least(model))
    made = model.translate(x, direction)[:, :, :height, :width]
    if not made.isfinite().all():
        raise UserError("the translations are not finite: has the model diverged?")
    return made.cpu()


def _tiling(model: Any, tile: int | None, overlap: int | None) -> Tiling | None:
    """How this network's pictures are cut; None where they are not."""
    return tiling_of(tile, overlap, stride=model.stride, least=_least(model)) if tile else None


def _least(model: Any) -> int:
    """Pixels that a side has at least when the network is given it."""
    return min(LEAST * model.stride, *model.spec.shape[1:])


def padded(x: Tensor, stride: int, least: int = 1) -> Tensor:
    """Pictures (B, C, H, W) that go on mirrored to the right and below, up to a multiple of the stride.

    Where there is too little to mirror, the border is repeated.

    Args:
        x: the pictures.
        stride: of which the sides become multiples.
        least: pixels that a side has in the end at least.
    """
    for axis, pads in ((3, lambda n: (0, n, 0, 0)), (2, lambda n: (0, 0, 0, n))):
        size = x.shape[axis]
        more = math.ceil(max(size, least) / stride) * stride - size
        x = F.pad(x, pads(more), mode="reflect" if more < size else "replicate")
    return x


def _thumbnail(picture: Tensor, size: int) -> Tensor:
    """A picture uint8 (C, H, W) made small enough for the grid, (3, size, size)."""
    image = Image.fromarray(picture.expand(3, -1, -1).permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(ImageOps.pad(image, (size, size), color="white"))).permute(2, 0, 1)


def _sheet(pairs: Sequence[Sequence[Tensor]]) -> Tensor:
    """Originals above their translations, uint8 (3, H, W) each."""
    return image_row_blocks(*(torch.stack(column).float() / 127.5 - 1 for column in zip(*pairs, strict=True)))


if __name__ == "__main__":
    start("translate")
