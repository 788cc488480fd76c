"""Adversarial losses of a discriminator and a generator.

Below, r and f are the discriminator's logits for real and for fake examples, and D = sigmoid(logit).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


class AdversarialLosses(NamedTuple):
    """The losses of both players: functions of the discriminator's logits (B,) for real and for fake -> (B,).

    Args:
        discriminator: loss of the discriminator.
        generator: loss of the generator; only the fake logits carry gradients to it.
        needs_real_logits: whether the generator's loss uses the real logits, too, so that they must be computed for it.
    """

    discriminator: Loss
    generator: Loss
    needs_real_logits: bool = False


def _logistic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(g)) = softplus(-r) + softplus(f): Goodfellow et al. 2014, equation 1."""
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def _non_saturating(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(g), whose gradient does not vanish where D is sure: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake_logits)


def _saturating(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """log(1 - D(g)) = -softplus(f), the same value function for both players: Goodfellow et al. 2014, equation 1."""
    return -F.softplus(fake_logits)


def _squares(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """1/2 (r - 1)^2 + 1/2 f^2: Mao et al. 2017, equation 9; the logits themselves are to be 1 and 0."""
    return 0.5 * ((real_logits - 1).square() + fake_logits.square())


def _square(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """1/2 (f - 1)^2: Mao et al. 2017, equation 9."""
    return 0.5 * (fake_logits - 1).square()


def _margins(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - r) + max(0, 1 + f): Lim & Ye 2017; Miyato et al. 2018, equation 16."""
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits)


def _difference(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """f - r, of which 1-Lipschitz critics reach minus the earth mover's distance: Arjovsky et al. 2017, equation 2."""
    return fake_logits - real_logits


def _minus_fake(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-f: Miyato et al. 2018, equation 17, and Arjovsky et al. 2017, theorem 3."""
    return -fake_logits


def _real_above_fake(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(r - f)), each real example with one fake: Jolicoeur-Martineau 2018; Huang et al. 2024, equation 2."""
    return F.softplus(fake_logits - real_logits)


def _fake_above_real(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-(f - r)): the discriminator's loss with real and fake exchanged."""
    return _real_above_fake(fake_logits, real_logits)


ADVERSARIAL: dict[str, AdversarialLosses] = {
    "non_saturating": AdversarialLosses(_logistic, _non_saturating),
    "minimax": AdversarialLosses(_logistic, _saturating),
    "least_squares": AdversarialLosses(_squares, _square),
    "hinge": AdversarialLosses(_margins, _minus_fake),
    "wasserstein": AdversarialLosses(_difference, _minus_fake),
    "relativistic": AdversarialLosses(_real_above_fake, _fake_above_real, needs_real_logits=True),
}

# the discriminator's loss has no lower bound: without clipped weights, spectral norm or a penalty its logits run away
NEEDS_CONSTRAINT = (ADVERSARIAL["wasserstein"],)

# the discriminator's loss is a cross-entropy with the labels 1 and 0, of which the first can be smoothed
HAS_LABELS = (ADVERSARIAL["non_saturating"], ADVERSARIAL["minimax"])


def smoothed(loss: Tensor, real_logits: Tensor, smoothing: float) -> Tensor:
    """The discriminator's loss of a pair with labels, where real examples have the label 1 - smoothing.

    -(1 - s) log D(x) - s log(1 - D(x)) = softplus(-r) + s r: Salimans et al. 2016, section 3.4, one-sided, since a
    smoothed label of fakes would draw the optimum to where there are no data.

    Args:
        loss: of labels 1 and 0, the mean ().
        real_logits: of any shape; their mean is that of the loss.
        smoothing: s in [0, 1).
    """
    return loss + smoothing * real_logits.mean() if smoothing else loss


def logit_statistics(real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Means of both logits, and the shares of positive ones: 1 and 0 where the discriminator makes no mistakes."""
    sides = {"real": real_logits, "fake": fake_logits}
    means = {f"logit_{name}": logits.mean() for name, logits in sides.items()}
    return means | {f"sign_{name}": (logits > 0).float().mean() for name, logits in sides.items()}
