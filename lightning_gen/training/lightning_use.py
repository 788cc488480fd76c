"""Plain Lightning: loaders of the user's own, and options of a Trainer that mean nothing to this loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import Tensor

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.custom import find_parts
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model
from lightning_gen.datamodules.value_range import check_same_range
from lightning_gen.training.accepted import check_options

CLOSE = 1e-6  # of a scale: means and scales that differ by less are equal but for rounding
MORE = ("text", "factors", "index")  # entries of a batch that are taken as they are
CUSTOM = "wrap the Dataset, lightning_gen.datamodules.custom.Custom(dataset), and give that to the Trainer"
REPLACED = (  # callbacks that need automatic optimization, and the option of a model in their place
    (StochasticWeightAveraging, "ema={player: half-life in images}"),
    (GradientAccumulationScheduler, "accumulate=N"),
)


class LightningUse(L.LightningModule):
    """A LightningModule that may be given to any Trainer, with any loader.

    Loaders without a datamodule give tensors x, (x, y), or dicts with "image" and "label", see ``read_batch``.
    """

    spec: DataSpec
    takes_tokens: ClassVar[bool] = True  # whether tokens are among the values that it is made for

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        check_options(cls, options)
        return super().__new__(cls)

    def configure_callbacks(self) -> list[L.Callback]:
        """None of its own; called before a Trainer begins, it checks that Trainer and sets how batches are read."""
        check_trainer(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        check_units(data, self.spec)
        self.__dict__.pop("on_after_batch_transfer", None)
        if data is None:  # else the datamodule's own, and two would be warned of
            self.__dict__["on_after_batch_transfer"] = self._read_batch
        return []

    def _read_batch(self, batch: Any, dataloader_idx: int) -> dict[str, Tensor]:
        return read_batch(batch, self.spec)


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse what works with automatic optimization alone.

    Raises:
        UserError: that names the option of a model in its place.
    """
    if trainer.gradient_clip_val:
        raise UserError(f"Trainer(gradient_clip_val={trainer.gradient_clip_val}): give the model clip=... instead")
    if trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}): give the model accumulate=N, which "
            "computes each batch in N chunks"
        )
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for kind, instead in REPLACED:
        for callback in callbacks:
            if isinstance(callback, kind):
                raise UserError(f"{type(callback).__name__} does not work here: give the model {instead} instead")


def check_units(data: Any, spec: DataSpec) -> None:
    """Refuse data in another range, or standardized otherwise, than those that a model was made for.

    Raises:
        UserError: that says how to see them as the model does.
    """
    if not isinstance(data, DataModule) or data.spec.shape != spec.shape:
        return
    check_same_range(spec, data.spec)
    if data.spec.values != "real":
        return
    own = data.spec
    near = len(own.scale) == len(spec.scale) and all(
        abs(a - b) <= CLOSE * t and abs(s - t) <= CLOSE * t
        for a, b, s, t in zip(own.mean, spec.mean, own.scale, spec.scale, strict=True)
    )
    if not near:
        raise UserError(
            "these data are standardized by another mean and scale than those of the model: give "
            "data.in_units_of(model.spec)"
        )


def read_batch(batch: Any, spec: DataSpec) -> dict[str, Tensor]:
    """A batch of a user's own loader as models take it.

    Args:
        batch: x, (x, y, ...), or a dict with "x" or "image" and "y" or "label", or with the two sides "a" and "b"; the
            values in the units of the spec, as a data set stores them: images uint8, or floats in [0, 1].
        spec: of the model.

    Raises:
        UserError: of another form, shape or range, which names the data set that adapts any Dataset.
    """
    if spec.has_two_sides:
        found, y = {side: batch.get(side) if isinstance(batch, Mapping) else None for side in "ab"}, None
    else:
        x, y = find_parts(batch)
        found = {"x": x}
    for name, shape in {"x": spec.shape, "a": spec.shape, "b": spec.shape_b}.items():
        if name not in found:
            continue
        x = found[name]
        if not isinstance(x, Tensor):
            raise UserError(f"batches of this loader are {_form(batch)}, without {name}: {CUSTOM}")
        if tuple(x.shape[1:]) != shape:
            wanted = f"(B, {', '.join(map(str, shape))})"
            raise UserError(f"batches of this loader are {tuple(x.shape)}, and the model takes {wanted}: {CUSTOM}")
        found[name] = _examples(x, spec)
    more = {key: batch[key] for key in MORE if key in batch} if isinstance(batch, Mapping) else {}
    if isinstance(y, Tensor) and spec.num_classes and y.ndim == 1 and not y.is_floating_point():
        more |= {"y": y.long()}
    return found | more


def _examples(x: Tensor, spec: DataSpec) -> Tensor:
    """Examples as a model sees them; the spec says what floats of images are, and not each batch for itself."""
    if spec.values not in ("binary", "uint8", "unit") or not x.is_floating_point():
        return to_model(x, spec)
    low, high = spec.range or (0.0, 1.0)
    least, most = (float(bound) for bound in torch.aminmax(x))
    if least < low or most > high:
        raise UserError(
            f"floats of this loader lie in [{least:.3g}, {most:.3g}], and for {spec.values!r} values [{low:g}, "
            f"{high:g}] is expected, as ToTensor of torchvision gives: leave out Normalize, or {CUSTOM}"
        )
    return to_model(x, spec._replace(values="unit"))


def _form(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"dicts with {', '.join(map(str, batch))}"
    inside = ", ".join(type(entry).__name__ for entry in batch) if isinstance(batch, Sequence) else ""
    return f"{type(batch).__name__}{f' of {inside}' if inside else ''}"
