"""What the machinery costs a translator: CycleGAN by fit.py's Trainer and by a hand-written loop, in images per second.

    python benchmarks/translation.py [--size 64] [--width 32] [--batch 2] [--iterations 10] [--repeats 3] [--bf16]

Both train the same networks (residual translators with 6 blocks, 70x70 patch discriminators) on the same pictures in
memory, with the same losses (least squares, cycle 10, identity 5), pools of 50 pictures and Adam. The loop is written
as the published program works: six passes through the translators, discriminators frozen meanwhile, one backward
for both translators, one for each discriminator. Ours computes translations and identity in one pass. The two take
turns, and a ratio is taken between neighbours in time; figures are medians over the repeats, of the wall clock and of
the process's CPU time, which says the same on a machine that is busy with other work. Validation, pictures, checkpoints
and the start of the Trainer are outside; batches, logging and callbacks are inside.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.commands import fit
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.training.speed import without_garbage_collection

WARMUP = 3  # iterations before the clock starts
LR, BETAS = 5e-4, (0.5, 0.999)
Rates = tuple[float, float]  # images per second of wall clock and of CPU time


class Clock:
    """Times iterations ``WARMUP`` to ``WARMUP + iterations``."""

    def __init__(self, iterations: int) -> None:
        self.iterations, self.seen = iterations, 0
        self.marks: list[tuple[float, float]] = []

    def tick(self) -> None:
        """An iteration begins."""
        if self.seen in (WARMUP, WARMUP + self.iterations):
            self.marks.append((time.perf_counter(), time.process_time()))
        self.seen += 1

    def rates(self, batch: int) -> Rates:
        (wall, cpu), (wall_end, cpu_end) = self.marks
        return self.iterations * batch / (wall_end - wall), self.iterations * batch / (cpu_end - cpu)


class Timed(OutlineShapes):
    """The embedded pictures, and a clock in their stream."""

    clock: Clock

    def train_dataloader(self) -> Any:
        loader, clock = super().train_dataloader(), self.clock

        class Ticking(type(loader)):
            def __iter__(self) -> Any:
                for batch in super().__iter__():
                    clock.tick()
                    yield batch

        loader.__class__ = Ticking
        return loader


def model_of(args: argparse.Namespace, data: OutlineShapes) -> CycleGAN:
    """The same networks and weights for both loops."""
    torch.manual_seed(0)
    return CycleGAN(
        data.spec,
        network_args={"width": args.width, "blocks": 6},
        critic_args={"width": args.width},
        adversarial_weight=2.0,
        terms={"cycle": 10.0, "identity": 5.0},
        optimizers={player: {"lr": LR, "betas": list(BETAS)} for player in CycleGAN.players},
    )


def ours(args: argparse.Namespace) -> Rates:
    """fit.py's Trainer with its callbacks and TensorBoard."""
    data = Timed(size=args.size, batch_size=args.batch)
    data.clock = Clock(args.iterations)
    model, steps = model_of(args, data), WARMUP + args.iterations + 1
    config = {"seed": 0, "save_every": 10**6, "val_every": 10**6, "preset": "cyclegan", "dataset": "outline-shapes"}
    arguments = {"accelerator": "cpu", "limit_val_batches": 0, "precision": "bf16-mixed" if args.bf16 else "32-true"}
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.redirect_stdout(io.StringIO()),
        without_garbage_collection(),
    ):
        trainer = fit.build_trainer(arguments, Path(place) / "run/version_0", config, steps, data, 0)
        data.position.batches_per_fetch = 1  # each iteration is to be seen by the clock
        trainer.val_check_interval = steps
        trainer.fit(model, datamodule=data)
    return data.clock.rates(args.batch)


class Pool:
    """50 earlier pictures in a list."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def query(self, new: Tensor) -> Tensor:
        out = []
        for picture in new:
            if len(self.pictures) < 50:
                self.pictures.append(picture)
                out.append(picture)
            elif random.random() > 0.5:
                k = random.randrange(50)
                out.append(self.pictures[k].clone())
                self.pictures[k] = picture
            else:
                out.append(picture)
        return torch.stack(out)


def squares(logits: Tensor, target: float) -> Tensor:
    return F.mse_loss(logits, torch.full_like(logits, target))


def plain(args: argparse.Namespace) -> Rates:
    """The hand-written loop."""
    data = OutlineShapes(size=args.size, batch_size=args.batch)
    data.setup()
    sides = data._splits["train"]
    a_all, b_all = (source.columns["x"].float() / 127.5 - 1 for source in (sides.a, sides.b))
    model = model_of(args, data)
    to_b, to_a, judge_a, judge_b = model.generator_ab, model.generator_ba, model.discriminator_a, model.discriminator_b
    networks: tuple[nn.Module, ...] = (to_b, to_a, judge_a, judge_b)
    if args.channels_last:
        for network in networks:
            network.to(memory_format=torch.channels_last)
    makers = torch.optim.Adam(itertools.chain(to_b.parameters(), to_a.parameters()), lr=LR, betas=BETAS)
    judges = torch.optim.Adam(itertools.chain(judge_a.parameters(), judge_b.parameters()), lr=LR, betas=BETAS)
    pools, clock = (Pool(), Pool()), Clock(args.iterations)

    def mixed() -> Any:
        return torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)

    for k in range(WARMUP + args.iterations + 1):
        clock.tick()
        rows = torch.arange(k * args.batch, (k + 1) * args.batch) % len(a_all)
        a, b = a_all[rows], b_all[rows]
        if args.channels_last:
            a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
        with mixed():
            fake_b, fake_a = to_b(a).tanh(), to_a(b).tanh()
            back_a, back_b = to_a(fake_b).tanh(), to_b(fake_a).tanh()
            judge_a.requires_grad_(False)
            judge_b.requires_grad_(False)
            same_a, same_b = to_a(a).tanh(), to_b(b).tanh()
            loss = squares(judge_b(fake_b), 1.0) + squares(judge_a(fake_a), 1.0)
            loss = loss + 10 * (F.l1_loss(back_a, a) + F.l1_loss(back_b, b))
            loss = loss + 5 * (F.l1_loss(same_a, a) + F.l1_loss(same_b, b))
        makers.zero_grad()
        loss.backward()
        makers.step()
        judge_a.requires_grad_(True)
        judge_b.requires_grad_(True)
        judges.zero_grad()
        for judge, real, fake, pool in ((judge_b, b, fake_b, pools[0]), (judge_a, a, fake_a, pools[1])):
            with mixed():
                loss = 0.5 * (squares(judge(real), 1.0) + squares(judge(pool.query(fake.detach())), 0.0))
            loss.backward()
        judges.step()
        if k % 50 == 0:
            loss.item()
    return clock.rates(args.batch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 64), ("width", 32), ("batch", 2), ("iterations", 10), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bf16", action="store_true", help="both loops in bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true", help="the hand-written loop in this memory format")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fit._quiet()
    turns = [(ours(args), plain(args)) for _ in range(args.repeats)]
    for k, clock in enumerate(("wall clock", "CPU time")):
        rates = [[turn[which][k] for turn in turns] for which in (0, 1)]
        ratio = median(a / b for a, b in zip(*rates, strict=True))
        print(f"{clock}: ours {median(rates[0]):.2f}, by hand {median(rates[1]):.2f} images/s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
