"""PatchGAN: a discriminator with a logit for each patch of an image.

Isola et al. 2017, https://arxiv.org/abs/1611.07004, appendix 6.1.2: C64-C128-C256-C512, patches of 70x70 pixels
"""

from __future__ import annotations

from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks.layers import LayerName, check_positive, default_width, norm_2d, normal_, stage_channels

LEAST = 3  # places that the last halving leaves, of which the two last convolutions take one each


class PatchEncoder(nn.Module):
    """x (B, C, H, W) -> (B, out, h, w), a logit for each patch: 4x4 convolutions, the last two without halving.

    Args:
        spec: what one picture looks like; its shape is (C, H, W).
        out: number of outputs for each patch.
        width: channels of the first layer, doubled up to 8 times as many; 0 is 64, or half the shorter side where that
            is less.
        layers: halvings; a patch has 16, 34, 70 or 142 pixels for 1, 2, 3 or 4 of them.
        norm: instance, batch, layer or none; not in the first layer.
    """

    def __init__(
        self, spec: DataSpec, out: int = 1, *, width: int = 0, layers: int = 3, norm: LayerName = "instance"
    ) -> None:
        super().__init__()
        check_positive("layers", layers)
        shortest = min(spec.shape[1:])
        if shortest // 2**layers < LEAST:
            raise UserError(
                f"critic 'patch' with layers {layers} needs sides of at least {LEAST * 2**layers} pixels, these "
                f"pictures have {shortest}: give --model.critic_args.layers {max(1, layers - 1)}, or larger pictures"
            )
        widths = stage_channels(width or self.chosen_by_size(spec.shape)["width"], layers + 1, max_multiplier=8)
        body: list[nn.Module] = []
        for k, (a, b) in enumerate(zip([spec.shape[0], *widths], widths, strict=False)):
            plain = k == 0 or norm == "none"
            body.append(nn.Conv2d(a, b, 4, stride=2 if k < layers else 1, padding=1, bias=plain))
            body += [nn.LeakyReLU(0.2)] if plain else [norm_2d(norm, b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body)
        self.head = nn.Conv2d(widths[-1], out, 4, padding=1)
        normal_(self)

    @staticmethod
    def chosen_by_size(shape: tuple[int, ...]) -> dict[str, int]:
        """Options that are 0 unless they are given, for pictures (C, H, W)."""
        return {"width": default_width(shape)}

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F, h, w), the input of the last layer."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
