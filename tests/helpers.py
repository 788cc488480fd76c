"""What tests hand to the scripts by import path."""

import lightning as L
import torch

from lightning_gen.networks import NETWORKS, Network


class SameOnAllRanks(L.Callback):
    """Prints the largest difference between the ranks' weights."""

    def on_train_end(self, trainer, pl_module):
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        both = pl_module.all_gather(mine)
        trainer.print(f"ranks agree: {(both[0] - both[1]).abs().max().item()}")


class NaNAt(L.Callback):
    """Breaks a weight in the middle of a run."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration == 60:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


def roughness(s, power=2.0):
    """A term of the user's own: differences of neighbouring pixels, (B,)."""
    return (s.out[..., 1:] - s.out[..., :-1]).abs().pow(power).flatten(1).sum(1)


tiny = Network(
    lambda spec, out: NETWORKS["mlp"].encoder(spec, out, hidden=[8]),
    lambda spec, latent_dim, params: NETWORKS["mlp"].decoder(spec, latent_dim, params, hidden=[8]),
)
