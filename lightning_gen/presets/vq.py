"""Rows of the models whose code is tokens, see docs/vq.md; all three spend 8 bits at each place of the map."""

from __future__ import annotations

from lightning_gen.presets.row import ADAM, Preset

VQVAE = "lightning_gen.models.vqvae.VQVAE"

USUAL = {
    "network": "auto",
    "network_args": {},
    "prior_args": {"width": 96, "depth": 3, "heads": 4, "dropout": 0.1},
    "prior_from": "40%",
    "loss": "squared",
    "conditional": True,
    "no_class": 0.1,
    "optimizers": {
        "autoencoder": {**ADAM, "lr": "0.002..0.0001@40% cos"},
        "prior": {**ADAM, "lr": "0.001..0@40%..100% cos"},
    },
}

ROWS: dict[str, Preset] = {
    "vq-vae": Preset(
        VQVAE,
        "the code is a map of tokens, each one of 256 learned vectors, with a transformer as their prior",
        {
            **USUAL,
            "quantizer": "vector",
            "quantizer_args": {"codes": 256, "dim": 16, "depth": 1, "decay": 0.99, "revive": 0.05},
            "terms": {"commitment": 0.25},
        },
        steps=3000,
        paper="van den Oord et al. 2017, arXiv:1711.00937",
    ),
    "rvq-vae": Preset(
        VQVAE,
        "residual quantisation: two tokens at each place, the second quantises the residual of the first",
        {
            **USUAL,
            "quantizer": "vector",
            "quantizer_args": {"codes": 16, "dim": 16, "depth": 2, "decay": 0.99, "revive": 0.05},
            "terms": {"commitment": 1.0},
        },
        steps=3000,
        paper="Zeghidour et al. 2021, arXiv:2107.03312; Lee et al. 2022, arXiv:2203.01941",
    ),
    "fsq-vae": Preset(
        VQVAE,
        "finite scalar quantisation: numbers rounded to a few levels, tokens without a learned codebook",
        {
            **USUAL,
            "quantizer": "finite",
            "quantizer_args": {"levels": [4, 4, 4, 4], "spread": 1.0, "decay": 0.99},
            "terms": {},
        },
        steps=3000,
        paper="Mentzer et al. 2023, arXiv:2309.15505",
    ),
}
