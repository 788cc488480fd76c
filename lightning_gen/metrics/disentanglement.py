"""Disentanglement: how well single latents represent the known factors of variation.

``factors`` are (N, F) integers, the index of the value of each factor in each of N examples, and codes are posterior
means (N, Z). A factor with one value in these examples is left out everywhere; lists "per factor" follow the entry
"factors" of the result, the numbers of those that vary. Every result depends on its arguments alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.latents import PAIRS, density_ratios
from lightning_gen.objectives.latent import ACTIVE, reparameterise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TREES, LEAF = 50, 5  # of the forests of DCI, and the examples that a leaf holds at least
TRAINED = 0.8  # share of the examples that they are trained on
FEWEST, EACH = 50, 10  # examples of which DCI says anything, and for each value of the factor that has most


def mig_chen(mean: Tensor, log_var: Tensor, factors: Tensor, seed: int, draws: int = 1000) -> dict[str, Any]:
    """Mutual information gap: 1/F sum_k [I(z_top; v_k) - I(z_second; v_k)] / H(v_k), Chen et al. 2018, equation 6.

    I(z_j; v_k) = E_q(z_j, v_k)[log q(z_j | v_k) - log q(z_j)] (equation 5), where the two densities are the mixtures of
    the posteriors of the examples with that value, and of all examples. The given examples are taken for the whole data
    set: with few examples for each value and narrow posteriors all I(z_j; v_k) come out too high, and the gap too low.

    Args:
        mean: (N, Z) of q(z | x).
        log_var: (N, Z) of q(z | x).
        factors: (N, F).
        seed: of the draws.
        draws: number of examples from whose posteriors one z is drawn each; the mixtures use all N.

    Returns:
        mig in [0, 1]; gap, entropy and best (the number of the most informative latent) per factor; information
        (Z, varying factors) in nats; factors. Plain Python values.

    Raises:
        Inapplicable: where no factor varies.
    """
    numbers, values = _varying(factors)
    generator = torch.Generator().manual_seed(seed)
    own = torch.randperm(len(mean), generator=generator)[:draws]
    noise = torch.randn(len(own), mean.shape[1], generator=generator, dtype=torch.float64).to(mean.device)
    own, mean, log_var = own.to(mean.device), mean.double(), log_var.double()
    z = reparameterise(mean[own], log_var[own], noise)  # (S, Z)
    information = _mixture_information(z, mean, log_var, torch.from_numpy(values).to(mean.device), own)
    return _gap(information.cpu().numpy(), values, numbers)


def mig_histogram(codes: Tensor, factors: Tensor, bins: int = 20) -> dict[str, Any]:
    """Mutual information gap from codes in equal-width bins (Locatello et al. 2019, appendix B).

    The information of N counts is too high by about (bins - 1)(values - 1) / 2N nats, the same for all latents.

    Args:
        codes: (N, Z).
        factors: (N, F).
        bins: number of bins between the least and the greatest value of each latent.

    Returns:
        As ``mig_chen``.

    Raises:
        Inapplicable: where no factor varies.
    """
    numbers, values = _varying(factors)
    c = _numpy(codes)
    low, width = c.min(0), np.ptp(c, 0)
    binned = np.floor((c - low) / np.where(width > 0, width, 1) * bins).astype(np.int64).clip(0, bins - 1)
    information = [[_discrete_information(code, value) for value in values.T] for code in binned.T]
    return _gap(np.array(information), values, numbers)


def factor_vae_score(codes: Tensor, factors: Tensor, seed: int, votes: int = 800, group: int = 64) -> float:
    """Accuracy of a majority vote on which factor was fixed (Kim & Mnih 2018, section 4).

    A vote: choose a factor and one of its values, take a group of examples with that value, divide each latent's
    variance in the group by its variance over all examples, and name the latent with the least. A table from latent to
    factor is learned from some votes and tested on as many others. Latents of variance up to 0.01 are left out; with
    none left the score is what a guess gets, 1 / (number of factors that vary).

    Args:
        codes: (N, Z).
        factors: (N, F).
        seed: of the votes.
        votes: number of training votes, and of test votes.
        group: examples in a vote, at least 2; drawn with replacement where fewer share a value.

    Returns:
        Accuracy in [0, 1].

    Raises:
        Inapplicable: where no factor varies, or no two examples share a value of one.
    """
    _, values = _varying(factors)
    c = _numpy(codes)
    c = c[:, c.var(0) > ACTIVE]
    if c.shape[1] == 0:
        return 1 / values.shape[1]
    c = c / c.std(0)
    pools = [[np.flatnonzero(v == value) for value in np.unique(v)] for v in values.T]
    pools = [[pool for pool in of_factor if len(pool) > 1] for of_factor in pools]
    if not all(pools):
        raise Inapplicable("the FactorVAE score needs examples that share a value, for each factor: use more examples")
    rng = np.random.default_rng(seed)
    table = np.zeros((2, c.shape[1], values.shape[1]), np.int64)  # training and test votes, latent, factor
    for vote in range(2 * votes):
        factor = rng.integers(len(pools))
        rows = _group(pools[factor][rng.integers(len(pools[factor]))], group, rng)
        table[vote % 2, c[rows].var(0).argmin(), factor] += 1
    majority = table[0].argmax(1)  # (Z,)
    return float(table[1][np.arange(len(majority)), majority].sum() / votes)


def dci(codes: Tensor, factors: Tensor, seed: int) -> dict[str, Any]:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    R_ij is the importance of latent i in a forest of extremely randomised trees (Geurts et al. 2006) that predicts
    factor j, P_ij its share among the factors, P~_ij among the latents, and rho_i the share of latent i in all of R.
    D = sum_i rho_i (1 - H_F(P_i.)), C = mean_j (1 - H_Z(P~_.j)), I = mean_j accuracy on held-out examples.
    Each split considers all latents: where it may see a few alone, even perfect codes spread their importance.

    Args:
        codes: (N, Z).
        factors: (N, F).
        seed: of the split into training and held-out examples, and of the trees.

    Returns:
        disentanglement, completeness and informativeness in [0, 1]; chance, the informativeness of always naming the
        most frequent value; accuracy per factor; importance R (Z, varying factors); factors. Plain Python values.

    Raises:
        Inapplicable: where no factor varies, or for fewer than 50 examples, or 10 for each value of a factor.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # here: it takes a second to import

    numbers, values = _varying(factors)
    needed = max(FEWEST, EACH * (1 + int(values.max())))
    if len(values) < needed:
        raise Inapplicable(f"DCI needs at least {needed} examples of these factors: there are {len(values)}")
    c = _numpy(codes)
    order = np.random.default_rng(seed).permutation(len(c))
    train, test = np.split(order, [round(TRAINED * len(c))])
    importance = np.zeros((c.shape[1], len(numbers)))  # R
    accuracy, chance = [], []
    for j, value in enumerate(values.T):
        forest = ExtraTreesClassifier(TREES, max_features=None, min_samples_leaf=LEAF, random_state=seed)
        forest.fit(c[train], value[train])
        importance[:, j] = forest.feature_importances_
        accuracy.append(float((forest.predict(c[test]) == value[test]).mean()))
        chance.append(float((value[test] == np.bincount(value[train]).argmax()).mean()))
    weight = importance.sum(1) / max(importance.sum(), 1e-300)  # rho
    return {
        "disentanglement": float(weight @ _concentration(importance)),
        "completeness": float(_concentration(importance.T).mean()),
        "informativeness": float(np.mean(accuracy)),
        "chance": float(np.mean(chance)),
        "accuracy": accuracy,
        "importance": importance.tolist(),
        "factors": numbers,
    }


def _numpy(codes: Tensor) -> Floats:
    if not codes.isfinite().all():
        raise Inapplicable("some codes are not finite: has the model diverged?")
    return codes.detach().cpu().double().numpy()


def _varying(factors: Tensor) -> tuple[list[int], Ints]:
    """The numbers of the factors with more than one value, and those columns of (N, F)."""
    values = factors.detach().cpu().numpy().astype(np.int64)
    numbers = [k for k, v in enumerate(values.T) if v.min() < v.max()]
    if not numbers:
        raise Inapplicable("no known factor varies in these examples")
    return numbers, values[:, numbers]


def _mixture_information(z: Tensor, mean: Tensor, log_var: Tensor, values: Tensor, own: Tensor) -> Tensor:
    """I(z_j; v_k) for draws z (S, Z) of the posteriors of examples own (S,), values (N, F) -> (Z, F)."""
    z, mean, log_var = (value.T.contiguous() for value in (z, mean, log_var))  # (Z, S) or (Z, N)
    count = mean.shape[1]
    total = z.new_zeros(len(z), values.shape[1])
    for rows in torch.arange(len(own), device=z.device).split(max(1, PAIRS // (count * values.shape[1]))):
        shares = (values[own[rows]].unsqueeze(2) == values.T).to(z.dtype)  # (s, F, N), 1 where the value is the same
        sizes = shares.sum(2)  # (s, F)
        for j in range(len(z)):
            ratios = density_ratios(z[j, rows], mean[j], log_var[j], own[rows])  # (s, N)
            given = (shares @ ratios.unsqueeze(2)).squeeze(2) / sizes  # (s, F), q(z_j | v_k) over q(z_j | x)
            total[j] += (given / ratios.mean(1, keepdim=True)).log().sum(0)
    return total / len(own)


def _discrete_information(first: Ints, second: Ints) -> float:
    """I(a; b) = sum p(a, b) log p(a, b) / (p(a) p(b)) of the empirical distribution of (N,) integers >= 0."""
    shape = (first.max() + 1, second.max() + 1)
    joint = np.bincount(first * shape[1] + second, minlength=shape[0] * shape[1]).reshape(shape) / len(first)  # (A, B)
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _gap(information: Floats, values: Ints, numbers: list[int]) -> dict[str, Any]:
    """From I (Z, F) in nats to the gap, per factor and in the mean; a single latent has no second."""
    entropy = np.array([_discrete_information(v, v) for v in values.T])
    ranked = np.sort(np.vstack([information, np.zeros(len(numbers))]), 0)  # at least two rows
    gap = (ranked[-1] - ranked[-2]) / entropy
    return {
        "mig": float(gap.mean()),
        "gap": gap.tolist(),
        "entropy": entropy.tolist(),
        "best": information.argmax(0).tolist(),
        "information": information.tolist(),
        "factors": numbers,
    }


def _group(pool: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Examples of one vote, at least two different ones."""
    if len(pool) >= size:
        return rng.choice(pool, size, replace=False)
    return np.concatenate([rng.choice(pool, 2, replace=False), rng.choice(pool, size - 2)])


def _concentration(importance: Floats) -> Floats:
    """1 - H(share) / log K of each row (M, K): 1 for a single entry, 0 for equal ones, and for rows of zeros."""
    columns = importance.shape[1]
    if columns == 1:
        return np.ones(len(importance))
    total = importance.sum(1, keepdims=True)
    share = np.where(total > 0, importance / np.where(total > 0, total, 1), 1 / columns)
    logs = np.log(np.where(share > 0, share, 1))
    return 1 + (share * logs).sum(1) / math.log(columns)
