"""Spectral normalisation of a whole network."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from lightning_gen.networks.condition import modules_of

Net = TypeVar("Net", bound=nn.Module)

NORMALISED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)


def spectral_norm_(network: Net, first_bias: bool = True) -> Net:
    """Divide each weight of a network by its largest singular value, in place: W / sigma(W).

    Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", https://arxiv.org/abs/1802.05957,
    equation 8. sigma is followed by one power iteration in each forward pass in training mode, and is constant in eval
    mode. A convolution's weight counts as a matrix, one row for each output channel.

    Args:
        network: its linear layers, convolutions and embeddings are changed; those that were already, are left alone,
            and so is a condition's encoder of texts, on which the slope in x does not depend.
        first_bias: False for a network that takes z, whose first layer then loses its bias. The norm bounds what z does
            there, and nothing bounds a bias: z fades beside it, and the norm that follows makes one picture of all z.

    Returns:
        The network.
    """
    layers = [layer for layer in modules_of(network) if isinstance(layer, NORMALISED)]
    if not first_bias and layers and getattr(layers[0], "bias", None) is not None:
        layers[0].bias = None
    for layer in layers:
        if not is_parametrized(layer, "weight"):
            if not layer.weight.any():  # such as the end of a residual branch: 0 / 0, and no size to begin small with
                layer.reset_parameters()
            parametrizations.spectral_norm(layer)
    return network
