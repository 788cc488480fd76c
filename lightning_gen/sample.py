"""Draw new examples from a trained model: what scripts/sample.py does."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.errors import UserError
from lightning_gen import views
from lightning_gen.checkpoints import find, load
from lightning_gen.cli import Parser
from lightning_gen.images import save_png
from lightning_gen.module import GenerativeModule
from lightning_gen.protocols import Encodes, Samples
from lightning_gen.render import render, to_uint8

AT_ONCE = 256  # examples in one pass


def main(argv: list[str]) -> None:
    """Parse, load, draw, save."""
    parser = Parser(prog="python scripts/sample.py", description="Draw new examples from a trained model.")
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("-n", type=int, default=64, help="number of examples (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="example k of a seed is always the same (default 0)")
    parser.add_argument(
        "--out", type=Path, help="folder for the files (default: samples/seed_S beside the checkpoints)"
    )
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--interpolate", action="store_true", help="also straight lines between pairs of codes")
    parser.add_argument("--traverse", action="store_true", help="also a row for each latent dimension")
    parser.add_argument("--device", default="cpu", help="where to compute (default cpu)")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given = parser.parse_args(argv)
    if given.n < 1:
        raise UserError(f"-n {given.n}: draw at least 1 example")
    path = find(given.run, given.which)
    model = load_on(path, given.device, given.trust)
    if not isinstance(model, Samples):
        raise UserError(f"{type(model).__name__} cannot make new examples")
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    out = given.out or folder / "samples" / f"seed_{given.seed}"
    source = provenance(model, path) | {"seed": given.seed}
    with torch.inference_mode():
        samples = drawn(model, given.n, given.seed)
        save_png(render(samples, model.spec), out / "grid.png", source)
        if given.interpolate or given.traverse:
            _save_views(model, samples.to(given.device), out, source, given)
    if model.spec.kind == "image":
        for number, picture in enumerate(to_uint8(samples)):
            save_png(picture, out / f"{number:05d}.png", source | {"number": number})
    else:
        np.save(out / "samples.npy", samples.numpy())
    print(f"{given.n} examples of {path} in {out}")


def _save_views(model: GenerativeModule, samples: torch.Tensor, out: Path, source: dict[str, Any], given: Any) -> None:
    if not isinstance(model, Encodes) or model.spec.kind != "image":
        raise UserError(f"{type(model).__name__} on {model.spec.kind} data has no code to traverse or interpolate")
    if given.traverse:
        save_png(
            views.traversals(model, samples[:1], rows=model.encode(samples[:1]).shape[1]),
            out / "traversals.png",
            source,
        )
    if given.interpolate:
        if len(samples) < 2:
            raise UserError("--interpolate needs at least -n 2")
        save_png(views.interpolations(model, samples[0::2][:8], samples[1::2][:8]), out / "interpolations.png", source)


def drawn(model: Samples, n: int, seed: int) -> torch.Tensor:
    """Examples 0 to n - 1 of a seed (n, *shape), on the CPU."""
    starts = range(0, n, AT_ONCE)
    return torch.cat([model.sample(min(AT_ONCE, n - start), seed=seed, start=start).cpu() for start in starts])


def load_on(path: Path, device: str, trust: list[str]) -> GenerativeModule:
    """A checkpoint's model on a device.

    Raises:
        UserError: there is no such device here.
    """
    try:
        return load(path, trust=trust).to(torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}; cpu always works") from None


def provenance(model: GenerativeModule, path: Path) -> dict[str, Any]:
    """What a file says about where it comes from."""
    return {
        "software": f"Lightning-Gen {version('lightning-gen')}",
        "model": type(model).__name__,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
