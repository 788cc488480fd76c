"""Rows of the family of translators, see docs/translation.md."""

from __future__ import annotations

from typing import Any

from lightning_gen.presets.row import ADAM, Preset

NOTHING: dict[str, Any] = {"penalties": {}, "augment": {}, "ema": {}, "spectral_norm": "none"}
RESNET = {"network": "resnet", "network_args": {"norm": "instance"}}
PATCHES = {"critic": "patch", "critic_args": {"layers": 3, "norm": "instance"}}
# constant, then linear to zero; the papers have 0.0002, for one picture in a batch
FALLING = {**ADAM, "lr": "0.0005..0@50%..100%", "betas": [0.5, 0.999]}
BOTH = {"generator": FALLING, "discriminator": FALLING}
CUT = "lightning_gen.models.cut.CUT"

ROWS: dict[str, Preset] = {
    "cyclegan": Preset(
        "lightning_gen.models.cyclegan.CycleGAN",
        "translation both ways between two sets of pictures, without pairs",
        {
            **NOTHING,
            **RESNET,
            **PATCHES,
            "adversarial": "least_squares",
            "adversarial_weight": 2.0,  # the pair has squares with 1/2, the paper without
            "terms": {"cycle": 10.0, "identity": 5.0},  # identity: 0.5 of the cycle's weight
            "pool": 50,
            "ema": {"generators": 2000},
            "optimizers": {"generators": FALLING, "discriminators": FALLING},
        },
        steps=1500,
        paper="Zhu et al. 2017, arXiv:1703.10593",
        data="outline-shapes",
        data_arguments={"batch_size": 8},
    ),
    "pix2pix": Preset(
        "lightning_gen.models.pix2pix.Pix2Pix",
        "translation learned from pairs, by a U-Net and a discriminator that sees the source as well",
        {
            **NOTHING,
            **PATCHES,
            "network": "unet",
            "network_args": {"norm": "layer", "dropout": 0.5},  # instance norm removes the colour of a uniform picture
            "adversarial": "non_saturating",
            "adversarial_weight": 1.0,
            "terms": {"l1": 100.0},
            "ema": {"generator": 4000},
            "optimizers": BOTH,
        },
        steps=4000,
        paper="Isola et al. 2017, arXiv:1611.07004",
        data="outline-shapes",
        data_arguments={"batch_size": 8, "paired": True},
    ),
    "cut": Preset(
        CUT,
        "one-sided translation with a patchwise contrastive loss between source and result",
        {
            **NOTHING,
            **RESNET,
            **PATCHES,
            "adversarial": "least_squares",
            "adversarial_weight": 2.0,
            "terms": {},
            "nce": 0.5,
            "nce_identity": 0.5,
            "flip": False,
            "optimizers": BOTH,
        },
        steps=2000,
        paper="Park et al. 2020, arXiv:2007.15651",
        data="outline-shapes",
        data_arguments={"batch_size": 8},
    ),
    "fastcut": Preset(
        CUT,
        "cut without the identity term of the target's side, with mirrored sources: faster, and closer to the source",
        {
            **NOTHING,
            **RESNET,
            **PATCHES,
            "adversarial": "least_squares",
            "adversarial_weight": 2.0,
            "terms": {},
            "nce": 10.0,
            "nce_identity": 0.0,
            "flip": True,
            "optimizers": BOTH,
        },
        steps=2000,
        paper="Park et al. 2020, arXiv:2007.15651",
        data="outline-shapes",
        data_arguments={"batch_size": 8},
    ),
}
