"""Standing statistics: batch norm statistics of the averaged generator are recomputed before it is used or saved.

Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
https://arxiv.org/abs/1809.11096, section 3: averaged weights never see a batch in training, so the running statistics
of their batch norms belong to other weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.condition import call, conditions_in_turn
from lightning_gen.training.ema import MovingAverages
from lightning_gen.training.noise import indexed_noise

BATCHES, SIZE = 16, 64


class StandingStatistics:
    """Recomputes them for the average of the submodule "generator"; mixed into a GenerativeModule with latent codes.

    They are a function of the weights, so a checkpoint holds the same ones whenever the run was interrupted before.
    """

    classes: int
    condition_length: int
    _measured = -1  # iteration whose weights were measured

    def check_statistics(self, generator: nn.Module) -> None:
        """Refuse averaged batch norms whose statistics cannot be measured later.

        Raises:
            UserError: the generator is conditioned on texts, which a checkpoint does not hold.
        """
        norms = any(isinstance(m, _BatchNorm) for m in generator.modules())
        if norms and self.condition_length and "generator" in self.half_life:  # type: ignore[attr-defined]
            raise UserError(
                "ema.generator: the batch norms of averaged weights are measured on samples, and of texts none are at "
                "hand: add --model.network_args.norm layer, or leave ema.generator out"
            )

    def update_standing_statistics(self) -> None:
        """Recompute the statistics, unless it has been done for these weights."""
        averages = self._modules.get("averages")  # type: ignore[attr-defined]
        if (
            isinstance(averages, MovingAverages) and "generator" in averages and self._measured != self.iteration  # type: ignore[attr-defined]
        ):
            self._measured = self.iteration  # type: ignore[attr-defined]
            update_bn(averages["generator"], lambda batch: self._pass(averages["generator"], batch))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()  # type: ignore[misc]
        self.update_standing_statistics()  # on all ranks alike: later the first one may draw samples alone

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        self.update_standing_statistics()  # in place, so that the checkpoint, which holds the same tensors, has them

    def _pass(self: Any, generator: nn.Module, batch: int) -> Tensor:
        """Batch number ``batch`` of fixed codes, with labels cycling through all classes."""
        numbers = range(batch * SIZE, (batch + 1) * SIZE)
        z = self.draw(indexed_noise(numbers, (self.draw_dim,), self.seed, "standing").to(self.device))
        return call(generator, z, conditions_in_turn(self, torch.tensor(numbers, device=self.device)))


@torch.no_grad()
def update_bn(network: nn.Module, run: Callable[[int], object]) -> None:
    """Set the running statistics of a network in eval mode to the means over ``BATCHES`` batches.

    Args:
        network: whose batch norms are measured; nothing else in it changes.
        run: passes batch number k through it.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    try:
        for batch in range(BATCHES if norms else 0):
            run(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
