"""PRESETS: the named models, the only place where their defaults live; every row is written out in full."""

from __future__ import annotations

from typing import Any, NamedTuple

from datamodules.errors import unknown


class Preset(NamedTuple):
    """A named model.

    Args:
        model: import path of the class.
        about: one line for the list.
        arguments: of the class.
        steps: length of the run in iterations.
        paper: where it comes from.
        data: the data set that belongs to a published recipe.
        data_arguments: options of that data set.
        expected: what a run reaches, with its conditions.
    """

    model: str
    about: str
    arguments: dict[str, Any]
    steps: int
    paper: str
    data: str = "digits"
    data_arguments: dict[str, Any] = {}  # noqa: RUF012 - never changed
    expected: str = ""


VAE = "lightning_gen.models.vae.VAE"
ADAM = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "l1": 0.0}

PRESETS: dict[str, Preset] = {
    "vae": Preset(
        VAE,
        "variational autoencoder",
        {
            "latent_dim": 16,
            "network": "auto",
            "network_args": {},
            "likelihood": "auto",
            "terms": {"kl": 1.0},
            "optimizers": {"vae": ADAM},
        },
        steps=3000,
        paper="Kingma and Welling 2013, arXiv:1312.6114",
    ),
    "beta-vae": Preset(
        VAE,
        "VAE with a heavier KL term: fewer, more independent latent dimensions",
        {
            "latent_dim": 10,
            "network": "auto",
            "network_args": {},
            "likelihood": "auto",
            "terms": {"kl": 4.0},
            "optimizers": {"vae": ADAM},
        },
        steps=3000,
        paper="Higgins et al. 2017, openreview Sy2fzU9gl",
    ),
    "conv-vae": Preset(
        VAE,
        "VAE with convolutional networks, for images of 8 to 256 pixels",
        {
            "latent_dim": 32,
            "network": "dcgan",
            "network_args": {"width": 32, "norm": "batch"},
            "likelihood": "auto",
            "terms": {"kl": 1.0},
            "optimizers": {"vae": ADAM},
        },
        steps=3000,
        paper="Kingma and Welling 2013, arXiv:1312.6114; networks after Radford et al. 2016, arXiv:1511.06434",
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
        expected="NLL (IS-1000, 10,000 test images): see docs/vae.md",
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
        expected="NLL (IS-5000, 10,000 test images): see docs/vae.md",
    ),
}


def preset(name: str) -> Preset:
    """A row by name.

    Raises:
        UserError: there is no such row; with the nearest name and the list.
    """
    if name not in PRESETS:
        raise unknown("model", name, PRESETS)
    return PRESETS[name]
