"""Rows of the VAE family, see docs/vae.md."""

from __future__ import annotations

from lightning_gen.presets.row import ADAM, Preset

VAE = "lightning_gen.models.vae.VAE"

GAME = {"lr": "0.001..0@75%..100%", "betas": [0.5, 0.999]}  # of players against each other
AUTO = {"network": "auto", "network_args": {}, "likelihood": "auto", "optimizers": {"vae": ADAM}}  # of most VAEs

AE = "lightning_gen.models.autoencoder.Autoencoder"
PLAIN = {"network": "auto", "network_args": {}, "loss": "squared", "optimizers": {"autoencoder": ADAM}}

ROWS: dict[str, Preset] = {
    "vae": Preset(
        VAE,
        "variational autoencoder",
        {**AUTO, "latent_dim": 16, "terms": {"kl": 1.0}},
        steps=3000,
        paper="Kingma and Welling 2013, arXiv:1312.6114",
    ),
    "beta-vae": Preset(
        VAE,
        "VAE with a heavier KL term: fewer, more independent latent dimensions",
        {**AUTO, "latent_dim": 10, "terms": {"kl": 4.0}},
        steps=3000,
        paper="Higgins et al. 2017, openreview Sy2fzU9gl",
    ),
    "conv-vae": Preset(
        VAE,
        "VAE with convolutional networks, for images of 8 to 256 pixels",
        {
            **AUTO,
            "latent_dim": 32,
            "network": "dcgan",
            "network_args": {"width": 32, "norm": "batch"},
            "terms": {"kl": 1.0},
        },
        steps=3000,
        paper="Kingma and Welling 2013, arXiv:1312.6114; networks after Radford et al. 2016, arXiv:1511.06434",
    ),
    "sigma-vae": Preset(
        VAE,
        "Gaussian likelihood with a learned variance, so that the weight of the KL need not be chosen",
        {**AUTO, "latent_dim": 16, "likelihood": "gaussian", "scale": "learned", "terms": {"kl": 1.0}},
        steps=3000,
        paper="Rybkin et al. 2021, arXiv:2006.13202",
    ),
    "capacity-vae": Preset(
        VAE,
        "beta-VAE whose code may carry a growing number of nats",
        {**AUTO, "latent_dim": 10, "terms": {"capacity": {"weight": 30.0, "nats": "0..15@80%"}}},
        steps=3000,
        paper="Burgess et al. 2018, arXiv:1804.03599",
    ),
    "beta-tcvae": Preset(
        VAE,
        "the KL decomposed into three terms, with a heavier weight on the total correlation alone",
        {**AUTO, "latent_dim": 10, "terms": {"mi": 1.0, "tc": 6.0, "dkl": 1.0}},
        steps=3000,
        paper="Chen et al. 2018, arXiv:1802.04942",
    ),
    "dip-vae-1": Preset(
        VAE,
        "the covariance of the posterior means is regularised towards the identity",
        {**AUTO, "latent_dim": 10, "terms": {"kl": 1.0, "dip": {"weight": 10.0, "kind": 1, "diagonal": 10.0}}},
        steps=3000,
        paper="Kumar et al. 2018, arXiv:1711.00848",
    ),
    "dip-vae-2": Preset(
        VAE,
        "the covariance of the codes themselves is regularised towards the identity",
        {**AUTO, "latent_dim": 10, "terms": {"kl": 1.0, "dip": {"weight": 10.0, "kind": 2, "diagonal": 1.0}}},
        steps=3000,
        paper="Kumar et al. 2018, arXiv:1711.00848",
    ),
    "infovae": Preset(
        VAE,
        "a light KL, and the MMD of aggregate posterior and prior, which keeps information in the code",
        {**AUTO, "latent_dim": 16, "terms": {"kl": 0.1, "mmd": {"weight": 100.0, "kernel": "imq"}}},
        steps=3000,
        paper="Zhao et al. 2019, arXiv:1706.02262",
    ),
    "cvae": Preset(
        VAE,
        "class-conditional VAE: samples of a chosen class, and style apart from class",
        {**AUTO, "latent_dim": 16, "terms": {"kl": 1.0}, "conditional": True},
        steps=3000,
        paper="Sohn et al. 2015, NeurIPS 28",
    ),
    "iwae": Preset(
        VAE,
        "the importance-weighted bound of k draws",
        {**AUTO, "latent_dim": 16, "terms": {"kl": 1.0}, "estimator": "iwae", "k": 5},
        steps=3000,
        paper="Burda et al. 2016, arXiv:1509.00519",
    ),
    "vamp-vae": Preset(
        VAE,
        "a prior made of the posteriors of learned pseudo-inputs",
        {
            **AUTO,
            "latent_dim": 16,
            "network_args": {"norm": "layer"},
            "terms": {"kl": 1.0},
            "prior": "vamp",
            "prior_args": {"components": 200},
        },
        steps=3000,
        paper="Tomczak and Welling 2018, arXiv:1705.07120",
    ),
    "mixture-vae": Preset(
        VAE,
        "a prior that is a learned mixture of Gaussians",
        {**AUTO, "latent_dim": 16, "terms": {"kl": 1.0}, "prior": "mixture", "prior_args": {"components": 100}},
        steps=3000,
        paper="Tomczak and Welling 2018, arXiv:1705.07120, section 4 (the MoG prior)",
    ),
    "factor-vae": Preset(
        "lightning_gen.models.factor.FactorVAE",
        "VAE with a penalty on the total correlation of its latent dimensions, estimated by a critic",
        {
            **AUTO,
            "latent_dim": 10,
            "terms": {"kl": 1.0},
            "gamma": 10.0,
            "critic_args": {"hidden": [256, 256, 256], "activation": "leaky_relu"},
            "optimizers": {"vae": ADAM, "critic": {**ADAM, "lr": 1e-4, "betas": [0.5, 0.9]}},
        },
        steps=3000,
        paper="Kim and Mnih 2018, arXiv:1802.05983",
    ),
    "vae-gan": Preset(
        "lightning_gen.models.vaegan.VAEGAN",
        "VAE with a discriminator, whose features define the reconstruction error",
        {
            "latent_dim": 16,
            "network": "dcgan",
            "network_args": {"width": 16, "norm": "batch"},
            "critic": "dcgan",
            "critic_args": {"width": 16, "norm": "none"},
            "terms": {"kl": 12.0},
            "gamma": 0.01,
            "optimizers": {name: {**ADAM, **GAME} for name in ("encoder", "decoder", "discriminator")},
        },
        steps=4000,
        paper="Larsen et al. 2016, arXiv:1512.09300",
    ),
    "vae-mnist": Preset(
        VAE,
        "the VAE of docs/vae.md on dynamically binarised MNIST",
        {
            "latent_dim": 50,
            "network": "mlp",
            "network_args": {"hidden": [400, 400], "activation": "leaky_relu", "norm": "batch"},
            "likelihood": "bernoulli",
            "terms": {"kl": 1.0},
            "optimizers": {"vae": {**ADAM, "lr": "0.002..0.00001@100% cos"}},
        },
        steps=21500,
        paper="Kingma and Welling 2013, arXiv:1312.6114; likelihood as in Burda et al. 2016, arXiv:1509.00519",
        data="mnist",
        data_arguments={"binarize": "dynamic", "batch_size": 256},
        expected="87.99 nats (IS-1000, 10,000 test images)",
    ),
    "iwae-mnist": Preset(
        "lightning_gen.models.layered.LayeredVAE",
        "two layers of latents and the importance-weighted bound, on dynamically binarised MNIST",
        {
            "latent_dims": [40, 20],
            "network": "mlp",
            "network_args": {"hidden": [400, 400], "activation": "leaky_relu", "norm": "batch"},
            "layer_args": {"hidden": [200, 200], "activation": "leaky_relu", "norm": "batch"},
            "likelihood": "bernoulli",
            "terms": {"kl": 1.0},
            "estimator": "iwae",
            "k": 5,
            "optimizers": {"vae": {**ADAM, "lr": "0.002..0.00001@100% cos"}},
        },
        steps=19500,
        paper="Burda et al. 2016, arXiv:1509.00519",
        data="mnist",
        data_arguments={"binarize": "dynamic", "batch_size": 256},
        expected="84.33 nats (IS-5000, 10,000 test images)",
    ),
    "hierarchical-vae": Preset(
        "lightning_gen.models.hierarchical.HierarchicalVAE",
        "groups of convolutional latents at several resolutions, for images of 8 to 256 pixels",
        {
            "blocks": [2, 1],
            "width": 32,
            "latent_channels": 2,
            "activation": "silu",
            "likelihood": "auto",
            "terms": {"kl": {"weight": "0..1@500", "free_bits": 3.0}},
            "optimizers": {"vae": {**ADAM, "lr": "0.004..0.0001@100% cos"}},
            "clip": 200.0,
            "skip": 10.0,
        },
        steps=1500,
        paper="Child 2021, arXiv:2011.10650; inference after Sønderby et al. 2016, arXiv:1602.02282",
        data_arguments={"batch_size": 32},
    ),
}

AUTOENCODERS: dict[str, Preset] = {  # whose code is not random: no likelihood
    "ae": Preset(
        AE,
        "autoencoder; samples are of a Gaussian fitted to its codes",
        {**PLAIN, "latent_dim": 16, "prior": "fitted"},
        steps=3000,
        paper="Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647",
    ),
    "denoising-ae": Preset(
        AE,
        "autoencoder that reconstructs clean pictures from noisy ones",
        {**PLAIN, "latent_dim": 16, "prior": "fitted", "corruption": {"mask": 0.25}},
        steps=3000,
        paper="Vincent et al. 2008, doi:10.1145/1390156.1390294",
    ),
    "wae": Preset(
        AE,
        "Wasserstein autoencoder: the aggregate posterior is matched to the prior",
        {**PLAIN, "latent_dim": 8, "terms": {"mmd": {"weight": 100.0, "kernel": "imq"}}},
        steps=3000,
        paper="Tolstikhin et al. 2018, arXiv:1711.01558",
    ),
    "rae": Preset(
        AE,
        "regularised autoencoder: small codes and a smooth decoder in the place of noise",
        {**PLAIN, "latent_dim": 16, "prior": "fitted", "terms": {"code": 1.0, "decoder": 0.01}},
        steps=3000,
        paper="Ghosh et al. 2020, arXiv:1903.12436",
    ),
    "aae": Preset(
        "lightning_gen.models.autoencoder.AAE",
        "adversarial autoencoder: a discriminator matches the aggregate posterior to the prior",
        {
            **PLAIN,
            "latent_dim": 8,
            "adversarial": 10.0,
            "critic_args": {"hidden": [256, 256], "activation": "leaky_relu"},
            "optimizers": {"autoencoder": ADAM, "discriminator": {**ADAM, "betas": [0.5, 0.999]}},
        },
        steps=3000,
        paper="Makhzani et al. 2016, arXiv:1511.05644",
    ),
}
