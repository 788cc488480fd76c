"""Networks by name: an encoder x -> features and a decoder z -> x, for every kind of data; a translator x -> x.

They return logits or means, never squashed. ``encoder(x, c=None) -> (B, out)``, ``decoder(z, c=None) -> (B, *params)``.

A conditional model builds them with ``condition=``, a ``ConditionSpec``, and calls them with class ids c (B,) or tokens
c (B, L), see condition.py. A decoder with ``autoregressive = True`` is ``decoder(z, c=None, x=None)``: with x
(B, *shape) it predicts each element from those before, and without it from those that it found the most probable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.names import check_arguments, resolve
from lightning_gen.networks import dcgan, mlp, patchgan, r3gan, resnet, resnet_translator, unet
from lightning_gen.networks.condition import ConditionSpec


class Network(NamedTuple):
    """Builders of a pair of networks, which share the names of their options.

    Args:
        encoder: ``encoder(spec, out, **options)`` -> module, x (B, *shape) -> (B, out), with ``.features(x)``.
        decoder: ``decoder(spec, latent_dim, params, **options)`` -> module, z (B, Z) -> (B, *params).
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]


class NoDecoder(NamedTuple):
    """A builder of encoders that have no counterpart; ``encoder`` as of ``Network``."""

    encoder: Callable[..., nn.Module]


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp.MLPEncoder, mlp.MLPDecoder),
    "dcgan": Network(dcgan.DCGANEncoder, dcgan.DCGANDecoder),
    "resnet": Network(resnet.ResNetEncoder, resnet.ResNetDecoder),
    "r3gan": Network(r3gan.R3GANEncoder, r3gan.R3GANDecoder),
}

DECODER_OPTIONS = {"dcgan": ("upsample",)}  # which an encoder takes for the sake of its decoder alone

TRANSLATORS: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet_translator.ResNetTranslator,
    "unet": unet.UNetTranslator,
}
CRITICS: dict[str, Any] = {"patch": NoDecoder(patchgan.PatchEncoder), **NETWORKS}  # of translations


def auto(spec: DataSpec) -> str:
    """The network that suits the data, as their kind says: for images above 16 pixels convolutions."""
    return kind_of(spec).network(spec)


def encoder(name: Any, spec: DataSpec, out: int, **options: Any) -> nn.Module:
    """An encoder, x (B, *shape) -> (B, out).

    Args:
        name: "auto", a name of ``NETWORKS``, an import path of an object with ``.encoder`` and ``.decoder`` (a
            ``Network``, a class or a module), or that object.
        spec: what one example looks like.
        out: number of outputs.
        options: for the network, such as ``hidden`` or ``width``.

    Raises:
        UserError: for an unknown name or option, and for data that the network does not take.
    """
    return _build(name, "encoder", options, spec, out)


def discriminator(name: Any, spec: DataSpec, out: int, **options: Any) -> nn.Module:
    """An encoder, x (B, *shape) -> (B, out), that shares its options with no decoder.

    Args:
        name: as for ``encoder``.
        spec: what one example looks like.
        out: number of outputs.
        options: for the network.

    Raises:
        UserError: as of ``encoder``, and for options that are of use to a decoder alone.
    """
    return _discriminator(name, options, spec, out, NETWORKS)


def decoder(name: Any, spec: DataSpec, latent_dim: int, params: tuple[int, ...], **options: Any) -> nn.Module:
    """A decoder, z (B, Z) -> (B, *params).

    Args:
        name: as for ``encoder``.
        spec: what one example looks like.
        latent_dim: Z.
        params: shape of the output for one example, ``likelihood.params()``.
        options: for the network, the same as the encoder's.

    Raises:
        UserError: for an unknown name or option, and for data that the network does not take.
    """
    return _build(name, "decoder", options, spec, latent_dim, params)


def translator(name: Any, shape: tuple[int, ...], channels: int, **options: Any) -> nn.Module:
    """A translator, x (B, C, H, W) -> (B, channels, H, W), with ``stride``, of which H and W must be multiples.

    Args:
        name: a name of ``TRANSLATORS``, an import path of a class, or the class.
        shape: (C, H, W) of a picture.
        channels: of the result.
        options: for the network, such as ``width``.

    Raises:
        UserError: for an unknown name or option, and for sizes that the network does not take.
    """
    builder = resolve(name, TRANSLATORS, "network")
    if not callable(builder):
        raise UserError(f"network {name!r} is no class: it needs (shape, channels, **options) -> a module")
    check_arguments(builder, options, f"network {name!r}", skip=2)
    built = builder(shape, channels, **options)
    if not isinstance(getattr(built, "stride", None), int):
        raise UserError(f"network {name!r} has no .stride: the number of which a picture's sides must be multiples")
    return built


def critic(name: Any, spec: DataSpec, **options: Any) -> nn.Module:
    """A discriminator of pictures, x (B, C, H, W) -> logits (B, 1, h, w) of patches, or (B, 1) of whole pictures.

    Args:
        name: "patch", or as for ``encoder``.
        spec: what one picture looks like.
        options: for the network.

    Raises:
        UserError: as of ``encoder``.
    """
    return _discriminator(name, options, spec, 1, CRITICS)


def chosen_by_size(builder: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, int]:
    """Of a network's options those that follow from the size (C, H, W) of the pictures, because they are not given."""
    choose = getattr(builder, "chosen_by_size", None)
    return {name: value for name, value in choose(shape).items() if not options.get(name)} if choose else {}


def _discriminator(name: Any, options: dict[str, Any], spec: DataSpec, out: int, table: dict[str, Any]) -> nn.Module:
    name = auto(spec) if name == "auto" else name
    if unused := sorted({*options} & {*DECODER_OPTIONS.get(name, ())} if isinstance(name, str) else ()):
        raise UserError(
            f"network {name!r} has no use for {unused[0]!r} as a discriminator: it belongs to the network that makes "
            f"pictures, --model.network_args.{unused[0]}"
        )
    return _build(name, "encoder", options, spec, out, table=table)


def _build(
    name: Any, side: str, options: dict[str, Any], spec: DataSpec, *sizes: Any, table: dict[str, Any] = NETWORKS
) -> nn.Module:
    name = auto(spec) if name == "auto" else name
    builder = getattr(resolve(name, table, "network"), side, None)
    if not callable(builder):
        raise UserError(f"network {name!r} has no .{side}(): it needs .encoder(spec, out) and .decoder(spec, Z, shape)")
    check_arguments(builder, options, f"network {name!r}", skip=1 + len(sizes))
    if not isinstance(options.get("condition"), ConditionSpec | None):
        raise UserError(f"network {name!r}: condition={options['condition']!r} follows from the model: leave it out")
    return builder(spec, *sizes, **options)
