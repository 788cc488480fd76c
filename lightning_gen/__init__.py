"""Lightning-Gen: train, sample, compare and ship deep generative models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_gen.models.gan import GAN
    from lightning_gen.models.vae import VAE
    from lightning_gen.presets.make import make
    from lightning_gen.storage.checkpoints import load
    from lightning_gen.training.module import GenerativeModule

__all__ = ["GAN", "VAE", "GenerativeModule", "load", "make"]

_HOMES = {
    "GAN": "models.gan",
    "VAE": "models.vae",
    "GenerativeModule": "training.module",
    "load": "storage.checkpoints",
    "make": "presets.make",
}


def __getattr__(name: str) -> Any:
    """Import the public names lazily: torch and Lightning take seconds."""
    if name == "__version__":
        return import_module("importlib.metadata").version("lightning-gen")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
