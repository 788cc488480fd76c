"""Pass a user's own pictures through a trained model: what scripts/reconstruct.py does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.images import Reader, try_read
from lightning_gen.drawing.images import save_png
from lightning_gen.drawing.render import to_uint8
from lightning_gen.pictures import views
from lightning_gen.protocols import Reconstructs, SamplesClasses, Tokenises
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE, load_on, provenance
from lightning_gen.training.module import GenerativeModule


def main(argv: list[str]) -> None:
    """Parse, load, reconstruct, save."""
    parser = Parser(prog=program("reconstruct"), description="Pass pictures through a trained model.")
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="picture files of any size")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reconstructions and grid.png")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--class", type=int, dest="label", help="class of the pictures, for a conditional model")
    parser.add_argument("--device", default="cpu", help="where to compute (default cpu)")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given = parser.parse_args(argv)
    path = find_checkpoint(given.run, given.which)
    model = load_on(path, given.device, given.trust)
    if not isinstance(model, Reconstructs) or model.spec.kind != "image":
        raise UserError(f"{type(model).__name__} on {model.spec.kind} data cannot reconstruct pictures")
    channels, height, width = model.spec.shape
    reader = Reader(height, width, channels, "center")
    names = _names(given.images)
    x = torch.from_numpy(np.stack([_read(reader, image) for image in given.images])).float() / 127.5 - 1
    if model.spec.values == "binary":
        x = torch.where(x >= 0, 1.0, -1.0)
    y = _classes(model, given.label, len(x))
    source = provenance(model, path)
    with torch.inference_mode():
        rebuilt = torch.cat(
            [
                model.reconstruct(
                    x[k : k + EVAL_BATCH_SIZE].to(given.device), None if y is None else y[k : k + EVAL_BATCH_SIZE]
                ).cpu()
                for k in range(0, len(x), EVAL_BATCH_SIZE)
            ]
        )
        save_png(views.original_and_reconstruction(x, rebuilt, model.spec), given.out / "grid.png", source)
    for name, image, picture in zip(names, given.images, to_uint8(rebuilt), strict=True):
        save_png(picture, given.out / f"{name}.png", source | {"original": image.name})
    print(f"{len(names)} reconstructions by {path} in {given.out}; grid.png shows each below its original")


def _classes(model: GenerativeModule, label: int | None, count: int) -> torch.Tensor | None:
    """The class of all pictures, where the model takes one; tokens are of the picture alone."""
    classes = model.classes if isinstance(model, SamplesClasses) and not isinstance(model, Tokenises) else 0
    if label is None and not classes:
        return None
    if label is None or not 0 <= label < classes:
        given = "no --class" if label is None else f"--class {label}"
        possible = f"this model needs one of 0 to {classes - 1}" if classes else "this model rebuilds without one"
        raise UserError(f"{given}: {possible}")
    return torch.full((count,), label, device=model.device)


def _names(images: list[Path]) -> list[str]:
    """A name for each result: that of its original, numbered where two are equal or clash with the grid."""
    stems = [image.stem for image in images]
    clash = len({*stems, "grid"}) <= len(stems)
    return [f"{k:03d}_{stem}" for k, stem in enumerate(stems)] if clash else stems


def _read(reader: Reader, path: Path) -> np.ndarray:
    image = try_read(reader, str(path))
    if isinstance(image, str):
        raise UserError(f"cannot read {path} as a picture: {image}")
    return image
