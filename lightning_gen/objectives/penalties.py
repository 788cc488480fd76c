"""Penalties on a discriminator: ``penalty(s, **arguments) -> (B,)``, mostly of its gradient at an input.

All randomness is drawn before, into ``DiscriminatorStep.noise``: a penalty is a pure function, which can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gen.datamodules.errors import UserError
from lightning_gen.names import check_at_least_one


@dataclass
class DiscriminatorStep:
    """The outputs of one step of the discriminator, passed to every penalty.

    Args:
        critic: x (B, *shape) -> logits (B,), with the condition bound in it.
        real: (B, *shape) data, augmented and packed as the discriminator sees them.
        fake: (B, *shape) generated examples, likewise, detached.
        noise: (B, 1 + numel of an example) standard normal; (B, 0) where only r1, r2 and lecam are used.
        real_logits: (B,) of this step, with their graph.
        fake_logits: (B,) of this step, with their graph.
        anchors: (2,) moving averages of the mean real logit and of the mean fake logit.
        real_gradient: (B, *shape) of the logits at real, where it came with them.
        fake_gradient: (B, *shape) of the logits at fake, likewise.
    """

    critic: Callable[[Tensor], Tensor]
    real: Tensor
    fake: Tensor
    noise: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    anchors: Tensor
    real_gradient: Tensor | None = None
    fake_gradient: Tensor | None = None


def gp(s: DiscriminatorStep, target: float = 1.0, eager: bool = False) -> Tensor:
    """(|grad D(x^)| - target)^2 at x^ = u x + (1 - u) g, u ~ U(0, 1) per example: Gulrajani et al. 2017, equation 3."""
    at = _between(s.fake, s.real, s.noise)
    return (_norm(input_gradient(s.critic, at, eager)) - target).square()


def dragan(s: DiscriminatorStep, k: float = 1.0, spread: float = 0.5, eager: bool = False) -> Tensor:
    """(|grad D(x^)| - k)^2 at noisy data: Kodali et al. 2017, section 2.3.

    As in the authors' code, and other than in their text (Gaussian noise): x^ = x + u spread std(x) v with u ~ U(0, 1)
    per example and v ~ U(0, 1) per element. std is one number, of all elements of this batch: it couples its examples.

    Args:
        s: the step.
        k: target norm of the gradient.
        spread: largest noise in standard deviations of the data.
        eager: as in ``input_gradient``.

    Returns:
        (B,)
    """
    real = s.real.float()
    v = torch.special.ndtr(s.noise[:, 1:].float()).view_as(real)  # (B, numel) -> (B, *shape)
    at = _between(real, real + spread * real.std(correction=0) * v, s.noise)
    return (_norm(input_gradient(s.critic, at, eager)) - k).square()


def r1(s: DiscriminatorStep, eager: bool = False) -> Tensor:
    """|grad D(x)|^2 at the data, without the 1/2 of Mescheder et al. 2018, equation 9: the weight is gamma / 2."""
    gradient = input_gradient(s.critic, s.real, eager) if s.real_gradient is None else s.real_gradient
    return gradient.square().flatten(1).sum(1)


def r2(s: DiscriminatorStep, eager: bool = False) -> Tensor:
    """|grad D(g)|^2 at the fake, without the 1/2 of Mescheder et al. 2018, section 4.1: the weight is gamma / 2."""
    gradient = input_gradient(s.critic, s.fake, eager) if s.fake_gradient is None else s.fake_gradient
    return gradient.square().flatten(1).sum(1)


def lecam(s: DiscriminatorStep) -> Tensor:
    """max(0, r - a_f)^2 + max(0, a_r - f)^2 for logits r, f and anchors a_r, a_f: Tseng et al. 2021, equations 4-5.

    The paper squares r - a_f and f - a_r; its code, and this, one side of them: real logits are penalised
    where they are above the mean fake logit, fake ones where they are below the mean real logit.
    """
    usual_real, usual_fake = s.anchors.float()
    above, below = s.real_logits.float() - usual_fake, usual_real - s.fake_logits.float()
    return F.relu(above).square() + F.relu(below).square()


Penalty = Callable[..., Tensor]
DiscriminatorFn = Callable[[Tensor], tuple[Tensor, Any]]
PENALTIES: dict[str, Penalty] = {"gp": gp, "dragan": dragan, "r1": r1, "r2": r2, "lecam": lecam}
NEEDS_GRADIENT = (gp, dragan, r1, r2)  # of a discriminator that can be penalised


def input_gradient(critic: Callable[[Tensor], Tensor], x: Tensor, eager: bool = False) -> Tensor:
    """d critic(x) / dx, (B, *shape), with a graph to the critic's parameters.

    Arguments as of ``outputs_and_input_gradient``.
    """
    return outputs_and_input_gradient(lambda at: (critic(at), []), x, eager)[1]


def outputs_and_input_gradient(
    discriminator: DiscriminatorFn, x: Tensor, eager: bool = False
) -> tuple[tuple[Tensor, Any], Tensor]:
    """A discriminator's outputs for x, and the gradient of its logits at x (B, *shape), from one pass.

    In float32, also under autocast: bfloat16 costs 1.4 % of a penalty.

    Args:
        discriminator: (B, *shape) -> logits (B,), and anything else.
        x: (B, *shape).
        eager: by ``torch.autograd.grad``, which passes through any layer but cannot be compiled, instead of
            ``torch.func.grad``.
    """
    x = x.detach().float()

    def total(at: Tensor) -> tuple[Tensor, tuple[Tensor, Any]]:
        said = discriminator(at)
        return said[0].sum(), said

    with torch.autocast(x.device.type, enabled=False):
        if not eager:
            gradient, said = torch.func.grad(total, has_aux=True)(x)
            return said, gradient
        loss, said = total(x.requires_grad_())
        return said, torch.autograd.grad(loss, x, create_graph=True)[0]


def check_penalisable(discriminator: nn.Module) -> None:
    """Refuse batch norm in training: it mixes the examples whose gradients are penalised one by one.

    Raises:
        UserError: that names the layer.
    """
    for name, module in discriminator.named_modules():
        if isinstance(module, _BatchNorm):
            raise UserError(
                f"a gradient penalty needs a discriminator without batch norm, but its layer {name!r} is a "
                f"{type(module).__name__}: try --model.critic_args.norm none (or layer), or spectral norm in its place"
            )


def auto_gamma(shape: Sequence[int], batch: int) -> float:
    """gamma = 0.0002 H W / batch, where R1 may start: Karras et al. 2020 (StyleGAN2-ADA), appendix C.

    Args:
        shape: (C, H, W) of one image.
        batch: number of examples in the global batch.

    Returns:
        gamma, of which the weight of ``r1`` is a half.

    Raises:
        UserError: for data that are no images.
    """
    check_at_least_one(batch=batch)
    if len(shape) != 3:
        raise UserError(
            f"gamma by the rule 0.0002 * H * W / batch is for images, not data of shape {tuple(shape)}: "
            "give a number, such as 0.1"
        )
    return 0.0002 * shape[1] * shape[2] / batch


def _between(start: Tensor, end: Tensor, noise: Tensor) -> Tensor:
    """start + u (end - start), (B, *shape), with the same u ~ U(0, 1) for all elements of an example."""
    u = torch.special.ndtr(noise[:, 0].float()).view(-1, *[1] * (start.dim() - 1))  # (B, 1, ...)
    return start.float() + u * (end.float() - start.float())


def _norm(gradient: Tensor) -> Tensor:
    """|gradient|, (B, *shape) -> (B,), whose own gradient is 0 at 0, where a square root's would be NaN."""
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)
