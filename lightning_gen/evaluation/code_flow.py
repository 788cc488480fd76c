"""A flow of codes: where the codes of new examples come from, fitted once a model is trained.

Flow matching (Lipman et al. 2023, https://arxiv.org/abs/2210.02747) of the aggregate posterior, as latent diffusion
does (Vahdat et al. 2021, https://arxiv.org/abs/2106.05931), in the dimensions that carry something: the others follow
the prior already, and would only add noise to the fit. They are standardised by their measured moments.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.solvers import find_solver, time_grid
from lightning_gen.networks.denoisers import MLPDenoiser
from lightning_gen.objectives.flow_times import shifted
from lightning_gen.objectives.latent import ACTIVE
from lightning_gen.objectives.paths import PATHS, PREDICTIONS, denoising_error

WIDTH, DEPTH = 192, 3
STEPS, BATCH, LR, AVERAGE = 3000, 256, 2e-3, 0.999
SHIFT = 0.5  # of the times of training and of the solver's steps, towards the codes
NFE = 7
FEWEST = 100  # codes


class CodeFlow:
    """z = mean + std * x in the active dimensions, x by the flow from noise; the others are the noise, or their mean.

    Args:
        network: a denoiser of (B, active dimensions).
        active: (Z,) bool.
        mean: (Z,) of the codes.
        std: (Z,) of the codes; of the others 1 where the code is random, else 0.
    """

    def __init__(self, network: MLPDenoiser, active: Tensor, mean: Tensor, std: Tensor) -> None:
        self.network, self.active, self.mean, self.std = network, active, mean, std
        self.draw_dim = len(mean)

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, Z) -> z (n, Z)."""
        path, solver = PATHS["linear"], find_solver("heun", NFE)
        times = time_grid(solver.steps(NFE), SHIFT).to(noise)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return PREDICTIONS["v"].denoised(path, self.network(x, t), x, t, 1.0)

        x = noise.clone()
        x[:, self.active] = solver.run(denoise, path, noise[:, self.active], times, lambda k: noise)
        return self.mean + self.std * x


def fit_flow(codes: Tensor, random: bool, seed: int) -> CodeFlow:
    """A flow of codes, fitted by some 3,000 steps of Adam: half a minute of a core.

    Args:
        codes: (N, Z) of training examples, the means where they are random: samples are nearer to the data than by a
            fit of draws.
        random: whether the model draws its codes: dimensions that are not active are then noise, and else constant.
        seed: of the fit.

    Raises:
        UserError: too few codes, or codes that all are the same.
    """
    count, dims = codes.shape
    if count < FEWEST:
        raise UserError(
            f"a flow of codes needs {FEWEST} training examples, and there are {count}: try --sampler normal"
        )
    active = codes.var(0) > (ACTIVE if random else 0)
    if not active.any():
        raise UserError(f"none of {dims} dimensions of the code says anything of the example: --sampler prior")
    centre = torch.where(active, codes.mean(0), 0.0) if random else codes.mean(0)
    std = torch.where(active, codes.std(0), float(random))
    own = (codes[:, active] - centre[active]) / std[active]
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        network = _fitted(own.clone(), seed)
    return CodeFlow(network, active, centre, std)


def _fitted(codes: Tensor, seed: int) -> MLPDenoiser:
    path, dims = PATHS["linear"], codes.shape[1]
    network = MLPDenoiser(DataSpec((dims,), "vector", "real"), width=WIDTH, depth=DEPTH).to(codes.device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), LR, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 100, (STEPS - step) / (0.6 * STEPS))
        rows = torch.randint(len(codes), (BATCH,), generator=generator)
        x, noise = codes[rows], torch.randn(BATCH, dims, generator=generator).to(codes)
        u = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = shifted(u, SHIFT).to(codes)
        loss = denoising_error(path, "v", "v", network(path.at(x, noise, t), t), x, noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    return average
