"""Pass a user's own examples through a trained model: what scripts/reconstruct.py does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch

from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.classes import find_class, list_classes
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.example_files import ExampleFile, check_originals, find_all_examples, notices_of
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.kinds import kind_of
from lightning_gen.kinds.files import SkippedFiles, read_files, write_all
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import reconstructed
from lightning_gen.protocols import Reconstructs, SamplesClasses, Tokenises
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.loaded import DEVICES, EVAL_BATCH_SIZE, check_finite, describe_device, load_on, provenance
from lightning_gen.training.module import GenerativeModule


def main(argv: list[str]) -> None:
    """Parse, load, reconstruct, save."""
    parser = Parser(prog=program("reconstruct"), description="Pass files of your own through a trained model.")
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help='pictures of any size, folders of them, or "a pattern*.jpg"; for vectors .npy files of them',
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the reconstructions and grid.png")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--class", dest="label", help="class of all examples, by name or number")
    parser.add_argument("--strict", action="store_true", help="end at the first file that cannot be read")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given = parser.parse_args(argv)
    path = find_checkpoint(given.run, given.which)
    model = load_on(path, given.device, given.trust)
    spec, kind = model.spec, kind_of(model.spec)
    if not isinstance(model, Reconstructs):
        raise UserError(f"{type(model).__name__} on {spec.kind} data cannot reconstruct {kind.plural}")
    listed = find_all_examples(given.files, given.out, kind.is_example_file, f"file of {kind.plural}")
    files, x = read_files(listed, spec, skipped := SkippedFiles(given.strict))
    names = _names(files)
    check_originals(listed, (given.out / f"{name}{kind.suffix(spec)}" for name in (*names, "grid", "reconstructions")))
    y = _classes(model, given.label, len(x))
    source = provenance(model, path)
    with torch.inference_mode():
        rebuilt = torch.cat(
            [
                model.reconstruct(
                    x[k : k + EVAL_BATCH_SIZE].to(model.device), None if y is None else y[k : k + EVAL_BATCH_SIZE]
                ).cpu()
                for k in range(0, len(x), EVAL_BATCH_SIZE)
            ]
        )
        check_finite(rebuilt, f"reconstructions by {path}")
        if kind.draws:
            picture = captioned(views.original_and_reconstruction(x, rebuilt, spec), reconstructed("examples", model))
            save_png(picture, given.out / "grid.png", source)
    sources = [source | {"original": file.name} for file in files]
    write_all(rebuilt, given.out, "reconstructions", names, spec, sources)
    shown = "; grid.png shows them beside their originals" if kind.draws else ""
    for line in notices_of(given.files, listed):
        print(line)
    print(f"{len(x)} reconstructions by {path}, on {describe_device(model.device)}, in {given.out}{shown}")
    skipped.finish(len(listed))


def _classes(model: GenerativeModule, label: str | None, count: int) -> torch.Tensor | None:
    """The class of all examples, where the model takes one; tokens are of the picture alone."""
    classes = model.classes if isinstance(model, SamplesClasses) and not isinstance(model, Tokenises) else 0
    if label is None and not classes:
        return None
    if not classes:
        raise UserError(f"--class {label}: this model rebuilds without one")
    if label is None:
        raise UserError(f"no --class: this model needs one of {list_classes(model.spec)}")
    return torch.full((count,), find_class(label, model.spec), device=model.device)


def _names(files: Sequence[ExampleFile]) -> list[str]:
    """A name for each result: that of its original, numbered where two are equal or clash with the grid."""
    stems = [PurePosixPath(file.name).with_suffix("") for file in files]
    clash = len({str(stem).lower() for stem in stems} | {"grid"}) <= len(stems)
    return [str(stem.with_name(f"{k:03d}_{stem.name}") if clash else stem) for k, stem in enumerate(stems)]


if __name__ == "__main__":
    start("reconstruct")
