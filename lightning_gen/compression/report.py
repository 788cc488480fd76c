"""Size of a compressed file, beside the ideal code length under the model and the baselines."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gen.compression.baselines import measure_baselines
from lightning_gen.compression.codec import Encoded, coder_for
from lightning_gen.compression.image_io import to_stored_values
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_units
from lightning_gen.storage.runs import environment
from lightning_gen.training.module import GenerativeModule


class Line(NamedTuple):
    """A row of the table: what, its bytes, and what is to be said of it."""

    what: str
    size: float
    note: str


def measure(model: GenerativeModule, x: Tensor, made: Encoded, others: bool = True) -> dict[str, Any]:
    """All figures of a file, as plain values.

    Args:
        model: that encoded it.
        x: (n, *shape) what was encoded.
        made: the file.
        others: also measure other compressors, which takes longer than the coding.
    """
    coder = coder_for(model)
    with torch.inference_mode():
        bits = coder.ideal_bits(made.symbols, made.header.block)
        back = None if coder.lossless else coder.from_symbols(made.symbols, made.header.block)
        error = None if back is None else _mean_squared_error(x, back, model.spec)
    count, dims = len(x), math.prod(x.shape)
    report: dict[str, Any] = {
        "method": made.header.method,
        "lossless": coder.lossless,
        "examples": count,
        "shape": list(x.shape[1:]),
        "values": model.spec.values,
        "bits": model.spec.bits or (32 if model.spec.values == "real" else 8),
        "bytes": len(made.content),
        "payload_bytes": made.payload,
        "header_bytes": len(made.content) - made.payload,
        "bits_per_dim": 8 * len(made.content) / dims,
        "bits_per_example": 8 * len(made.content) / count,
        "bound": "-ELBO" if coder.lossless else "-log p(tokens)",
        "bound_bytes": bits / 8,
        "bound_bits_per_dim": bits / dims,
        "over_bound": 8 * len(made.content) / bits if bits > 0 else None,
        "model_bytes": sum(value.numel() * value.element_size() for value in _tensors(model)),
        "block": made.header.block,
        "settings": made.header.settings,
        "encoded_per_second": count / made.encoding,
        "decoded_per_second": count / made.decoding,
        "environment": environment(torch.device("cpu")),
    }
    if error is not None:
        report["mse"] = error
        if model.spec.values != "real":  # which have no largest value
            report["psnr"] = -10 * math.log10(max(error, 1e-12))
    levels = _levels(model, x) if others else None
    if levels is not None:
        report["others"] = [peer._asdict() for peer in measure_baselines(levels, model.spec.values == "binary")]
    return report


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    count, dims = report["examples"], report["examples"] * math.prod(report["shape"])
    shape = "x".join(map(str, report["shape"]))
    bits = 1 if report["values"] == "binary" else report["bits"]
    loss = f"PSNR {report['psnr']:.2f} dB" if "psnr" in report else f"mean squared error {report.get('mse', 0):.4g}"
    coded = "lossless, verified" if report["lossless"] else f"lossy, {loss}; tokens verified"
    also = "" if report["lossless"] else ", lossless"
    lines = [
        Line("this file", report["bytes"], coded),
        Line("  its header", report["header_bytes"], "names, hashes, checksum"),
        Line(f"{report['bound']} of the model", report["bound_bytes"], _over(report["over_bound"])),
        Line("not compressed", dims * bits / 8, f"{bits} bits for each value"),
        *(Line(peer["name"], peer["size"], peer["how"] + also) for peer in report.get("others", [])),
    ]
    rows = [f"{line.what:<28}{line.size:>14,.0f}{8 * line.size / dims:>12.4f}   {line.note}" for line in lines]
    head = f"{f'{count:,} examples of {shape}':<28}{'bytes':>14}{'bits/dim':>12}"
    speed = f"encoded {report['encoded_per_second']:,.0f}, decoded {report['decoded_per_second']:,.0f} examples/s"
    where = f"{report['environment']['device']}, {report['environment']['threads']} thread(s)"
    model = f"the model, which both sides need: {report['model_bytes']:,} bytes"
    return "\n".join([head, *rows, f"{speed} ({where}); {model}"])


def _over(ratio: float | None) -> str:
    return "" if ratio is None else f"the file is {ratio:.4f} times that"


def _mean_squared_error(x: Tensor, y: Tensor, spec: DataSpec) -> float:
    """Of values in [0, 1], or in the data's own units where these are real."""
    if spec.values == "real":
        x, y = to_units(x, spec), to_units(y, spec)
    error = float((x.double() - y.double()).square().mean())
    return error if spec.values == "real" else error / 4  # x is in [-1, 1]


def _tensors(model: GenerativeModule) -> list[Tensor]:
    """Parameters and buffers, without the moving averages that are a second copy."""
    return [value for key, value in model.state_dict().items() if not key.startswith("averages.")]


def _levels(model: GenerativeModule, x: Tensor) -> np.ndarray | None:
    """The input of other compressors: uint8 (n, *shape), 0 and 1 where binary; None for data of other values."""
    if model.spec.values not in ("binary", "uint8"):
        return None
    levels = to_stored_values(x, model.spec)
    return (levels > 127).astype(np.uint8) if model.spec.values == "binary" else levels
