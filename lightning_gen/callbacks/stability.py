"""Checks at each validation for collapse or divergence of adversarial training, and warns or stops."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gen.adversarial.stability import FATAL_VERDICTS, Verdict, assess, report, warning_message
from lightning_gen.callbacks.watch import Watch
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.evaluation.evaluation_run import check_finite, fixed_permutation
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.neighbours import nearest
from lightning_gen.networks.condition import condition_of, conditions_in_turn
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE, sample_in_batches
from lightning_gen.training.ema import MovingAverages
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.finite import NonFinite
from lightning_gen.training.module import GenerativeModule

EXAMPLES = 512  # real ones and samples, at most
NUMBERS = 2**24  # that these hold together, at most: 64 MiB
LEAST = 10  # examples: fewer are not informative
RARE = 0.01  # share of real examples whose nearest other one is as near as that of a duplicate


class Stability(Callback):
    """Measures samples and discriminator at each validation, and reports when the training collapses or diverges.

    - ``val/logit_real``, ``val/logit_fake``: the discriminator's mean logit of validation examples and of samples, and
      ``val/logit_gap``, their difference; ``val/sign_real``, ``val/sign_fake``: the shares of positive logits. They are
      missing where the discriminator is packed (PacGAN).
    - ``val/diversity``: mean distance of two samples over that of two validation examples; 1 is as varied as the data,
      0 all the same.
    - ``val/duplicates``: share of samples with another one nearer than 99 % of the validation examples have one.
    - ``val/nearest``: median distance of a sample to the nearest validation example, over that of a validation example
      to the nearest other one; 1 is as near as real examples are, noise is far.
    - ``val/ema_distance``: |averaged - current| / |current| of the weights that have a moving average.

    The samples have fixed indices of a fixed seed, and for a conditional model labels that cycle through all classes,
    or the texts of the validation examples; the random numbers of training are untouched. The verdict is that of
    ``lightning_gen.adversarial.stability``.

    Args:
        data: of the run; the validation examples are in a fixed random order.
        on_collapse: "warn" prints a line each time that the verdict gets worse, "stop" also ends the run at a
            collapse or divergence verdict.
        watch: whose distances are part of the verdict.
        seed: of the samples.
    """

    def __init__(self, data: DataModule, on_collapse: str = "warn", watch: Watch | None = None, seed: int = 0) -> None:
        self.data, self.on_collapse, self.watch, self.seed = data, on_collapse, watch, seed
        self.history: list[dict[str, float]] = []
        self.verdict = Verdict("healthy", "")
        self.stopped = False
        self._measured: dict[str, float] = {}  # at this validation
        self._options: dict[str, Any] = {}  # of the model
        self._real: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: GenerativeModule, stage: str) -> None:  # type: ignore[override]
        self._options = dict(pl_module.hparams)
        if any(isinstance(module, _BatchNorm) for module in getattr(pl_module, "discriminator", nn.Module()).modules()):
            self._options["critic_args"] = {**(self._options.get("critic_args") or {}), "norm": "batch"}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        # by one rank, because the others' statistics may differ, and all ranks need the same verdict
        values, trouble = self._tried(pl_module) if trainer.is_global_zero else ({}, None)
        self._measured, trouble = trainer.strategy.broadcast((values, trouble))
        if trouble:
            raise UserError(trouble)  # on all ranks, of which none may wait for another
        pl_module.log_dict(self._measured, logger=False)
        pl_module.log_to_loggers(self._measured)

    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._measured:
            return
        watched = {name: float(trainer.callback_metrics[name]) for name in (self.watch.names if self.watch else ())}
        self.history.append({"iteration": pl_module.iteration, **self._measured, **watched})
        before, self.verdict = self.verdict, assess(self.history, pl_module.total or 0)
        if self.verdict.worse_than(before) and trainer.is_global_zero:
            print(f"\nwarning: iteration {pl_module.iteration:,}: {self.message()}", flush=True)
        if self.on_collapse == "stop" and self.verdict.verdict in FATAL_VERDICTS:
            self.stopped = trainer.should_stop = True  # Checkpoints, which comes next, saves at each validation

    def message(self) -> str:
        """The verdict, its evidence and suggested fixes, as one line."""
        return warning_message(self.verdict, self._options)

    def report(self) -> dict[str, Any] | None:
        """Its entry in summary.json."""
        return report(self.history, self.verdict, self._options)

    # Measurements

    def _tried(self, model: GenerativeModule) -> tuple[dict[str, float], str | None]:
        """The values, or why there are none."""
        try:
            return self._measure(model), None
        except (UserError, NonFinite) as error:
            return {}, str(error)

    def _measure(self, model: GenerativeModule) -> dict[str, float]:
        real, y = self._examples()
        if len(real) < LEAST:
            return {}
        with evaluation_mode(model):
            asked = conditions_in_turn(model, torch.arange(len(real)), y)
            fake = _sampled(model, len(real), asked, self.seed)
            logits = _logits(model, real, None if asked is None else y, fake, asked)
        return {**logits, **_variety(real, fake, model.spec), **_ema_distance(model)}

    def _examples(self) -> tuple[Tensor, Tensor | None]:
        """Validation examples (n, *shape) and, where known, their conditions (n, ...); read once."""
        if not self._real:
            size, dims = self.data.size("val"), math.prod(self.data.spec.shape)
            order = fixed_permutation(size)
            self._real = self.data.examples("val", order[: max(LEAST, min(EXAMPLES, NUMBERS // dims))])
        return self._real["x"], condition_of(self._real)

    # State

    def state_dict(self) -> dict[str, Any]:
        return {"history": list(self.history), "verdict": list(self.verdict)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.verdict = list(state_dict["history"]), Verdict(*state_dict["verdict"])


def _sampled(model: Any, n: int, y: Tensor | None, seed: int) -> Tensor:
    """Samples number 0 to n - 1 (n, *shape) under these conditions (n, ...), on the CPU."""
    samples = sample_in_batches(model, n, seed, y).float()
    check_finite(samples, "samples")
    return samples


def _logits(model: Any, real: Tensor, y: Tensor | None, fake: Tensor, asked: Tensor | None) -> dict[str, float]:
    """Discriminator logits of validation examples and of samples (n, *shape) under their conditions."""
    try:
        of_real, of_fake = _judged(model, real, y), _judged(model, fake, asked)
    except UserError:  # a packed discriminator scores no single example
        return {}
    check_finite(torch.cat([of_real, of_fake]), "logits")
    means = {"real": float(of_real.mean()), "fake": float(of_fake.mean())}
    signs = {"real": float((of_real > 0).double().mean()), "fake": float((of_fake > 0).double().mean())}
    return {
        **{f"val/logit_{side}": mean for side, mean in means.items()},
        "val/logit_gap": means["real"] - means["fake"],
        **{f"val/sign_{side}": share for side, share in signs.items()},
    }


def _judged(model: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """Logits (n,) in float64, on the CPU."""
    parts = []
    for rows in torch.arange(len(x)).split(EVAL_BATCH_SIZE):
        condition = {} if y is None else {"y": y[rows].to(model.device)}
        parts.append(model.discriminate(x[rows].to(model.device), **condition).double().cpu())
    return torch.cat(parts)


def _variety(real: Tensor, fake: Tensor, spec: DataSpec) -> dict[str, float]:
    """Diversity and duplicates of samples beside as many real examples (n, *shape), and how far they are from these."""
    places = [kind_of(spec).points(x).double() for x in (real, fake)]
    apart = nearest(places[0], places[0], 1, exclude_self=True)[0]
    far = float(nearest(places[1], places[0], 1)[0].median() / apart.median()) if apart.median() else 0.0
    real, fake = (place - place.mean(0) for place in places)
    usual = _mean_distance(real)
    near = apart.quantile(RARE)
    copies = nearest(fake, fake, 1, exclude_self=True)[0] <= near
    diversity = float(_mean_distance(fake) / usual) if usual else 1.0
    return {"val/diversity": diversity, "val/duplicates": float(copies.double().mean()), "val/nearest": far}


def _mean_distance(x: Tensor) -> Tensor:
    """Of two different rows of x (n, D)."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))


def _ema_distance(model: GenerativeModule) -> dict[str, float]:
    averages = model._modules.get("averages")
    if not isinstance(averages, MovingAverages):
        return {}
    averaged = [p.detach() for network in averages.values() for p in network.parameters()]
    current = [p.detach() for name in averages for p in model.get_submodule(name).parameters()]
    apart, size = (
        torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))
        for parts in (torch._foreach_sub(averaged, current), current)
    )
    return {"val/ema_distance": float(apart / size)}
