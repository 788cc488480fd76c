"""Estimators of the gradient of a bound of log p(x) from K draws of the posterior."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Estimator(NamedTuple):
    """How K weighted draws become a gradient; the value of the bound is the same for all.

    Args:
        detach_posterior_params: log q(z|x) is differentiated through z only, not through its own parameters.
        doubly_reparameterized: the gradient through z has squared normalised weights, w_k^2 in place of w_k.
    """

    detach_posterior_params: bool
    doubly_reparameterized: bool


# elbo: one draw and the KL in closed form where there is one (Kingma and Welling 2013, equation 7)
# iwae: L_K = log 1/K sum_k w_k (Burda et al. 2016, equations 8 and 14)
# stl: without the score of q, whose mean is zero for K = 1 (Roeder et al. 2017, equation 4); biased for K > 1
# dreg: unbiased for L_K with less noise (Tucker et al. 2019, equation 8)
ESTIMATORS: dict[str, Estimator | None] = {
    "elbo": None,
    "iwae": Estimator(False, False),
    "stl": Estimator(True, False),
    "dreg": Estimator(True, True),
}


def apply_dreg_weights(z: Tensor, log_w: Tensor, power: float = 1.0) -> None:
    """Give the gradient that will come back through z (K, B, Z) the weights of DReG, from log_w (K, B).

    With normalised weights w_k, p(z) / q(z|x) to a power beta leaves out -beta w_k of the score of q. In expectation
    that is -beta w_k (1 - w_k) through z, so that w_k becomes w_k (1 - beta + beta w_k): w_k^2 for beta = 1 (eq. 8).
    """
    weights = log_w.detach().softmax(0).unsqueeze(-1)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * (1 - power + power * weights))
