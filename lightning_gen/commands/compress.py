"""Compress examples with a trained model, and get them back: what scripts/compress.py does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen.atomic import write_atomically
from lightning_gen.commands import start
from lightning_gen.compression import codec, container, image_io, report
from lightning_gen.config.arguments import Parser
from lightning_gen.config.run_data import instantiate_run_data
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.example_files import find_all_examples, notices_of
from lightning_gen.datamodules.files import check_regular
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.value_range import check_same_range
from lightning_gen.kinds.files import SkippedFiles
from lightning_gen.storage.checkpoints import find_checkpoint, load
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE

SPLITS = ("train", "val", "test")
USAGE = "compress.py encode RUN IMAGE ... --out FILE, or compress.py decode FILE --out DIR"
ABOUT = "Compress examples with a trained model: lossless with a VAE, lossy with a VQ-VAE."


def main(argv: list[str]) -> None:
    """``encode`` or ``decode``.

    Raises:
        UserError: it is neither, or cannot be done; says why.
    """
    actions = {"encode": encode, "decode": decode}
    if argv[:1] == ["--help"] or argv[:1] == ["-h"]:
        print(f"usage: {USAGE}\n\n{ABOUT}\nMore: compress.py encode --help, compress.py decode --help")
        return
    if not argv or argv[0] not in actions:
        raise UserError(f"what is to be done? {USAGE}")
    actions[argv[0]](argv[1:])


def _encoding(argv: list[str]) -> tuple[Any, list[str]]:
    """The options of ``encode``, and those of the data."""
    parser = Parser(
        prog=f"{program('compress')} encode",
        description=f"{ABOUT} The file is decoded for a test before it is written.",
        epilog="options of the data, with --split: --data.root FOLDER, ...",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help='pictures of the model\'s size, folders, or "a pattern*.png"'
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file")
    parser.add_argument("--split", choices=SPLITS, help="encode this part of the run's data instead of pictures")
    parser.add_argument("--data", metavar="NAME", help="with --split: other data than the run's")
    parser.add_argument("-n", type=int, help="with --split: only the first N examples")
    parser.add_argument(
        "--block", type=int, help="examples that pass the networks together, at most (default 64, or 256 of tokens)"
    )
    parser.add_argument("--strict", action="store_true", help="end at the first picture that cannot be encoded")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--report", type=Path, metavar="JSON", help="also write the figures to a file")
    parser.add_argument("--no-others", action="store_true", help="do not measure gzip, bz2, xz, PNG and WebP")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given, rest = parser.parse_known_intermixed_args(argv)
    for word in (word.partition("=")[0] for word in rest):
        if not word.startswith("--data.") and word.startswith("-"):
            raise unknown("option", word, [flag for a in parser._actions for flag in a.option_strings])
    if bool(given.images) == bool(given.split):
        raise UserError("what is to be encoded? give pictures, or a part of the run's data: --split test")
    if not given.split and (given.data or given.n is not None or rest):
        asked = rest[0] if rest else "--data" if given.data else "-n"
        raise UserError(f"{asked} is of a part of the data: give --split test, or another part, and no pictures")
    for name, value in (("-n", given.n), ("--block", given.block)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: it must be at least 1")
    for path in (given.out, given.report):
        if path and (path.is_dir() or (path.exists() and not given.force)):
            raise UserError(f"{path} is there already: give another file, or --force")
    if given.report and given.report.resolve() == given.out.resolve():
        raise UserError(f"--out and --report are the same file, {given.out}: give two")
    return given, rest


def _decoding(argv: list[str]) -> Any:
    """The options of ``decode``."""
    parser = Parser(prog=f"{program('compress')} decode", description="Decode a file of encode.", allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", type=Path, help="what encode wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--run", metavar="RUN", help="the run, or its checkpoint, where it is not where it was")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    return parser.parse_args(argv)


def encode(argv: list[str]) -> None:
    """Read, encode, verify, write, report."""
    given, rest = _encoding(argv)
    path = find_checkpoint(given.run, given.which)
    model = load(path, trust=given.trust)
    codec.coder_for(model)  # first, so that a model that cannot code is refused at once
    skipped, names = SkippedFiles(given.strict), tuple[str, ...]()
    listed = find_all_examples(given.images)
    if given.split:
        x = _rows(given, rest, model.spec)
    else:
        files, x = image_io.read_pictures([file.path for file in listed], model.spec, skipped)
        names = image_io.names_of(files)
    made = codec.encode(model, x, run=str(path), names=names, block=given.block or 0)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out, made.content)
    figures = report.measure(model, x, made, others=not given.no_others)
    print(report.table(figures))
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(given.report, json.dumps(figures, indent=2).encode())
    for line in notices_of(given.images, listed):
        print(line)
    print(f"{given.out}; back: {program('compress')} decode {given.out} --out DIR")
    skipped.finish(len(listed))


def _rows(given: Any, rest: list[str], spec: DataSpec) -> Tensor:
    """Examples of a data set (n, *shape) as a model of this spec sees them, in its order."""
    data, _ = instantiate_run_data(given.run, rest, given.trust, given.data)
    data.prepare_data()
    data.setup()
    if data.spec.has_two_sides:
        raise UserError("these data have two sides, and a compressor takes single examples")
    check_same_range(spec, data.spec)
    data = data.in_units_of(spec)
    rows = torch.arange(min(data.size(given.split), given.n or data.size(given.split)))
    return torch.cat([data.examples(given.split, part)["x"] for part in rows.split(EVAL_BATCH_SIZE)])


def decode(argv: list[str]) -> None:
    """Read, check, decode, verify, write."""
    given = _decoding(argv)
    image_io.check_empty_folder(given.out)
    check_regular(given.file)
    try:
        content = given.file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {given.file}: {error.strerror}") from None
    header, _ = container.unpack(content, str(given.file))
    try:
        path = find_checkpoint(given.run or header.run, given.which)
    except UserError as error:
        raise UserError(f"{error}. {given.file} was made by it: say where it is now, --run RUN") from None
    model = load(path, trust=given.trust)
    x, header = codec.decode(model, content, str(given.file))
    image_io.write_examples(x, header.names, model.spec, given.out)
    what = f"pictures of {header.examples} files" if header.names else f"{header.examples} examples in {image_io.ARRAY}"
    print(f"{what} decoded by {path} in {given.out}")


if __name__ == "__main__":
    start("compress")
