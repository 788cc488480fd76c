"""Base class of autoencoders: terms of the loss, and reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.conditional import ConditionalMixin
from lightning_gen.networks.condition import call, condition_of
from lightning_gen.objectives.groups import grouped_steps
from lightning_gen.objectives.latent import Step
from lightning_gen.objectives.terms import Term, parse_terms
from lightning_gen.schedule import schedule
from lightning_gen.training.accepted import of_examples
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.validation import Batch, Logs, Rows


class AutoencoderBase(ConditionalMixin, GenerativeModule):
    """x -> code -> x, with loss = reconstruction + sum of weight * term.

    Args:
        spec: the data's spec.
        terms: term -> weight, ramp, or {weight, **arguments}.
        conditional: whether the networks are conditioned on each example's class or text.
        **options: of GenerativeModule.

    Raises:
        UserError: an unknown term; a conditional model on data without labels and texts.
    """

    known_terms: ClassVar[Mapping[str, Term]]
    nonstationary_terms: ClassVar[frozenset[str]] = frozenset()  # by a network in training: not comparable in time

    def __init__(self, spec: DataSpec, *, terms: dict[str, Any], conditional: bool = False, **options: Any) -> None:
        super().__init__(spec, **options)
        self.setup_condition(conditional)
        self.terms = parse_terms(terms, self.known_terms)
        self.weights = {name: schedule(term.weight) for name, term in self.terms.items()}
        for name, term in self.terms.items():
            self.schedules |= term.schedules(name)

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        return self(batch["x"], condition_of(batch))

    # Terms

    def term_values(self, s: Step) -> Logs:
        """Each term, (B,); in validation the codes are kept in the place of those that couple examples."""
        coupled = {name for name, term in self.terms.items() if term.couples_examples}
        if self.rows is None or not coupled:
            return {name: term(s, self.weight) for name, term in self.terms.items()}
        codes = {"z": s.z, "mean": s.mean, "log_var": s.log_var, "prior": s.prior and s.prior()}
        self.rows.add(self.example_indices, {name: code for name, code in codes.items() if code is not None})
        return {name: term(s, self.weight) for name, term in self.terms.items() if name not in coupled}

    def values_of_all(self, rows: Rows) -> Logs:
        """The terms that couple examples, each the mean over groups of examples, weighted by their numbers."""
        coupled = {name: term for name, term in self.terms.items() if term.couples_examples}
        if not coupled:
            return {}
        codes, sums = rows.gather(self.trainer.world_size), dict.fromkeys(coupled, torch.zeros(()).double())
        for group in grouped_steps({name: code.to(self.device) for name, code in codes.items()}, self.spec.size):
            for name, term in coupled.items():
                sums[name] = sums[name] + term(group, self.weight).double().sum().cpu()
        return {name: total / len(codes["z"]) for name, total in sums.items()}

    def weighted_loss(self, values: Logs) -> tuple[Tensor, Logs]:
        """reconstruction + sum of weight * term, and the means of all, from values (B,)."""
        means = {name: value.mean() for name, value in values.items()}
        loss = means["reconstruction"]
        for name, weight in self.weights.items():
            loss = torch.add(loss, means[name], alpha=self.weight(weight))
        return loss, means

    def validation_loss(self, values: Logs) -> Tensor:
        """The same sum for each example (B,), with the final weights, and without ``nonstationary_terms``.

        Terms that couple examples join it in ``validation_summary``.
        """
        there = {name: self.weights[name].end for name in self.comparable_terms if name in values}
        return values["reconstruction"] + sum(weight * values[name] for name, weight in there.items())

    @property
    def comparable_terms(self) -> list[str]:
        """Those of the loss of validation."""
        return [name for name in self.weights if name not in self.nonstationary_terms]

    def validation_summary(self, means: Logs) -> dict[str, float]:
        coupled = [name for name in self.comparable_terms if name in self.terms and self.terms[name].couples_examples]
        if "loss" in means:
            means = means | {"loss": means["loss"] + sum(self.weights[name].end * means[name] for name in coupled)}
        return super().validation_summary(means)


class ReconstructionMixin:
    """Reconstructs through the latent code; the class that mixes it in defines ``encode`` and ``decode``."""

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> z (B, Z), the mean where the code is random."""
        raise NotImplementedError

    @of_examples
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> (B, *shape)."""
        return self.decode(self.encode(x, y), y)  # type: ignore[attr-defined]

    forward = reconstruct


class GaussianPosteriorMixin(ReconstructionMixin):
    """q(z|x) = N(mu(x), diag sigma^2(x)), both from one encoder, which gives them side by side."""

    @of_examples
    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, *shape), classes (B,) of a conditional model -> mean (B, Z) and log-variance (B, Z) of q(z|x)."""
        return split_gaussian_params(call(self.network("encoder"), x, self.condition(y)))  # type: ignore[attr-defined]

    @of_examples
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) of a conditional model -> posterior mean (B, Z)."""
        return self.posterior(x, y)[0]


def split_gaussian_params(out: Tensor) -> tuple[Tensor, Tensor]:
    """A network's output (..., 2Z) -> mean and log-variance (..., Z), in float32 under autocast too, as nats are."""
    mean, log_var = out.float().chunk(2, dim=-1)
    return mean, log_var
