"""Data for the tests of tokens: short texts, and points that come with a text each."""

import torch
from torch import nn

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.sources import Tensors, subsets
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.networks import Network
from lightning_gen.networks.condition import Condition

VOCAB = ("", "a", "b", "c", "d")
LENGTH = 6
WORDS = ("<pad>", "left", "right", "up", "down", "far", "the")


class Texts(DataModule):
    """Texts of one letter each, of class k the letter k + 1, with a share of other letters; stored as int16."""

    def __init__(self, *, noise: float = 0.1, condition: str = "none", count: int = 400, **options):
        super().__init__(**options)
        self.noise, self.condition, self.count = noise, condition, count

    def describe(self):
        return DataSpec(shape=(LENGTH,), kind="text", values="tokens", size=self.count - 80, num_classes=4, vocab=VOCAB)

    def splits(self):
        random = torch.Generator().manual_seed(0)
        y = torch.randint(4, (self.count,), generator=random)
        others = torch.randint(1, 5, (self.count, LENGTH), generator=random)
        kept = torch.rand(self.count, LENGTH, generator=random) >= self.noise
        x = torch.where(kept, y[:, None] + 1, others).to(torch.int16)
        n = torch.arange(self.count)
        return subsets(Tensors(x=x, y=y), {"train": n[80:], "val": n[:40], "test": n[40:80]})


class Captioned(DataModule):
    """Points (2,) where their text says: left or right, up or down, and twice as far out where it says far."""

    def __init__(self, *, count: int = 600, shape=(2,), **options):
        super().__init__(**options)
        self.count, self.shape = count, shape

    def describe(self):
        kind, values = ("vector", "real") if len(self.shape) == 1 else ("image", "unit")
        return DataSpec(
            self.shape,
            kind,
            values,
            size=self.count - 100,
            condition="text",
            condition_shape=(4,),
            condition_vocab=WORDS,
        )

    def splits(self):
        random = torch.Generator().manual_seed(1)
        side, height, far = torch.randint(2, (3, self.count), generator=random)
        noise = 0.05 * torch.randn(self.count, 2, generator=random)
        centre = torch.stack([2.0 * side - 1, 1 - 2.0 * height], 1) * (1 + far)[:, None]
        text = torch.stack([torch.full_like(side, 6), 1 + side, 3 + height, 5 * far], 1)  # (N, 4), padded at the end
        x = centre + noise
        if len(self.shape) == 3:
            x = (x.mean(1)[:, None, None, None] / 4 + 0.5).clamp(0, 1).expand(-1, *self.shape)
        n = torch.arange(self.count)
        source = Tensors(x=x.contiguous(), text=text)
        return subsets(source, {"train": n[100:], "val": n[:50], "test": n[50:100]})


class TokenEncoder(nn.Module):
    """Tokens (B, L), c -> (B, out): the mean of embeddings, then a hidden layer."""

    def __init__(self, spec, out, *, condition=None):
        super().__init__()
        self.condition = Condition(condition)
        self.embed, self.hidden = nn.Embedding(len(spec.vocab), 16), nn.Linear(16 + self.condition.dim, 32)
        self.head = nn.Linear(32, out)

    def forward(self, x, c=None):
        return self.head(self.hidden(self.condition.concat(self.embed(x).mean(1), c)).tanh())


class GRUDecoder(nn.Module):
    """z (B, Z), c -> logits (B, L, V) of each token from those before: of x, or else of the most probable ones."""

    autoregressive = True

    def __init__(self, spec, latent_dim, params, *, condition=None):
        super().__init__()
        self.length, self.vocab = params
        self.condition = Condition(condition)
        self.start = nn.Linear(latent_dim + self.condition.dim, 24)
        self.embed, self.cell = nn.Embedding(self.vocab + 1, 16), nn.GRUCell(16, 24)  # one more at the beginning
        self.head = nn.Linear(24, self.vocab)

    def forward(self, z, c=None, x=None):
        h = self.start(self.condition.concat(z, c)).tanh()
        before, logits = torch.full((len(z),), self.vocab, device=z.device), []
        for place in range(self.length):
            h = self.cell(self.embed(before), h)
            logits.append(self.head(h))
            before = logits[-1].argmax(-1) if x is None else x[:, place]
        return torch.stack(logits, 1)  # (B, L, V)


tokens = Network(TokenEncoder, GRUDecoder)
