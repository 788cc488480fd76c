"""Lightning-Gen: train, sample, compare and ship deep generative models."""

from lightning_gen.checkpoints import load
from lightning_gen.models.gan import GAN
from lightning_gen.models.vae import VAE
from lightning_gen.module import GenerativeModule

__all__ = ["GAN", "VAE", "GenerativeModule", "load"]
