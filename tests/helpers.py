"""What tests hand to the scripts by import path."""

import signal
import time
from pathlib import Path
from typing import ClassVar

import lightning as L
import torch
from torch import nn

from lightning_gen.models.vae import VAE
from lightning_gen.networks import NETWORKS, Network
from lightning_gen.storage.checkpoints import CONFIG, read_checkpoint
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.noise import indexed_noise


class SameOnAllRanks(L.Callback):
    """Prints the largest difference between the ranks' weights."""

    def on_train_end(self, trainer, pl_module):
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        both = pl_module.all_gather(mine)
        trainer.print(f"ranks agree: {(both[0] - both[1]).abs().max().item()}")


class CtrlC(L.Callback):
    """Presses it in the hook that is named."""

    def __init__(self, hook):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell switches off in the background
        setattr(self, hook, lambda *_: signal.raise_signal(signal.SIGINT))


class NoRoom(L.Callback):
    """From the start of training on, files longer than so many bytes cannot be written."""

    def __init__(self, size):
        self.size = size

    def on_train_start(self, trainer, pl_module):
        import resource  # which Windows has not

        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class NaNAt(L.Callback):
    """Breaks a weight in the middle of a run."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration == 60:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


class Waits(L.Callback):
    """Says in an iteration that it is there, and waits for the file ``go``: what is to happen meanwhile is not late."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration == self.iteration:
            Path(f"rank{trainer.global_rank}.here").touch()
            while not Path("go").exists():
                time.sleep(0.01)


class NaNOnTheSecondRank(L.Callback):
    """A broken example on one of two devices."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration == 60 and trainer.global_rank == 1:
            batch["x"].fill_(float("nan"))


def roughness(s, power=2.0):
    """A term of the user's own: differences of neighbouring pixels, (B,)."""
    return (s.out[..., 1:] - s.out[..., :-1]).abs().pow(power).flatten(1).sum(1)


tiny = Network(
    lambda spec, out: NETWORKS["mlp"].encoder(spec, out, hidden=[8]),
    lambda spec, latent_dim, params: NETWORKS["mlp"].decoder(spec, latent_dim, params, hidden=[8]),
)


class Duel(GenerativeModule):
    """A Wasserstein GAN without its constraint, on points: enough for the loop."""

    players: ClassVar = {"critic": ("critic",), "generator": ("generator",)}

    def __init__(self, spec, *, critic_moves: int = 2, **options):
        super().__init__(spec, **options)
        self.critic_moves = critic_moves
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.moves = []

    def update_order(self, iteration):
        return ("critic",) * self.critic_moves + ("generator",)

    def loss_critic(self, batch, shared):
        with torch.no_grad():
            fake = self.generator(self.noise((len(batch["x"]), 4)))
        loss = self.critic(fake).mean() - self.critic(batch["x"]).mean()
        return loss, {"gap": loss}

    def loss_generator(self, batch, shared):
        fake = self.generator(self.noise((len(batch["x"]), 4)))
        return -self.critic(fake).mean(), {}

    def sample(self, n, y=None, seed=0, start=0):
        return self.network("generator")(indexed_noise(range(start, start + n), (4,), seed, "sample"))

    def after_step(self, player):
        self.moves.append(player)
        assert all(p.requires_grad == (player == "critic") for p in self.critic.parameters())


class Asserting(VAE):
    """Its samples end in an error without a text."""

    def sample(self, n, y=None, seed=0, start=0):
        assert n == 0
        return super().sample(n, y, seed, start)


class SlowToFinish(VAE):
    """Says that the training is over when it draws its last samples, and waits then for the file ``go``."""

    def sample(self, n, y=None, seed=0, start=0):
        if self._trainer is not None and self._trainer.state.finished:
            Path("finishing").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().sample(n, y, seed, start)


class Terminated(L.Callback):
    """Receives SIGTERM in the hook that is named."""

    def __init__(self, hook):
        setattr(self, hook, lambda *_: signal.raise_signal(signal.SIGTERM))


class Still(GenerativeModule):
    """Makes no samples."""

    players: ClassVar = {"all": ("layers",)}

    def __init__(self, spec, **options):
        super().__init__(spec, **options)
        self.layers = nn.Linear(1, 1)

    def loss_all(self, batch, shared):
        return self.layers(torch.ones(1, 1)).sum(), {}


class Painter:
    """What an evaluation needs of a model: gives training examples of the class that is asked for, and knows no more.

    Args:
        data: whose training examples are given.
        shift: added to the class that is asked for.
        only: the classes that it can make.
    """

    device = torch.device("cpu")

    def __init__(self, data, shift=0, only=tuple(range(10))):
        self.spec, self.classes, self.shift, self.only = data.spec, data.spec.num_classes, shift, only
        batch = data.examples("train", torch.arange(data.size("train")))
        self.x, self.y = batch["x"], batch["y"]

    def sample(self, n, y=None, seed=0, start=0):
        rows = []
        for number, label in enumerate(y.tolist(), start):
            label = self.only[(label + self.shift) % len(self.only)]
            of_class = (self.y == label).nonzero().squeeze(1)
            rows.append(int(of_class[number % len(of_class)]))
        return self.x[rows]


def empty_checkpoint(iteration):
    """What a checkpoint holds at least, of no weights."""
    counters = {"model": "lightning_gen.models.vae.VAE", "iteration": iteration, "images": 0}
    return {"lightning_gen": counters, "hyper_parameters": {}, "state_dict": {}}


def make_older(run, *options):
    """Make a run one of a version that had not these options, and kept no configuration in checkpoints."""
    lines = (run / "config.yaml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip().partition(":")[0] not in options]
    assert len(lines) - len(kept) == len(options)
    (run / "config.yaml").write_text("\n".join(kept), encoding="utf-8")
    for path in (run / "checkpoints").glob("*.ckpt"):
        torch.save({key: value for key, value in read_checkpoint(path).items() if key != CONFIG}, path)
