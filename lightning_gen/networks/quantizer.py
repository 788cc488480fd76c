"""Quantisers: each vector of a map is replaced by one of finitely many, whose index is the token.

van den Oord et al. 2017, "Neural Discrete Representation Learning", https://arxiv.org/abs/1711.00937
Zeghidour et al. 2021, "SoundStream", https://arxiv.org/abs/2107.03312, section III-C (residual levels, k-means start,
revival of dead codes)
Mentzer et al. 2023, "Finite Scalar Quantization", https://arxiv.org/abs/2309.15505

A quantiser has ``dim`` D, numbers of a vector; ``depth`` G, tokens of a vector; ``vocab`` K, values of a token. The
gradient passes straight through: it reaches the encoder as if the vector had not been rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.layers import check_positive
from lightning_gen.objectives.coupled import all_gather_with_grad
from lightning_gen.training.noise import indexed_noise

KMEANS_ITERATIONS = 10  # passes of k-means at the start
TINY = 1e-6  # vectors that a code has seen, below which their mean is not computed


class Quantized(NamedTuple):
    """A quantiser's output for z (B, P, D).

    Args:
        q: (B, P, D) the quantised vectors, with the gradient of z.
        tokens: (B, G, P) int64.
        parts: the residuals, input of each residual level, (B P, D) each, without gradients.
    """

    q: Tensor
    tokens: Tensor
    parts: list[Tensor]


class Quantizer(nn.Module):
    """Base class of quantisers, with ``dim``, ``depth`` and ``vocab``; those with a codebook also learn it."""

    dim: int
    depth: int
    vocab: int
    has_codebook: bool = False  # whether there is a learned codebook

    def forward(self, z: Tensor) -> Quantized:
        """z (B, P, D) -> the nearest vectors."""
        raise NotImplementedError

    def lookup(self, tokens: Tensor) -> Tensor:
        """Tokens (B, G, P) -> vectors (B, P, D)."""
        raise NotImplementedError

    def init_codebook(self, z: Tensor, seed: int, chunks: int = 1) -> None:
        """Called before each training step's forward pass; the first time, codes are initialised from z (B, P, D).

        ``chunks``: into which a step's batch is cut; z is the first.
        """

    def observe(self, made: Quantized, part: int, parts: int, *key: int) -> None:
        """Record the vectors assigned to codes in a slice of the batch: slice ``part`` of ``parts`` over all ranks."""

    def update(self) -> dict[str, Tensor]:
        """Update the codes after a step, by the observations of all slices; values to log."""
        return {}


class Codebook(nn.Module):
    """K vectors (K, D), each the moving mean of the encoder outputs assigned to it (van den Oord 2017, appendix A.1).

        N_i = decay N_i + (1 - decay) n_i      m_i = decay m_i + (1 - decay) sum_j z_ij      e_i = m_i / N_i

    A code whose N_i is below ``revive`` times the mean is dead, and is reinitialised to a random vector of the
    batch. All sums are over all ranks.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, codes: int, dim: int, decay: float, revive: float) -> None:
        super().__init__()
        self.decay, self.revive = decay, revive
        self.register_buffer("vectors", torch.randn(codes, dim) / math.sqrt(dim))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.vectors.clone())
        self._seen: Tensor | None = None  # n_i, sum_j z_ij and a vector for its revival, (K, 1 + 2 D), of this step

    def nearest(self, z: Tensor) -> Tensor:
        """z (N, D) -> argmin_i |z - e_i|^2, (N,)."""
        with torch.autocast(z.device.type, enabled=False):
            return (self.vectors.square().sum(1) - 2 * z @ self.vectors.T).argmin(1)

    def init_codebook(self, z: Tensor, order: Tensor, chunks: int) -> None:
        """k-means of z (N, D), from its first rows in this order (N,), where a step sees ``chunks`` as many vectors."""
        codes = len(self.vectors)
        self.vectors.copy_(z[order.repeat(math.ceil(codes / len(z)))[:codes]])
        for _ in range(KMEANS_ITERATIONS):
            counts, sums = _by_code(z, self.nearest(z), codes)
            self.vectors.copy_(torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), self.vectors))
        self.counts.copy_(counts * chunks)
        self.sums.copy_(self.vectors * self.counts[:, None])

    def observe(self, z: Tensor, ids: Tensor, rows: Tensor) -> None:
        """Add z (N, D) and their codes (N,); rows (K,) of z are candidates for dead codes, where they are in range."""
        counts, sums = _by_code(z, ids, len(self.vectors))
        here = (rows >= 0) & (rows < len(z))
        spare = torch.where(here[:, None], z[rows.clamp(0, len(z) - 1)], 0.0)
        seen = torch.cat([counts[:, None], sums, spare], 1)
        self._seen = seen if self._seen is None else self._seen + seen

    def update(self) -> Tensor:
        """Update the codebook from the observations since the last call; the number of codes revived, ()."""
        assert self._seen is not None, "observe() comes before update()"
        seen, self._seen = self._seen, None
        if _several_ranks():
            dist.all_reduce(seen)
        counts, sums, spare = seen.split([1, *[self.vectors.shape[1]] * 2], 1)
        mean = counts.mean()
        kept = torch.lerp(counts, self.counts[:, None], self.decay)  # (K, 1)
        total = torch.lerp(sums, self.sums, self.decay)
        dead = kept < self.revive * mean
        self.counts.copy_(torch.where(dead, mean, kept)[:, 0])
        self.sums.copy_(torch.where(dead, spare * mean, total))
        means = torch.where(kept > TINY, total / kept.clamp(min=TINY), self.vectors)
        self.vectors.copy_(torch.where(dead, spare, means))
        return dead.sum().float()


class VectorQuantizer(Quantizer):
    """The nearest code of a learned codebook; with depth G > 1, G codebooks, each for the residual of the ones before.

        r_1 = z      k_g = argmin_i |r_g - e_gi|^2      r_{g+1} = r_g - e_{g k_g}      q = sum_g e_{g k_g}

    van den Oord 2017, equations 1 and 2; Zeghidour 2021, algorithm 1.

    Args:
        codes: K, vectors of each codebook.
        dim: D.
        depth: G.
        decay: of the moving means, 0 <= decay < 1.
        revive: share of the mean use, below which a code is dead; 0 never revives.
    """

    has_codebook = True
    started: Tensor

    def __init__(
        self, *, codes: int = 256, dim: int = 16, depth: int = 1, decay: float = 0.99, revive: float = 0.05
    ) -> None:
        super().__init__()
        check_positive("codes", codes)
        if codes < 2:
            raise UserError(f"codes {codes}: it must be at least 2, as a single code says nothing")
        check_positive("dim", dim)
        check_positive("depth", depth)
        if not 0 <= decay < 1 or not 0 <= revive < 1:
            raise UserError(f"decay {decay}, revive {revive}: possible are 0 <= decay < 1 and 0 <= revive < 1")
        self.dim, self.depth, self.vocab = dim, depth, codes
        self.books: Any = nn.ModuleList(Codebook(codes, dim, decay, revive) for _ in range(depth))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._has_started = False  # so that the buffer, which may be on a device, is not read at each step

    def forward(self, z: Tensor) -> Quantized:
        rest = z.detach().float().flatten(0, 1)  # (B P, D)
        parts, ids = [], []
        for book in self.books:
            parts.append(rest)
            ids.append(book.nearest(rest))
            rest = rest - book.vectors[ids[-1]]
        tokens = torch.stack(ids).unflatten(1, z.shape[:2]).transpose(0, 1)  # (G, B P) -> (B, G, P)
        return Quantized(straight_through(z, self.lookup(tokens)), tokens, parts)

    def lookup(self, tokens: Tensor) -> Tensor:
        return torch.stack([book.vectors[ids] for book, ids in zip(self.books, tokens.unbind(1), strict=True)]).sum(0)

    @torch.no_grad()
    def init_codebook(self, z: Tensor, seed: int, chunks: int = 1) -> None:
        self._has_started = self._has_started or bool(self.started)
        if self._has_started:
            return
        rest = _of_all_ranks(z.detach().float().flatten(0, 1).contiguous())
        for level, book in enumerate(self.books):
            order = indexed_noise([level], (len(rest),), seed, "k-means")[0].argsort(stable=True).to(rest.device)
            book.init_codebook(rest, order, chunks)
            rest = rest - book.vectors[book.nearest(rest)]
        self.started.fill_(True)

    @torch.no_grad()
    def observe(self, made: Quantized, part: int, parts: int, *key: int) -> None:
        size = len(made.parts[0])
        noise = indexed_noise(range(self.depth), (self.vocab,), *key, "revive")  # (G, K), on all ranks
        chance = torch.special.ndtr(noise)
        rows = (chance * (size * parts)).long().clamp(max=size * parts - 1) - size * part
        ids = made.tokens.transpose(0, 1).flatten(1)  # (B, G, P) -> (G, B P)
        for book, z, codes, spare in zip(self.books, made.parts, ids, rows.to(ids.device), strict=True):
            book.observe(z, codes, spare)

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        revived = torch.stack([book.update() for book in self.books]).sum()
        shares = torch.stack([book.counts / book.counts.sum() for book in self.books])  # (G, K)
        return {"perplexity": perplexity(shares).mean(), "revived": revived}


MARGIN = 0.25  # of a level; from 0.5 on a number would be rounded to a level that is not there


class FiniteScalarQuantizer(Quantizer):
    """Each number of a vector is squashed and rounded to one of L_i; the codebook is their product, and not learned.

        f(z) = tanh(z + shift) half - offset,   half = (L - 1) / 2 + margin      q = round(f(z)) / floor(L / 2)

    with offset 1/2 for even L and 0 for odd, and f(0) = 0. Mentzer 2023, section 3.1 and appendix A.1; the token is
    sum_i digit_i prod_{j<i} L_j. Other than in the listing of appendix A.1: the shift is the atanh that makes f(0) = 0,
    there tan; the margin is above 0, there below, so that the outermost levels are within reach; two levels have no
    shift, which would leave one of them to z < -3.8, but part at 0.

    Not in the paper: z is first brought to mean 0 and standard deviation ``spread`` over the batch of all ranks, in
    evaluation by moving moments, as a batch norm does: the levels are then used nearly alike by a normal z, while
    a number that drifts into the saturation of tanh stays on its outermost level.

    Args:
        levels: L_i of each number; their product is the vocabulary.
        spread: standard deviation before the tanh; 0 takes z as it is.
        decay: of the moving moments, 0 <= decay < 1.
    """

    eps = 1e-3  # of the span of the levels, by which tanh reaches beyond the outermost ones
    levels: Tensor
    basis: Tensor
    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, *, levels: Sequence[int] = (4, 4, 4, 4), spread: float = 1.0, decay: float = 0.99) -> None:
        super().__init__()
        if not levels or not all(type(n) is int and n >= 2 for n in levels):
            raise UserError(f"levels {list(levels)}: give whole numbers of at least 2, such as [4, 4, 4, 4]")
        if spread < 0 or not 0 <= decay < 1:
            raise UserError(f"spread {spread}, decay {decay}: possible are spread >= 0 and 0 <= decay < 1")
        self.dim, self.depth, self.vocab = len(levels), 1, math.prod(levels)
        self.spread, self.decay = spread, decay
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("variance", torch.ones(self.dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._moments: list[Tensor] = []  # mean and variance (2, D) of each chunk of this step

    def forward(self, z: Tensor) -> Quantized:
        bounded = self.bound(self.standard(z.float()) if self.spread else z.float())
        rounded = bounded.round()
        digits = (rounded + self.levels // 2).long()  # (B, P, D)
        tokens = (digits * self.basis).sum(2).unsqueeze(1)  # (B, 1, P)
        return Quantized(straight_through(bounded, rounded) / (self.levels // 2), tokens, [])

    def standard(self, z: Tensor) -> Tensor:
        """z (B, P, D) at mean 0 and standard deviation ``spread``: of the batch in training."""
        mean, variance = self.mean, self.variance
        if self.training and z.requires_grad:
            rows = all_gather_with_grad(z.flatten(0, 1))  # (N, D)
            mean, variance = rows.mean(0), rows.var(0, correction=0)
            self._moments.append(torch.stack([mean, variance]).detach())
        return (z - mean) * (self.spread * (variance + TINY).rsqrt())

    def bound(self, z: Tensor) -> Tensor:
        """z (..., D) -> f(z), within the levels."""
        span = (self.levels - 1) / 2
        half = span + (self.eps * span).clamp(max=MARGIN)
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.where(self.levels > 2, torch.atanh(offset / half), 0.0)
        return torch.tanh(z + shift) * half - offset

    def lookup(self, tokens: Tensor) -> Tensor:
        half = self.levels // 2
        digits = tokens[:, 0, :, None] // self.basis % self.levels  # (B, P, D)
        return (digits - half).float() / half

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """The moments of the batch enter the moving ones; the first batch's are taken as they are."""
        if self._moments:
            mean, variance = torch.stack(self._moments).mean(0)
            self._moments = []
            share = torch.where(self.started, 1 - self.decay, 1.0)
            self.mean.lerp_(mean, share)
            self.variance.lerp_(variance, share)
            self.started.fill_(True)
        return {}


QUANTIZERS: dict[str, Callable[..., Quantizer]] = {"vector": VectorQuantizer, "finite": FiniteScalarQuantizer}


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """The value of q with the gradient of z (Bengio et al. 2013, https://arxiv.org/abs/1308.3432)."""
    return z + (q - z).detach()


def perplexity(shares: Tensor) -> Tensor:
    """exp(-sum_i p_i log p_i) of shares (..., K) -> (...): K where all codes are used alike, 1 where one is."""
    return torch.special.entr(shares).sum(-1).exp()


def _by_code(z: Tensor, ids: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Number (K,) and sum (K, D) of the vectors z (N, D) of each code."""
    counts = z.new_zeros(codes).index_add_(0, ids, z.new_ones(len(z)))
    return counts, z.new_zeros(codes, z.shape[1]).index_add_(0, ids, z)


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _of_all_ranks(z: Tensor) -> Tensor:
    """(N, D) -> (ranks N, D), in the order of ranks."""
    if not _several_ranks():
        return z
    parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, z)
    return torch.cat(parts)
