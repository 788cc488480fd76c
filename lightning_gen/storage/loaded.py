"""A trained model for the commands that use it: on a device, with its examples and their provenance."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.files import check_memory
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.protocols import Samples
from lightning_gen.storage.checkpoints import load
from lightning_gen.training.module import GenerativeModule

EVAL_BATCH_SIZE = 256  # examples in one pass; fixed, because a batch's size changes results in the last digits
DEVICES = "where to compute: auto (a CUDA GPU where there is one, the default), cpu, cuda, cuda:1 or mps"
PER_EXAMPLE = 1024  # bytes of its name and provenance


def sample_in_batches(model: Samples, n: int, seed: int, y: torch.Tensor | None = None) -> torch.Tensor:
    """Examples 0 to n - 1 of a seed (n, *shape), on the CPU; y (n, ...): conditions, of a model that takes any.

    Raises:
        UserError: they do not fit into memory.
    """
    check_count(n, model.spec)  # type: ignore[attr-defined]
    parts = []
    for start in range(0, n, EVAL_BATCH_SIZE):
        asked = {} if y is None else {"y": y[start : start + EVAL_BATCH_SIZE].to(model.device)}  # type: ignore[attr-defined]
        parts.append(model.sample(min(EVAL_BATCH_SIZE, n - start), seed=seed, start=start, **asked).cpu())
    return torch.cat(parts)


def check_finite(values: torch.Tensor, what: str) -> None:
    """Refuse values (n, ...) of which some are not finite.

    Raises:
        UserError: that says of how many examples.
    """
    bad = int((~values.flatten(1).isfinite().all(1)).sum()) if values.dim() > 1 else int((~values.isfinite()).sum())
    if bad:
        raise UserError(f"{what}: {bad} of {len(values)} are not finite: has the model diverged?")


def check_count(n: int, spec: DataSpec) -> None:
    """Refuse more examples than memory holds, before any is drawn.

    Raises:
        UserError: they are too many.
    """
    size = n * (3 * 4 * math.prod(spec.shape) + PER_EXAMPLE)  # drawn, joined, and as files
    check_memory(size, f"-n {n:,}: so many examples", "draw fewer")


def resolve_device(name: str) -> str:
    """The device that "auto" means here, the first CUDA device or the CPU; other names stay.

    MPS is for those who ask for it: it has no float64.
    """
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def describe_device(device: torch.device) -> str:
    """A device as a person knows it, such as "cpu" or "cuda:0 (NVIDIA H200)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def load_on(path: Path, device: str, trust: list[str]) -> GenerativeModule:
    """A checkpoint's model on a device; "auto": a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    try:
        place = torch.device(resolve_device(device))
        torch.ones(1, device=place).item()  # "meta" computes nothing, others are known to torch but not here
    except Exception as error:  # of a driver, too
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"--device {device}: {reason}; cpu always works") from None
    return load(path, trust=trust).to(place)


def provenance(model: GenerativeModule, path: Path) -> dict[str, Any]:
    """What a file says about where it comes from."""
    return {
        "software": f"Lightning-Gen {version('lightning-gen')}",
        "model": type(model).__name__,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
