"""Terms of deterministic autoencoders.

van den Oord et al. 2017, "Neural Discrete Representation Learning", https://arxiv.org/abs/1711.00937
Ghosh et al. 2020, "From Variational to Deterministic Autoencoders", https://arxiv.org/abs/1903.12436
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.objectives.latent import Step


def code(s: Step) -> Tensor:
    """1/2 |z|^2, which keeps the codes together (Ghosh et al. 2020, equation 11, L_Z), (B,)."""
    return 0.5 * s.z.square().sum(1)


def decoder(s: Step) -> Tensor:
    """1/2 |theta|^2 of the decoder's weights (Ghosh et al. 2020, equation 11, L_REG of RAE-L2), (B,), all the same."""
    assert s.decoder is not None
    squares = [p.square().sum() for p in s.decoder.parameters()]
    return 0.5 * torch.stack(squares).sum().expand(len(s.z))


def commitment(s: Step) -> Tensor:
    """|z_e - sg(q)|^2, which keeps the encoder near its codes (van den Oord et al. 2017, equation 3), (B,).

    ``mean`` is the encoder's output, ``z`` its quantisation.
    """
    return (s.mean - s.z.detach()).square().flatten(1).sum(1)
