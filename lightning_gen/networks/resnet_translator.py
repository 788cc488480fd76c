"""The residual translator of CycleGAN: image -> image of the same size.

Johnson et al. 2016, https://arxiv.org/abs/1603.08155; Zhu et al. 2017, https://arxiv.org/abs/1703.10593, appendix 7.2:
c7s1-k, d2k, d4k, R4k, ..., u2k, uk, c7s1-C
"""

from __future__ import annotations

from torch import Tensor, nn

from lightning_gen.networks.layers import (
    LayerName,
    check_positive,
    check_stride,
    default_width,
    norm_2d,
    normal_,
    upsampling,
)

STRIDE = 4  # two halvings
LARGE = 256  # pixels: from here on nine blocks


class ResNetTranslator(nn.Module):
    """x (B, C, H, W) -> (B, C', H, W): 7x7 convolutions at both ends, two halvings, residual blocks, two doublings.

    Images are padded by reflection, to avoid artefacts at their borders.

    Args:
        shape: (C, H, W) of a picture; H and W are multiples of 4.
        channels: C'.
        width: channels of the first layer; 0 is 64, or half the shorter side where that is less.
        blocks: number of residual blocks; 0 is 6, and 9 from 256 pixels on.
        norm: instance, batch, layer or none.
        dropout: in the blocks, between their two convolutions.
        upsample: how sides are doubled, transposed or resize, see ``layers.upsampling``.
    """

    stride = STRIDE

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int,
        *,
        width: int = 0,
        blocks: int = 0,
        norm: LayerName = "instance",
        dropout: float = 0.0,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        check_stride("resnet", shape, STRIDE)
        chosen = self.chosen_by_size(shape)
        width, blocks = width or chosen["width"], blocks or chosen["blocks"]
        check_positive("width", width)
        check_positive("blocks", blocks)
        bias = norm == "none"  # a norm takes it away
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(shape[0], width, 7, bias=bias), norm_2d(norm, width), nn.ReLU()
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(k * width, 2 * k * width, 3, stride=2, padding=1, bias=bias),
                norm_2d(norm, 2 * k * width),
                nn.ReLU(),
            )
            for k in (1, 2)
        )
        self.blocks = nn.ModuleList(Residual(4 * width, norm, dropout) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(
                upsampling(upsample, 2 * k * width, k * width, kernel=3, bias=bias),
                norm_2d(norm, k * width),
                nn.ReLU(),
            )
            for k in (2, 1)
        )
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7))
        self.feature_channels = [shape[0], 2 * width, 4 * width, 4 * width, 4 * width]  # channels of the features
        normal_(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """x -> the image itself, both halvings, the first and the middle block: (B, C_l, H_l, W_l) each.

        Layers of Park et al. 2020, https://arxiv.org/abs/2007.15651, appendix C.1, after their activations.
        """
        found, h = [x], self.stem(x)
        for layer in self.down:
            h = layer(h)
            found.append(h)
        middle = len(self.blocks) // 2
        for k, block in enumerate(self.blocks[: middle + 1]):
            h = block(h)
            if k in (0, middle):
                found.append(h)
        return found if middle else [*found, h]

    @staticmethod
    def chosen_by_size(shape: tuple[int, ...]) -> dict[str, int]:
        """Options that are 0 unless they are given, for pictures (C, H, W)."""
        return {"width": default_width(shape), "blocks": 9 if min(shape[1:]) >= LARGE else 6}

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for layer in (*self.down, *self.blocks, *self.up):
            h = layer(h)
        return self.head(h)


class Residual(nn.Module):
    """h (B, C, H, W) -> h + two 3x3 convolutions of it, each with its norm, a ReLU between."""

    def __init__(self, channels: int, norm: LayerName, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.branch = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_2d(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_2d(norm, channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)
