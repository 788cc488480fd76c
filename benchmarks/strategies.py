"""The flat all-reduce beside DistributedDataParallel, and what both send: ``python benchmarks/strategies.py``.

Runs each model on two processes of this machine (gloo) under both strategies, in turn, and prints milliseconds for an
iteration, the ratio, and how many bytes and all-reduces an iteration costs one rank. Then what the bytes predict for
clusters, with the assumptions that are printed. On a machine with several GPUs the same command uses two of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

ROOT = Path(__file__).parents[1]
WARM = 10  # iterations before the clock starts
MODELS = {  # what is measured -> its options
    "vae": ["--model", "vae", "--data.batch_size", "128"],
    "dcgan": ["--model", "dcgan", "--data.batch_size", "64"],
    "wgan-gp": ["--model", "wgan-gp", "--data.batch_size", "64"],
    "conv-vae-64": ["--model", "conv-vae", "--data", "shapes", "--data.batch_size", "32"],
    "r3gan-64": ["--model", "r3gan", "--data", "shapes", "--data.batch_size", "16"],
}
LINKS = {8: (150e9, 10e-6), 64: (20e9, 20e-6), 512: (20e9, 25e-6)}  # GPUs -> bytes/s of a rank, seconds of a hop


class Clock(L.Callback):
    """Times an iteration; counts the bytes and all-reduces of gradients where the strategy does."""

    counted = (0, 0)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.iteration == WARM:
            self.first = self._now(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            last, steps = self._now(trainer), pl_module.iteration - WARM
            names = ("ms", "bytes", "reductions")
            values = [(b - a) / steps for a, b in zip(self.first, last, strict=True)]
            print("COST " + json.dumps(dict(zip(names, values, strict=True))), flush=True)

    def _now(self, trainer: L.Trainer) -> list[float]:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        flat = trainer.strategy if hasattr(trainer.strategy, "bytes_sent") else None
        counted = [flat.bytes_sent, flat.reductions] if flat else self.counted
        return [1000 * time.perf_counter(), *counted]


class Counter(Clock):
    """Counts those of DistributedDataParallel too, which costs time."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        wrapped = trainer.strategy.model
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            wrapped.register_comm_hook(self, _counting)


def _counting(counter, bucket):  # without annotations, which the wrapper checks
    counter.counted = (counter.counted[0] + bucket.buffer().nbytes, counter.counted[1] + 1)
    return allreduce_hook(torch.distributed.group.WORLD, bucket)


def measure(model: str, strategy: str, steps: int, folder: str, callback: str) -> dict[str, float]:
    """One run on two ranks."""
    command = [sys.executable, str(ROOT / "scripts/fit.py"), "--steps", str(steps + WARM)]
    command += ["--trainer.devices", "2", "--trainer.strategy", strategy, "--val_every", "100000", "--save_every"]
    command += ["100000", "--watch", "none", "--trainer.callbacks", f"[strategies.{callback}]", *MODELS[model]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT}"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("COST ")]
    assert done.returncode == 0 and lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("COST "))


def communication(sent: float, reductions: float, gpus: int) -> float:
    """Seconds that an iteration spends in ring all-reduces: 2 (n - 1) / n of the bytes, and a tree's 2 log2 n hops."""
    bandwidth, hop = LINKS[gpus]
    return sent * 2 * (gpus - 1) / gpus / bandwidth + reductions * 2 * math.log2(gpus) * hop


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    costs: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            costs[model] = {s: [measure(model, s, WARM, folder, "Counter")] for s in ("flat", "ddp")}
            for _ in range(given.turns):
                for strategy, found in costs[model].items():
                    found.append(measure(model, strategy, given.steps, folder, "Clock"))
    print("| model | flat, ms | ddp, ms | flat / ddp | flat: MB, all-reduces | ddp: MB, all-reduces |")
    print("|---|---|---|---|---|---|")
    for model, found in costs.items():
        flat, ddp = (statistics.median(c["ms"] for c in found[s][1:]) for s in ("flat", "ddp"))
        sent = [f"{found[s][0]['bytes'] / 1e6:.2f}, {found[s][0]['reductions']:.1f}" for s in ("flat", "ddp")]
        print(f"| `{model}` | {flat:.1f} | {ddp:.1f} | {flat / ddp:.2f} | {sent[0]} | {sent[1]} |")
    print("\n| model | GPUs | communication, ms | computing for 90 % efficiency, ms |\n|---|---|---|---|")
    for model, found in costs.items():
        for gpus in LINKS:
            ms = 1000 * communication(found["flat"][0]["bytes"], found["flat"][0]["reductions"], gpus)
            print(f"| `{model}` | {gpus} | {ms:.2f} | {9 * ms:.1f} |")


if __name__ == "__main__":
    main()
