"""CPU-seconds and wall-clock seconds of an iteration with one thread and with all: python benchmarks/threads.py.

The table of docs/architecture.md, from which ``PER_THREAD`` of lightning_gen/training/threads.py was read off.
"""

from __future__ import annotations

import subprocess
import sys
import time

import torch

from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.loader import cores
from lightning_gen.training.noise import BatchNoise
from lightning_gen.training.threads import flops_per_iteration, random_batch

RUNS = [
    ["--model", "vae", "--data", "digits"],
    ["--model", "vae", "--data", "toy"],
    ["--model", "gan", "--data", "toy"],
    ["--model", "gan", "--data", "digits"],
    ["--model", "vae", "--data", "mnist"],
    ["--model", "vae", "--data", "mnist", "--data.batch_size", "512"],
    ["--model", "conv-vae", "--data", "mnist"],
    ["--model", "conv-vae", "--data", "cifar10"],
    ["--model", "cyclegan", "--data", "outline-shapes", "--data.batch_size", "1"],
]
SECONDS = 4.0  # of each measurement


def measure(words: list[str], threads: int) -> None:
    """Print GFLOP, iterations, CPU-seconds and seconds of a run's iterations."""
    torch.set_num_threads(threads)
    plan = cli.resolve_config(*parse_short_options([*words, "--steps", "1"]))
    model, data = cli.instantiate(plan)
    flops = flops_per_iteration(model, data.batch_size)
    batch = random_batch(model.spec, data.batch_size)
    model.train()._noise = BatchNoise(0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def iterate() -> None:
        shared: dict = {}
        for player in model.players:
            optimizer.zero_grad()
            loss, _ = getattr(model, f"loss_{player}")(batch, shared)
            loss.backward()
            optimizer.step()

    iterate()
    count, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        iterate()
        count += 1
    print(flops / 1e9, count, time.process_time() - cpu, time.perf_counter() - start)


def main() -> None:
    """A process for each measurement."""
    print(f"| run | GFLOP | CPU ms, 1 thread | {cores()} threads | wall ms, 1 thread | {cores()} threads |")
    print("|---|---|---|---|---|---|")
    for words in RUNS:
        found = []
        for threads in (1, cores()):
            command = [sys.executable, __file__, str(threads), *words]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-4:]
            found.append([float(number) for number in said])
        (flops, *_), _ = found
        cpu = [f"{1000 * used / count:.1f}" for _, count, used, _ in found]
        wall = [f"{1000 * took / count:.1f}" for _, count, _, took in found]
        print(f"| `{' '.join(words)}` | {flops:.3f} | {' | '.join(cpu + wall)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[2:], int(sys.argv[1]))
    else:
        main()
