"""Image pool: a history buffer of earlier translations, some of which the discriminator receives instead of new ones.

Shrivastava et al. 2017, https://arxiv.org/abs/1612.07828, section 2.3; Zhu et al. 2017, section 4: of 50 images
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gen.training.noise import seed_of


class ImagePool(nn.Module):
    """The pool's images are a buffer, so they are in the checkpoint; which are exchanged follows from a key.

    Each new image is returned, or, once the pool is full and with a probability of one half, is exchanged
    for a random one of the pool. Over several devices the pool is that of all of them together, the same on each.

    Args:
        size: number of images, 0 for none: then all new images are returned.
        shape: (C, H, W) of one.
    """

    images: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))

    @torch.no_grad()
    def query(self, new: Tensor, images_seen: int, *key: int | str) -> Tensor:
        """New images (B, C, H, W) in, as many images out, of the whole batch of all devices.

        Args:
            new: the translations of this step, without a graph.
            images_seen: number of images of the whole run so far, which gives how full the pool is.
            key: seed, iteration and place, of which alone the choice depends.
        """
        size = len(self.images)
        if not size:
            return new
        generator = torch.Generator().manual_seed(seed_of(*key, "pool"))
        swaps = (torch.rand(len(new), generator=generator) < 0.5).tolist()
        places = torch.randint(size, (len(new),), generator=generator).tolist()
        out = new.clone()
        for k, (swap, place) in enumerate(zip(swaps, places, strict=True)):
            filled = images_seen + k
            if filled < size:
                self.images[filled] = new[k]
            elif swap:
                out[k] = self.images[place]
                self.images[place] = new[k]
        return out
