"""Protocols: a model's abilities are the methods it has; callbacks, metrics and scripts check with ``isinstance``."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lightning_gen.datamodules.spec import DataSpec


@runtime_checkable
class Samples(Protocol):
    """Makes new examples."""

    def sample(self, n: int, y: Tensor | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """n examples (n, *shape) in the range of the data, numbers ``start`` to ``start + n - 1`` of this seed."""


@runtime_checkable
class Reconstructs(Protocol):
    """Passes an example through its code."""

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> (B, *shape)."""


@runtime_checkable
class Encodes(Protocol):
    """Has a latent code."""

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> z (B, Z), the mean where the code is random."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z), classes (B,) where the model takes them -> (B, *shape) in the range of the data."""


@runtime_checkable
class Likelihood(Protocol):
    """Computes a lower bound of the log-likelihood of an example."""

    def log_likelihood(self, x: Tensor, k: int, y: Tensor | None = None, **options: Any) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> (B,) in nats, from k importance samples."""

    def elbo(self, x: Tensor, y: Tensor | None = None, numbers: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """x (B, *shape) -> log p(x|z) for one draw of z, and KL(q(z|x) || p(z)), each (B,) in nats."""


@runtime_checkable
class SamplesClasses(Samples, Protocol):
    """Makes examples of a requested class."""

    classes: int  # values of ``y`` in ``sample``; 0 for an unconditional model


@runtime_checkable
class SamplesTexts(Samples, Protocol):
    """Makes examples of the text that is given."""

    condition_length: int  # tokens of a text, rows of which are ``y`` of ``sample``; 0 where the model takes none


@runtime_checkable
class Discriminates(Samples, Protocol):
    """Makes new examples, and has a discriminator that scores single examples."""

    def discriminate(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> logits (B,), above 0 for what looks real.

        Raises:
            UserError: the discriminator is packed, and scores no single example.
        """


@runtime_checkable
class Posterior(Protocol):
    """Has a Gaussian code."""

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, *shape), classes (B,) where the model takes them -> mean (B, Z) and log-variance (B, Z) of q(z|x)."""


@runtime_checkable
class SamplesLatents(Protocol):
    """Has a distribution of codes, from which its samples come."""

    draw_dim: int  # size of the noise vector of one draw

    def draw(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, draw_dim) -> z (n, Z)."""


@runtime_checkable
class HasLatentKL(Protocol):
    """Has, after a validation, the KL of each latent dimension."""

    kl_per_dimension: Tensor


@runtime_checkable
class Decodes(SamplesLatents, Protocol):
    """Generates its samples from latent codes."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, Z), classes (B,) where the model takes them -> (B, *shape) in the range of the data."""


class CodeLayout(Protocol):
    """Where z holds InfoGAN's latent codes: one-hot categories, then continuous codes, after the Gaussian latents."""

    categorical: tuple[int, ...]  # values of each category
    continuous: int  # number of continuous codes
    start: int  # first column of the codes in z


@runtime_checkable
class HasInfoGANCodes(Decodes, Protocol):
    """Draws structured latent codes (InfoGAN's) beside its Gaussian latents."""

    codes: CodeLayout | None


@runtime_checkable
class Translates(Protocol):
    """Translates images of one side to the other."""

    directions: tuple[str, ...]  # "a2b", and "b2a" where there is a reverse translator
    stride: int  # factor of an image's height and width

    def translate(self, x: Tensor, direction: str = "a2b") -> Tensor:
        """x (B, *shape) in [-1, 1], of any size that fits the stride -> (B, *shape_b) in [-1, 1]."""


class TokenStream(Protocol):
    """The autoregressive distribution of rows of tokens, for a fixed block of n rows."""

    def next_logits(self, previous: Tensor | None) -> Tensor:
        """Tokens (n,) chosen last, None at the start -> logits (n, vocab) of the next, float32."""


@runtime_checkable
class Tokenises(Protocol):
    """Encodes an example as a row of tokens, and has a prior over them."""

    tokens_shape: tuple[int, ...]  # how the L tokens are arranged: (h, w), (levels, h, w), or (L,) for vectors
    vocab: int  # values of a token

    def tokens(self, x: Tensor) -> Tensor:
        """x (B, *shape) in the range of the data -> (B, L) int64."""

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) -> (B, *shape) in the range of the data."""

    def token_stream(self, n: int, y: Tensor | None = None) -> TokenStream:
        """The prior of n rows, one token at a time, given classes y (n,); None: unconditional."""


@runtime_checkable
class MeasuresTokens(Tokenises, Protocol):
    """Encodes an example as tokens, and knows the probability of a row."""

    def code_length(self, tokens: Tensor, y: Tensor | None = None) -> Tensor:
        """-log p(tokens | y) of rows (B, L) in nats, (B,); y None: unconditional."""


@runtime_checkable
class Inverts(Decodes, Protocol):
    """Generates its samples from noise by a map that has an inverse; no single dimension of the noise has a meaning."""

    def invert(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> noise (B, Z), of which ``decode`` makes x again."""


@runtime_checkable
class ExactLikelihood(Protocol):
    """Computes the log-likelihood of an example itself, and no bound of it."""

    def log_prob(self, x: Tensor, y: Tensor | None = None, numbers: list[int] | None = None) -> Tensor:
        """x (B, *shape), classes (B,) where the model takes them -> (B,) in nats of the data's units.

        ``numbers`` are the examples' indices, on which what is drawn depends; 0 to B - 1 by default.
        """


@runtime_checkable
class HasLossByTime(Protocol):
    """Has, after a validation, its loss in equal parts of the times of training, from noise to data."""

    loss_by_time: Tensor


@runtime_checkable
class Solves(Samples, Protocol):
    """Makes its samples by a solver, which is chosen anew for each use."""

    sampling: Any


@runtime_checkable
class ChoosesBySize(Protocol):
    """Has networks some of whose options follow from the size of the data unless they are given."""

    def chosen_by_size(self, spec: DataSpec) -> dict[str, int]:
        """Option -> what data of this spec choose."""
