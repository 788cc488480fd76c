"""Data parallelism for alternating optimizers: one all-reduce of one flat buffer for each optimizer step.

DistributedDataParallel hooks into backward passes. With several optimizers it must search each of them for parameters
that were not used, and it reduces once for each chunk of an accumulated batch. Here nothing is wrapped: when a player
has its gradients, they are averaged over the ranks in one call, then its optimizer steps. The sums are the same.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gen.cluster.launcher import SubprocessLauncher
from lightning_gen.exits import destroy_gloo_group

PATIENCE = 1800  # seconds


class FlatStrategy(DDPStrategy):
    """As ``DDPStrategy``, without its wrapper: ``average_gradients`` is called before each step of an optimizer.

    The running statistics of batch norms are averaged along with the gradients, so all ranks hold the same at every
    iteration: their mean is that of the global batch, their variance the mean of the ranks' variances.

    Args:
        timeout: how long a rank waits for the others before it gives up.
        **options: of ``DDPStrategy``, without those of its wrapper.
    """

    strategy_name = "flat"

    def __init__(self, timeout: timedelta = timedelta(seconds=PATIENCE), **options: Any) -> None:
        super().__init__(timeout=timeout, **options)
        self.bytes_sent = self.reductions = 0  # of one rank, for the model of the costs in docs/cluster.md

    def setup_environment(self) -> None:
        super().setup_environment()
        atexit.register(destroy_gloo_group)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = SubprocessLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """All ranks start from the weights of the first one."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            torch.distributed.broadcast(tensor.detach(), src=0)
        self._statistics = [
            statistic
            for module in self.model.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and module.training
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients of one player by their means over all ranks, and so the statistics of batch norms.

        A parameter without a gradient on this rank gets one if another rank has one, else it stays without.
        """
        absent = [index for index, p in enumerate(parameters) if p.grad is None]
        present = torch.ones(len(parameters), device=self.root_device)
        if absent:
            present[absent] = 0.0
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        shared = [*gradients, *self._statistics]
        flat = torch.cat([*(part.reshape(-1).float() for part in shared), present])
        flat /= self.world_size
        torch.distributed.all_reduce(flat)
        self.bytes_sent += flat.numel() * flat.element_size()
        self.reductions += 1
        *means, somewhere = flat.split([*(part.numel() for part in shared), len(parameters)])
        torch._foreach_copy_(shared, [mean.view_as(part) for mean, part in zip(means, shared, strict=True)])
        for index in absent:  # waits for the device, but only where there are such
            if somewhere[index] > 0:
                parameters[index].grad = gradients[index]


StrategyRegistry.register("flat", FlatStrategy, description="one all-reduce for each step of an optimizer")
