"""Validation of a GAN's options: unknown names, and combinations that do not work."""

from __future__ import annotations

from typing import Any

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.spec import DataSpec

CONDITIONS = ("none", "concat", "projection", "classifier")
SPECTRAL = {"none": (), "discriminator": ("discriminator",), "both": ("discriminator", "generator")}  # whose weights


def check_choices(
    spec: DataSpec,
    condition: str,
    spectral_norm: str,
    pack: int,
    weight_clip: float | None,
    codes: dict[str, Any] | None,
) -> None:
    """Refuse unknown names and impossible combinations; arguments as of ``GAN``.

    Raises:
        UserError: that says what is possible.
    """
    for option, given, known in (
        ("condition", condition, CONDITIONS),
        ("spectral_norm", spectral_norm, SPECTRAL),
    ):
        if given not in known:
            raise unknown(option, given, known)
    if condition == "classifier" and spec.condition == "text":
        raise UserError(
            "condition 'classifier' names a class, and these data come with texts: take concat or projection"
        )
    if weight_clip is not None and not weight_clip > 0:
        raise UserError(f"weight_clip {weight_clip}: the largest weight must be above 0, such as 0.01")
    if pack > 1 and (condition != "none" or codes):
        what = "code to be read off" if codes else f"class for condition {condition!r}"
        raise UserError(f"pack {pack}: the examples of a pack have no one {what}")
