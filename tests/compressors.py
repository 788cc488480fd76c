"""Models that tests of compression hand to the scripts by import path, and what they compress."""

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.training.module import GenerativeModule

DIGITS = DataSpec(shape=(1, 8, 8), size=1300, num_classes=10)


def vae(shape=(1, 8, 8), values="uint8", seed=0, **options):
    """An untrained VAE, whose outputs are spread out as those of a trained one."""
    torch.manual_seed(seed)
    kind = "image" if len(shape) == 3 else "vector"
    usual = {"latent_dim": 4, "network": "mlp", "network_args": {"hidden": [24]}, "terms": {"kl": 1.0}}
    model = VAE(DataSpec(shape=shape, kind=kind, values=values), **{**usual, **options}).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2.0)
    return model


def levels(kind, n, shape, values, seed=0):
    """Examples (n, *shape) as they reach a model: random, black, or with a level in common."""
    top = 2 if values == "binary" else 256
    drawn = np.random.default_rng(seed).integers(0, top, (n, *shape))
    chosen = {"random": drawn, "black": 0 * drawn, "white": 0 * drawn + top - 1, "grey": 0 * drawn + top // 2}[kind]
    x = torch.from_numpy(chosen.astype(np.uint8)).float()
    return 2 * x - 1 if values == "binary" else x.div_(127.5).sub_(1)  # as lightning_gen.datamodules.pixels.to_float


class Quarters(GenerativeModule):
    """A token for each pixel, which is one of four levels and likely to be the last one again."""

    players: ClassVar = {"prior": ("prior",)}
    vocab = 4

    def __init__(self, spec, likely: float = 2.0, **options):
        super().__init__(spec, **options)
        self.tokens_shape = self.spec.shape
        self.likely, self.prior = likely, nn.Linear(4, 4, bias=False)
        self.opened = []

    def loss_prior(self, batch, shared):
        return self.prior.weight.sum(), {}

    def tokens(self, x):
        return ((x + 1) / 2 * 3.999).long().flatten(1)

    def from_tokens(self, tokens):
        return (tokens.float() / 1.5 - 1).unflatten(1, self.spec.shape)

    def token_stream(self, n, y=None):
        self.opened.append(n)
        return _Walk(self, n)


class _Walk:
    def __init__(self, model, n):
        self.model, self.n = model, n

    def next_logits(self, previous):
        if previous is None:
            return torch.zeros(self.n, 4)
        last = nn.functional.one_hot(previous, 4).float()
        return self.model.likely * last + 0.1 * self.model.prior(last)
