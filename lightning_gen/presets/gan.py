"""Rows of the GAN family, see docs/gan.md."""

from __future__ import annotations

from typing import Any

from lightning_gen.presets.row import ADAM, Preset

GAN = "lightning_gen.models.gan.GAN"
NOTHING: dict[str, Any] = {"penalties": {}, "terms": {}, "augment": {}, "ema": {}}  # not used by most classics
DCGAN: dict[str, Any] = {  # Radford et al. 2016, scaled by the data's size and by the width
    "latent_dim": 64,
    "network": "dcgan",
    "network_args": {"width": 16, "extra": 1, "norm": "batch", "activation": "relu"},
    "critic": None,
    "critic_args": {"width": 16, "extra": 1, "norm": "batch", "activation": "leaky_relu"},
}
NO_NORM = {"critic_args": {**DCGAN["critic_args"], "norm": "none"}}  # of a discriminator with penalties
RESNET = {  # Miyato et al. 2018, scaled likewise
    "latent_dim": 64,
    "network": "resnet",
    "network_args": {"width": 8},
    "critic": None,
    "critic_args": {"width": 8},
}
AVERAGED = {"ema": {"generator": 10_000}}


def _versus(d: dict[str, Any], g: dict[str, Any] | None = None) -> dict[str, Any]:
    """The optimizers of both players; the generator's as the discriminator's unless it is given."""
    return {"optimizers": {"discriminator": {**ADAM, **d}, "generator": {**ADAM, **(g or d)}}}


CLASSIC = _versus({"lr": 2e-4, "betas": [0.5, 0.999]})
SPECTRAL = _versus({"lr": 2e-4, "betas": [0.0, 0.9]})

ROWS: dict[str, Preset] = {
    "gan": Preset(
        GAN,
        "the first GAN: fully connected networks, non-saturating loss",
        {
            **NOTHING,
            **CLASSIC,
            "latent_dim": 64,
            "network": "mlp",
            "network_args": {"hidden": [512, 256], "activation": "leaky_relu", "norm": "batch"},
            "critic": None,
            "critic_args": {"hidden": [512, 256], "activation": "leaky_relu", "dropout": 0.3},
            "adversarial": "non_saturating",
        },
        steps=4000,
        paper="Goodfellow et al. 2014, arXiv:1406.2661",
    ),
    "dcgan": Preset(
        GAN,
        "convolutional networks with batch norm",
        {**NOTHING, **DCGAN, **CLASSIC, "adversarial": "non_saturating"},
        steps=4000,
        paper="Radford et al. 2016, arXiv:1511.06434",
    ),
    "lsgan": Preset(
        GAN,
        "the least-squares loss in place of the logistic one",
        {**NOTHING, **DCGAN, **CLASSIC, "adversarial": "least_squares"},
        steps=4000,
        paper="Mao et al. 2017, arXiv:1611.04076",
    ),
    "wgan": Preset(
        GAN,
        "Wasserstein distance by a critic with clipped weights",
        {
            **NOTHING,
            **DCGAN,
            **_versus({"lr": 5e-4, "betas": [0.0, 0.9]}),
            "adversarial": "wasserstein",
            "weight_clip": 0.05,
            "n_critic": 5,
        },
        steps=6000,
        paper="Arjovsky et al. 2017, arXiv:1701.07875",
    ),
    "wgan-gp": Preset(
        GAN,
        "Wasserstein distance by a critic whose gradient norm is penalised towards 1",
        {
            **NOTHING,
            **DCGAN,
            **NO_NORM,
            **AVERAGED,
            **_versus({"lr": 5e-4, "betas": [0.0, 0.9]}),
            "adversarial": "wasserstein",
            "penalties": {"gp": 10.0},
            "n_critic": 5,
        },
        steps=6000,
        paper="Gulrajani et al. 2017, arXiv:1704.00028",
    ),
    "dragan": Preset(
        GAN,
        "logistic loss with a gradient penalty around the data",
        {
            **NOTHING,
            **DCGAN,
            **NO_NORM,
            **AVERAGED,
            **CLASSIC,
            "adversarial": "non_saturating",
            "penalties": {"dragan": 10.0},
        },
        steps=4000,
        paper="Kodali et al. 2017, arXiv:1705.07215",
    ),
    "sngan": Preset(
        GAN,
        "residual networks, spectral norm and the hinge loss",
        {**NOTHING, **RESNET, **AVERAGED, **SPECTRAL, "adversarial": "hinge", "spectral_norm": "discriminator"},
        steps=4000,
        paper="Miyato et al. 2018, arXiv:1802.05957",
    ),
    "sagan": Preset(
        GAN,
        "sngan with self-attention, spectral norm in both players and two time scales",
        {
            **NOTHING,
            **RESNET,
            **AVERAGED,
            # half of the rate for D of the paper, whose batches were larger: at it one seed of three left its best
            **_versus({"lr": 2e-4, "betas": [0.0, 0.9]}, {"lr": 1e-4, "betas": [0.0, 0.9]}),
            "network_args": {"width": 8, "attention": 1},
            "critic_args": {"width": 8, "attention": 1},
            "adversarial": "hinge",
            "spectral_norm": "both",
        },
        steps=4000,
        paper="Zhang et al. 2019, arXiv:1805.08318",
    ),
    "cgan": Preset(
        GAN,
        "generator and discriminator are conditioned on the class",
        {**NOTHING, **DCGAN, **CLASSIC, "adversarial": "non_saturating", "condition": "concat"},
        steps=4000,
        paper="Mirza and Osindero 2014, arXiv:1411.1784; networks after Radford et al. 2016, arXiv:1511.06434",
    ),
    "projection-gan": Preset(
        GAN,
        "class-conditional sngan: projection discriminator, conditional batch norm",
        {
            **NOTHING,
            **RESNET,
            **AVERAGED,
            **SPECTRAL,
            "adversarial": "hinge",
            "spectral_norm": "discriminator",
            "condition": "projection",
        },
        steps=4000,
        paper="Miyato and Koyama 2018, arXiv:1802.05637",
    ),
    "acgan": Preset(
        GAN,
        "the discriminator also classifies",
        {**NOTHING, **DCGAN, **CLASSIC, "adversarial": "non_saturating", "condition": "classifier"},
        steps=4000,
        paper="Odena et al. 2017, arXiv:1610.09585",
    ),
    "infogan": Preset(
        GAN,
        "latent codes predicted from the samples (InfoGAN): classes and styles without labels",
        {
            **NOTHING,
            **DCGAN,
            **CLASSIC,
            "adversarial": "non_saturating",
            "codes": {"categorical": [10], "continuous": 2, "weight": 1.0},
        },
        steps=4000,
        paper="Chen et al. 2016, arXiv:1606.03657",
    ),
    "pacgan": Preset(
        GAN,
        "packed discriminator: it sees two examples at once, against mode collapse",
        {**NOTHING, **DCGAN, **CLASSIC, "adversarial": "non_saturating", "pack": 2},
        steps=4000,
        paper="Lin et al. 2018, arXiv:1712.04086",
    ),
    "r3gan": Preset(
        GAN,
        "relativistic loss, penalties at real and at fake, residual networks without norms: the modern baseline",
        {
            **NOTHING,
            **_versus({"lr": "0.001..0.0001@50%..100%", "betas": [0.0, 0.99]}),
            "latent_dim": 64,
            "network": "r3gan",
            "network_args": {"width": 16, "patch": 0},
            "critic": None,
            "critic_args": {"width": 16, "patch": 0},
            "adversarial": "relativistic",
            "penalties": {"r1": "0.5..0.05@80% cos", "r2": "0.5..0.05@80% cos"},
            "ema": {"generator": 10_000},
        },
        steps=4000,
        paper="Huang et al. 2024, arXiv:2501.05441",
        data_arguments={"batch_size": 32},
    ),
    "r3gan-toy": Preset(
        GAN,
        "the same loss with fully connected networks, on points in the plane",
        {
            **NOTHING,
            **_versus({"lr": "0.002..0.0001@50%..100%", "betas": [0.0, 0.99]}),
            "latent_dim": 2,
            "network": "mlp",
            "network_args": {"hidden": [128, 128, 128], "activation": "relu", "scale": 4.0},
            "critic": None,
            "critic_args": {"hidden": [128, 128, 128], "activation": "relu", "scale": 4.0},
            "adversarial": "relativistic",
            "penalties": {"r1": "0.8..0.04@100% cos", "r2": "0.8..0.04@100% cos"},
            "ema": {"generator": 44_000},
        },
        steps=28000,
        paper="Huang et al. 2024, arXiv:2501.05441",
        data="toy",
        data_arguments={"batch_size": 128},
    ),
}
