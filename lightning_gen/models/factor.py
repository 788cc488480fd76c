"""FactorVAE: a critic estimates the total correlation of the code, which the VAE's loss penalises.

Kim and Mnih 2018, "Disentangling by Factorising", https://arxiv.org/abs/1802.05983

    TC(z) = KL(q(z) || prod_j q(z_j)) = E_q(z) log D(z) / (1 - D(z))    D: z ~ q(z), not prod_j q(z_j)   (eq. 3)
    loss of the VAE    = -ELBO + gamma * TC                                                               (eq. 2)
    loss of the critic = -1/2 E log D(z) - 1/2 E log(1 - D(permuted z))                            (algorithm 2)
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.objectives.latent import Step
from lightning_gen.objectives.terms import TERMS
from lightning_gen.schedule import schedule
from lightning_gen.training.validation import Batch, Logs

CRITIC = {"hidden": [256, 256, 256], "activation": "leaky_relu"}
JOINT, FACTORISED = 0, 1  # the critic's classes: q(z), and the product of its marginals


class FactorVAE(VAE):
    """A VAE with a penalty on the total correlation of its code, which leaves the weight of the KL as it is.

    Args:
        spec: the data's spec.
        gamma: weight of the total correlation, a number or a ramp.
        critic_args: options of the critic, a fully connected network.
        **options: of VAE; the estimator is elbo, and a term "tc" would be the same quantity a second time.

    Raises:
        UserError: another estimator than elbo.
    """

    players: ClassVar[dict[str, tuple[str, ...]]] = {**VAE.players, "critic": ("critic",)}
    player_tags: ClassVar[dict[str, str]] = {"vae": "", "critic": "discriminator"}
    nonstationary_terms = frozenset({"tc"})
    known_terms = {name: term for name, term in TERMS.items() if name != "tc"}  # noqa: RUF012 - never changed

    def __init__(
        self, spec: DataSpec, *, gamma: float | str = 10.0, critic_args: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(spec, **options)
        if self.estimator is not None:
            raise UserError(f"FactorVAE needs one draw of z: take estimator elbo, not {options['estimator']!r}")
        self.weights["tc"] = self.schedules["gamma"] = schedule(gamma)
        of_code = DataSpec((self.latent_dim,), "vector", "real")
        self.critic = networks.encoder("mlp", of_code, 2, **(CRITIC if critic_args is None else critic_args))

    def total_correlation(self, z: Tensor) -> Tensor:
        """log D(z) / (1 - D(z)) by the critic (B,): its mean over q(z) estimates the total correlation, in nats."""
        logits = self.network("critic")(z).float()  # (B, 2)
        return logits[:, JOINT] - logits[:, FACTORISED]

    def per_example_losses(self, s: Step) -> Logs:
        """The terms of the VAE, and the total correlation as "tc"."""
        return {**super().per_example_losses(s), "tc": self.total_correlation(s.z)}

    # Training: the VAE is updated first, and its codes are the critic's batch

    def loss_vae(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        s = self.step(batch)
        shared["z"] = s.z.detach()
        return self.weighted_loss(self.per_example_losses(s))

    def loss_critic(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        z = shared["z"]
        # the paper permutes a second batch; here the same one serves both, at half the cost
        permuted = z.gather(0, self.noise(tuple(z.shape), "permute").argsort(0))  # each dimension on its own
        logits = self.critic(torch.cat([z, permuted]))  # (2B, 2)
        truth = torch.arange(2, device=z.device).repeat_interleave(len(z))  # B times JOINT, B times FACTORISED
        accuracy = (logits.argmax(1) == truth).float().mean()
        return F.cross_entropy(logits, truth), {"accuracy": accuracy}
