"""Autoencoders whose code is a row of tokens, and an autoregressive prior over the rows.

van den Oord et al. 2017, "Neural Discrete Representation Learning", https://arxiv.org/abs/1711.00937
Zeghidour et al. 2021, "SoundStream", https://arxiv.org/abs/2107.03312; Lee et al. 2022, https://arxiv.org/abs/2203.01941
Mentzer et al. 2023, "Finite Scalar Quantization", https://arxiv.org/abs/2309.15505

    z = encoder(x)      q, t = quantizer(z)      out = decoder(q)      p(t | y) = prod_l p(t_l | t_<l, y)
    autoencoder:  sum_i |x_i - out_i|^2 + terms, {"commitment": beta} gives beta |z - sg(q)|^2       (2017, eq. 3)
    prior:        -log p(t | y)                                                                      (2017, section 3.2)

The autoencoder is trained first, then the prior, so that its tokens no longer change. Values are per example.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.autoencoder import LOSSES
from lightning_gen.models.autoencoder_base import AutoencoderBase
from lightning_gen.names import check_arguments, resolve
from lightning_gen.networks import Network
from lightning_gen.networks.code_map import MapDecoder, MapEncoder, VQMLPDecoder, VQMLPEncoder
from lightning_gen.networks.code_prior import CachedTokenStream, CodePrior, sample_tokens
from lightning_gen.networks.condition import condition_of, has_condition
from lightning_gen.networks.dcgan import fits
from lightning_gen.networks.quantizer import QUANTIZERS, Quantized, perplexity
from lightning_gen.objectives.latent import Step
from lightning_gen.objectives.terms import QUANTIZED_TERMS
from lightning_gen.schedule import Schedule, schedule
from lightning_gen.training.accepted import of_examples
from lightning_gen.training.validation import Batch, Logs

VQ_NETWORKS: dict[str, Network] = {"conv": Network(MapEncoder, MapDecoder), "mlp": Network(VQMLPEncoder, VQMLPDecoder)}


class VQVAE(AutoencoderBase):
    """Two players: the autoencoder with its quantiser, and the prior; the variants are rows of presets/vq.py.

    Args:
        spec: the data's spec.
        network: "conv", a map of codes for images of 8 to 256 pixels; "mlp", a row of codes; "auto" (by the spec), or
            an import path of an object with ``.encoder(spec, dim, **options)`` and ``.decoder(spec, dim, params,
            **options)``, whose encoder has ``.places``, the shape of its map.
        network_args: options of the network, for example {"width": 64, "halvings": 2} or {"places": 4}.
        quantizer: "vector" (learned codebooks), "finite" (rounding), or an import path of a ``Quantizer``.
        quantizer_args: options of the quantiser: {"codes": 256, "dim": 16, "depth": 1}, or {"levels": [8, 8, 4]}.
        prior_args: options of the prior's transformer: {"width": 128, "depth": 4, "heads": 4, "dropout": 0.1}.
        prior_from: when training switches to the prior: a share of the run, "60%", or an iteration.
        loss: of the reconstruction: "squared" or "absolute", summed over x, or an import path.
        terms: of the autoencoder: term -> weight, ramp, or {weight, **arguments}: commitment.
        conditional: whether the prior is conditioned on the class or the text, where the data have any.
        no_class: share of training examples whose condition is dropped, so that the prior is also unconditional.
        **options: of GenerativeModule: optimizers, lr, ema (of the prior), clip, accumulate, log_every, seed.

    Raises:
        UserError: an unknown name, an impossible option, or data that are no numbers.
    """

    takes_tokens: ClassVar[bool] = False
    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "autoencoder": ("encoder", "quantizer", "decoder"),
        "prior": ("prior",),
    }
    player_tags: ClassVar[dict[str, str]] = {"autoencoder": ""}
    known_terms = QUANTIZED_TERMS

    def __init__(
        self,
        spec: DataSpec,
        *,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        quantizer: str = "vector",
        quantizer_args: dict[str, Any] | None = None,
        prior_args: dict[str, Any] | None = None,
        prior_from: float | str = "60%",
        loss: str = "squared",
        terms: dict[str, Any] | None = None,
        conditional: bool = True,
        no_class: float = 0.1,
        **options: Any,
    ) -> None:
        conditional = conditional and has_condition(DataSpec.of(spec))
        super().__init__(spec, terms=terms or {}, conditional=conditional, **options)
        self._check_options(no_class)
        self.reconstruction_loss, self.no_class = resolve(loss, LOSSES, "loss"), no_class
        self.schedules["prior_from"] = self.turn = _turn(prior_from)
        self.quantizer = _built(QUANTIZERS, "quantizer", quantizer, quantizer_args or {})
        if "commitment" in self.terms and not self.quantizer.has_codebook:
            raise UserError(f"quantizer {quantizer!r} has no codes to commit to: leave the term 'commitment' out")
        network = ("conv" if fits(self.spec) else "mlp") if network == "auto" else network
        pair, args, dim = resolve(network, VQ_NETWORKS, "network"), network_args or {}, self.quantizer.dim
        self.encoder = _built({}, f"network {network!r}", pair.encoder, args, self.spec, dim)
        self.decoder = _built({}, f"network {network!r}", pair.decoder, args, self.spec, dim, self.spec.shape)
        self.places: tuple[int, ...] = self.encoder.places
        depth = self.quantizer.depth
        self.tokens_shape = self.places if depth == 1 else (depth, *self.places)
        self.vocab = self.quantizer.vocab
        self.draw_dim = math.prod(self.tokens_shape)  # tokens L of a row
        sizes = {"length": self.draw_dim, "vocab": self.vocab, "groups": depth, "condition": self.condition_spec}
        self.prior = _built({}, "prior", CodePrior, {**(prior_args or {}), **sizes})

    def _check_options(self, no_class: float) -> None:
        if not 0 < no_class <= 1:
            raise UserError(f"no_class {no_class}: a share of the examples, above 0 and at most 1")
        if "autoencoder" in self.half_life:
            raise UserError(
                "ema.autoencoder: the prior learns the tokens of the networks themselves, not of their averages; "
                "possible is ema.prior"
            )

    # Training

    def update_order(self, iteration: int) -> tuple[str, ...]:
        """The autoencoder before ``prior_from``, the prior after; both for a share of a run of unknown length."""
        if self.turn.relative and not self.total:
            return tuple(self.players)
        return ("prior",) if self.turn(iteration, self.total) else ("autoencoder",)

    def loss_autoencoder(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        z = self.vectors(batch["x"])
        self.quantizer.init_codebook(z, self.seed, self.accumulate)
        s, made = self._through(batch, z)
        self.quantizer.observe(made, self._noise.shard, self._noise.num_shards, self.seed, self.iteration)
        return self.weighted_loss(self.per_example_losses(s))

    def after_step(self, player: str) -> dict[str, Any] | None:
        return self.quantizer.update() if player == "autoencoder" else None

    def loss_prior(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            tokens = self.tokens(batch["x"])
        y = self.condition(condition_of(batch))
        if y is not None and self.condition_spec:
            y = self.condition_spec.hide(y, torch.special.ndtr(self.noise((len(y),), "no_class")) <= self.no_class)
        nats = self.code_length(tokens, y).mean()
        return nats, {"bits_per_token": nats / (math.log(2) * self.draw_dim)}

    def step(self, batch: Batch) -> Step:
        """The outputs of one pass through the code."""
        return self._through(batch, self.vectors(batch["x"]))[0]

    def _through(self, batch: Batch, z: Tensor) -> tuple[Step, Quantized]:
        made = self.quantizer(z)
        s = Step(
            batch["x"], condition_of(batch), self.output(made.q), made.q, z, size=self.spec.size, decoder=self.decoder
        )
        s.cache["tokens"] = made.tokens.flatten(1)
        return s, made

    def per_example_losses(self, s: Step) -> Logs:
        """The reconstruction error and each term, (B,)."""
        return {"reconstruction": self.reconstruction_loss(s.x, s.out.to(s.x.dtype)), **self.term_values(s)}

    # The code

    def vectors(self, x: Tensor) -> Tensor:
        """x (B, *shape) -> the encoder's output before quantisation (B, P, D), a vector for each place."""
        return self.encoder(x).flatten(2).transpose(1, 2).float()  # (B, D, *places) -> (B, P, D)

    def output(self, q: Tensor) -> Tensor:
        """Quantised vectors (B, P, D) -> the decoder's output (B, *shape), unbounded."""
        return self.decoder(q.transpose(1, 2).unflatten(2, self.places))

    @of_examples
    def tokens(self, x: Tensor) -> Tensor:
        """x (B, *shape) in the range of the data -> (B, L) int64."""
        return self.quantizer(self.vectors(x)).tokens.flatten(1)  # (B, G, P) -> (B, L)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) -> (B, *shape) in the range of the data.

        Raises:
            UserError: another length, or no tokens of the vocabulary.
        """
        if tokens.shape[1:] != (self.draw_dim,):
            raise UserError(f"tokens {tuple(tokens.shape)}: possible are rows of {self.draw_dim}")
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.vocab):
            raise UserError(f"tokens {int(tokens.min())} to {int(tokens.max())}: possible are 0 to {self.vocab - 1}")
        grouped = tokens.unflatten(1, (self.quantizer.depth, -1))  # (B, L) -> (B, G, P)
        return self._in_range(self.output(self.quantizer.lookup(grouped)))

    def token_stream(self, n: int, y: Tensor | None = None) -> CachedTokenStream:
        """The prior of n rows, one token at a time, given classes y (n,); None: unconditional. In eval mode.

        Raises:
            UserError: a class out of range, or one for an unconditional model.
        """
        return self.network("prior").stream(n, None if y is None else self.conditions_for_samples(n, y, 0))

    def code_length(self, tokens: Tensor, y: Tensor | None = None) -> Tensor:
        """-log p(tokens | y) of rows (B, L) in nats, (B,); y None: unconditional."""
        logits = self.network("prior")(tokens, y)  # (B, L, K)
        return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none").sum(1)

    # Inference

    @of_examples
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) -> (B, *shape) by way of its tokens."""
        return self.from_tokens(self.tokens(x))

    forward = reconstruct

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Standard normal noise (B, L) -> tokens from the prior, given classes (B,) or None -> (B, *shape)."""
        return self.from_tokens(sample_tokens(self.token_stream(len(z), y), torch.special.ndtr(z.double())))

    def _in_range(self, out: Tensor) -> Tensor:
        return out if self.spec.values == "real" else out.clamp(-1, 1)

    # Validation

    def validation_values(self, batch: Batch) -> Logs:
        """``loss`` is -log p(x|q) - log p(t) with a Gaussian of variance 1/2, up to a constant (2017, section 3.2)."""
        s = self.step(batch)
        values, tokens = self.per_example_losses(s), s.cache["tokens"]
        nats = self.code_length(tokens)
        use = F.one_hot(tokens, self.vocab).unflatten(1, (self.quantizer.depth, -1)).double().mean(2)  # (B, G, K)
        return {"loss": values["reconstruction"] + nats, **values, "code": nats, "use": use}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        use, bits = means.pop("use"), float(means["code"]) / math.log(2)
        return super().validation_summary(means) | {
            "bits_per_token": bits / self.draw_dim,
            "bits_per_dim": bits / math.prod(self.spec.shape),
            "usage": float((use > 0).double().mean()),
            "perplexity": float(perplexity(use).mean()),
        }


def _built(table: dict[str, Any], kind: str, name: Any, options: dict[str, Any], *first: Any) -> Any:
    """A row of a table, or a class, of these first arguments and options, which are checked."""
    builder = resolve(name, table, kind)
    check_arguments(builder, options, f"{kind} {name!r}" if table else kind, skip=len(first))
    return builder(*first, **options)


def _turn(prior_from: float | str) -> Schedule:
    """0 before the prior's training starts, 1 from then on."""
    try:
        turn = schedule(f"0..1@{prior_from}..{prior_from}")
    except UserError:
        turn = None
    end = turn.stop if turn else None
    if turn is None or end is None or end.value < 0 or (end.value > 1 if end.relative else end.value % 1):
        raise UserError(f"prior_from {prior_from!r}: give a share of the run, such as 60%, or an iteration")
    return turn
