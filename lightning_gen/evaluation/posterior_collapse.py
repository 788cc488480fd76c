"""Posterior collapse: active units, KL per dimension and mutual information of a trained model, and suggestions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gen.datamodules.base import DataModule
from lightning_gen.metrics.latents import collapse_report, mutual_information
from lightning_gen.networks.condition import condition_of
from lightning_gen.objectives.latent import reparameterise
from lightning_gen.protocols import HasLatentKL, Posterior
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.noise import indexed_noise

EXAMPLES = 1000  # of the validation set


def report(model: GenerativeModule, data: Any) -> dict[str, Any] | None:
    """How much the latents carry, by the KL of the last validation and the codes of validation examples.

    Args:
        model: after a validation, in eval mode.
        data: that it was trained on.

    Returns:
        The result of ``collapse_report``; of a model with a Gaussian code also mutual_information, in nats, at most the
        log of the number of examples. None for a model without latents, or before a validation.
    """
    if not isinstance(model, HasLatentKL) or not model.kl_per_dimension.any():
        return None
    kl = model.kl_per_dimension.double().cpu()
    if not (isinstance(model, Posterior) and isinstance(data, DataModule)):
        return collapse_report(kl)
    z, mean, log_var = _codes(model, data)
    information = float(mutual_information(z, mean, log_var))
    by_dimension = len(kl) == mean.shape[1]  # of several layers the KL is by layer, and the code is the lowest
    variance = mean.double().var(0, correction=0) if by_dimension else None
    return {**collapse_report(kl, variance), "mutual_information": information}


def _codes(model: Any, data: DataModule) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, means and log-variances (n, Z) of q(z|x) of the first validation examples, on the CPU."""
    data, parts = data.in_units_of(model.spec), []
    for rows in torch.arange(min(EXAMPLES, data.size("val"))).split(EVAL_BATCH_SIZE):
        batch = {name: value.to(model.device) for name, value in data.examples("val", rows).items()}
        if not len(batch["x"]):  # none could be read
            continue
        mean, log_var = (part.cpu() for part in model.posterior(batch["x"], condition_of(batch)))
        noise = indexed_noise(batch["index"].tolist(), tuple(mean.shape[1:]), model.seed, "code")
        parts.append((reparameterise(mean, log_var, noise), mean, log_var))
    z, mean, log_var = (torch.cat(part) for part in zip(*parts, strict=True))
    return z, mean, log_var
