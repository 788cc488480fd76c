"""Lossless coding with a VAE: bits-back, Townsend et al. 2019, arXiv:1901.04866 (after Hinton and van Camp 1993).

    for each example:  pop z ~ q(z|x)      push x under p(x|z)      push z under p(z)               (section 2.3)
    length = -log p(x|z) - log p(z) + log q(z|x),  on average -ELBO

z lies on a grid of step d in [-8, 8): q and p are the masses of its cells, x is decoded from their centres. The bits
that choose the first z are the initial bits of the stack; later ones are those of the examples before. The networks
see the examples in blocks, so several z are popped before the first x is pushed: a block of n takes n times the bits.
So blocks grow from single examples on, with what is in the stack.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lightning_gen.compression.coder import Coder, Settings, decoding_error
from lightning_gen.compression.pixel_coders import PixelCoder, pixel_coder_for
from lightning_gen.compression.stack import AnsStack, import_constriction
from lightning_gen.datamodules.errors import UserError
from lightning_gen.objectives.levels import counting_levels
from lightning_gen.objectives.priors import Normal
from lightning_gen.protocols import Posterior

REACH = 8  # the grid covers z in [-REACH, REACH)
FINEST, COARSEST = 10, 4
RAMP = 8  # a block holds at most one RAMP-th of the examples before it
PRECISION = 24  # bits: largest length of one symbol


@runtime_checkable
class Decodable(Posterior, Protocol):
    """The model's methods for bits-back coding, beside the posterior."""

    likelihood: Any
    prior: Any
    latent_dim: int

    def output(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z) -> the decoder's output (B, *params), as the likelihood reads it."""


class Grid:
    """Cells of z, of width 2^-bits."""

    def __init__(self, bits: int) -> None:
        self.step = 2.0**-bits
        self.last = REACH * 2**bits - 1
        self.family = import_constriction().stream.model.QuantizedGaussian(-self.last - 1, self.last)

    def posterior(self, mean: Tensor, log_var: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log-variance (n, Z) -> means and standard deviations in cells, float64."""
        mean = (mean.double() / self.step).clamp(-self.last - 1, self.last)
        return mean.numpy(), (torch.exp(0.5 * log_var.double()) / self.step).clamp(1e-2, 1e6).numpy()

    def prior(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of N(0, I), (count,)."""
        return np.zeros(count), np.full(count, 1 / self.step)

    def centre(self, cells: np.ndarray) -> Tensor:
        """Cells (n, Z) -> z."""
        return torch.from_numpy(cells * self.step).float()


class BitsBack(Coder):
    """Codes the levels of x with a VAE.

    Args:
        model: a VAE with a Gaussian posterior, N(0, I) as prior, and a likelihood of levels, in eval mode on the CPU.

    Raises:
        UserError: the model is another one; says why.
    """

    name = "bits-back"
    lossless = True
    default_block: ClassVar[int] = 64

    def __init__(self, model: Any) -> None:
        self.model, self.pixels = model, check(model)

    def to_symbols(self, x: Tensor, block: int) -> Tensor:
        """x (n, *shape) in the range of the data -> levels uint8."""
        return self.pixels.to_levels(x)

    def from_symbols(self, symbols: Tensor, block: int) -> Tensor:
        """Levels -> x."""
        return self.pixels.to_x(symbols)

    def encode(self, symbols: Tensor, block: int) -> tuple[np.ndarray, Settings]:
        bits = self._grid_bits(symbols, block)
        grid, stack, width = Grid(bits), AnsStack(), self.model.latent_dim
        pixels = self._pixels_of(symbols)
        for here in block_slices(len(symbols), block):
            levels = symbols[here]
            means, deviations = grid.posterior(*self._posterior(levels))
            cells = []
            for mean, deviation in zip(means, deviations, strict=True):
                stack.reserve(PRECISION * width)
                cells.append(stack.pop(grid.family, mean, deviation))
            outs = self._outputs(grid, cells)
            for level, out in zip(levels, outs, strict=True):
                pixels.push(stack, level, out)
            for cell in cells:
                stack.push(cell, grid.family, *grid.prior(width))
        return stack.words(), {"grid": bits, "ground": stack.num_initial_words, "levels": len(pixels.coded)}

    def decode(self, words: np.ndarray, count: int, block: int, settings: Settings) -> Tensor:
        bits = settings.get("grid")
        if not isinstance(bits, int) or not COARSEST <= bits <= FINEST:
            raise decoding_error(f"it tells of a grid of 2^-{bits}")
        grid, stack, width = Grid(bits), AnsStack(words), self.model.latent_dim
        every, few = self.pixels, self._of_few_levels
        pixels = few if few and settings.get("levels") == len(few.coded) else every
        parts: list[Tensor] = []
        for here in reversed_block_slices(count, block):
            n = here.stop - here.start
            cells = [stack.pop(grid.family, *grid.prior(width)) for _ in range(n)][::-1]
            outs = self._outputs(grid, cells)
            rows = [pixels.pop(stack, outs[k]) for k in reversed(range(n))][::-1]
            levels = torch.stack(rows).unflatten(1, self.model.spec.shape)  # (n, D) -> (n, *shape)
            means, deviations = grid.posterior(*self._posterior(levels))
            for k in reversed(range(n)):
                stack.push(cells[k], grid.family, means[k], deviations[k])
            parts.append(levels)
        if not stack.holds_initial_bits_only() or len(stack.words()) != settings.get("ground"):
            raise decoding_error("what is left after decoding is not the ground on which it was coded")
        return torch.cat(parts[::-1])

    def ideal_bits(self, symbols: Tensor, block: int) -> float:
        """-ELBO in bits, of all examples together, for one draw of each z."""
        total, few = 0.0, self._pixels_of(symbols) is self._of_few_levels
        with counting_levels(self.model, self.model.spec) if few else contextlib.nullcontext():
            for start in range(0, len(symbols), block):
                x = self.pixels.to_x(symbols[start : start + block])
                log_px, kl = self.model.elbo(x, numbers=list(range(start, start + len(x))))
                total += float((kl.double() - log_px.double()).sum())
        return total / float(np.log(2))

    @cached_property
    def _of_few_levels(self) -> PixelCoder | None:
        """The coder of the levels that the model's data have, where these are fewer than 256."""
        spec = self.model.spec
        few = spec.values == "uint8" and len(spec.levels) > 0
        return pixel_coder_for(self.model.likelihood, spec.values, spec.levels) if few else None

    def _pixels_of(self, symbols: Tensor) -> PixelCoder:
        """Pictures of other levels than the model's data, its own samples for example, take the masses of all 256."""
        few = self._of_few_levels
        return few if few and np.isin(symbols.numpy(), few.coded).all() else self.pixels

    def _outputs(self, grid: Grid, cells: list[np.ndarray]) -> Tensor:
        """The decoder's outputs (n, *params), in one memory order, on which the last digits of what follows depend."""
        outs = self.model.output(grid.centre(np.stack(cells))).contiguous()
        if outs.isnan().any():
            raise UserError("the decoder gives values that are NaN: this model has diverged, or is damaged")
        return outs

    def _posterior(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.model.posterior(self.pixels.to_x(levels))
        if not (mean.isfinite().all() and log_var.isfinite().all()):
            raise UserError("the encoder gives values that are not finite: this model has diverged, or is damaged")
        return mean, log_var

    def _grid_bits(self, symbols: Tensor, block: int) -> int:
        """The coarsest grid whose step is at most half of nearly every standard deviation of the posterior.

        A finer one would cost too: each cell has a mass of at least 2^-24, which a posterior gives to far-off ones.
        """
        log_var = torch.cat([self._posterior(part)[1] for part in symbols[:256].split(block)])
        narrow = float(torch.exp(0.5 * log_var.flatten().double()).quantile(0.02))
        return int(np.clip(np.ceil(-np.log2(max(narrow, 1e-9) / 2)), COARSEST, FINEST))


def block_slices(count: int, most: int) -> Iterator[slice]:
    """Consecutive rows that the networks see together, growing from one example to ``most``; a part of the format."""
    done = 0
    while done < count:
        n = min(most, max(1, done // RAMP), count - done)
        yield slice(done, done + n)
        done += n


def reversed_block_slices(count: int, most: int) -> Iterator[slice]:
    """The slices of ``block_slices`` from the last to the first, without a list of those of the full size."""
    growing = list(itertools.takewhile(lambda rows: rows.stop - rows.start < most, block_slices(count, most)))
    done = growing[-1].stop if growing else 0
    for start in reversed(range(done, count, most)):
        yield slice(start, min(start + most, count))
    yield from reversed(growing)


def check(model: Any) -> PixelCoder:
    """The coder of the pixels of a model that bits-back coding can take.

    Raises:
        UserError: it cannot take it; says why.
    """
    name = type(model).__name__
    if not isinstance(model, Posterior):
        raise UserError(f"{name} has no Gaussian posterior q(z|x) of one code: take a VAE, such as vae or vae-mnist")
    if not isinstance(model, Decodable) and getattr(model, "likelihood", None) is not None:
        raise UserError(f"{name} has more than one layer of latents, and coded is a single z: take a VAE, such as vae")
    if not isinstance(model, Decodable):
        raise UserError(f"{name} has no likelihood p(x|z), so its code is no code of x: take a VAE, such as vae")
    if getattr(model, "classes", 0) or getattr(model, "condition_length", 0):
        raise UserError(f"{name} is conditional: it would need the class of each example to decode it; take vae")
    if not isinstance(model.prior, Normal):
        prior = type(model.prior).__name__
        raise UserError(f"prior {prior} does not fall apart into dimensions, which bits-back codes here: take normal")
    return pixel_coder_for(model.likelihood, model.spec.values)  # type: ignore[attr-defined]
