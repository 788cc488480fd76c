"""What the machinery costs: the same VAE trained by four loops, in images per second.

    python benchmarks/overhead.py [--repeats 7] [--seconds 3] [--root data] [--out table.md]

(a) ours:         fit.py's Trainer, with its callbacks and TensorBoard, and our DataModule
(b) plain loop:   a hand-written PyTorch loop, a DataLoader over a torchvision data set with ToTensor, Adam
(c) the floor:    a hand-written loop over float tensors in memory, fused Adam, nothing else
(d) plain module: a LightningModule with three ``self.log`` a step and the Trainer's defaults, data as in (b)

All four train the same modules from the same weights for the same iterations, in one process with one thread. A cell
is timed by its stream of batches, from the moment that batch ``WARMUP`` is handed out: fetching, forward, backward,
step, logging and callbacks are inside; the start of the Trainer, validation, pictures and checkpoints of (a) are
outside. The loops take turns, a b c d a b c d, and a ratio is taken between neighbours in time; all figures are
medians over the repeats. The process's CPU time says the same on a machine that is busy with other work. The loss, on
the same images after each cell, shows that the loops do the same work; (a) falls a little faster in short cells, since
our networks see x in [-1, 1] and the others, as in tutorials, in [0, 1].
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST, VisionDataset
from torchvision.transforms import ToTensor

from lightning_gen.commands import fit
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.loader import Position
from lightning_gen.datamodules.sources import Source, Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models.vae import VAE
from lightning_gen.training.speed import without_garbage_collection

BATCH = 128
LATENT = 20
LR = 1e-3
WARMUP = 20  # iterations before the clock starts
NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
LIGHTNINGS = os.environ.get(NVML, "0")  # set by the import of Lightning; it makes every optimizer step slower
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP 784-400-20": {"network": "mlp", "network_args": {"hidden": [400]}},
    "dcgan, width 32": {"network": "dcgan", "network_args": {"width": 32}},
}


class Pair(NamedTuple):
    """An encoder x (B, 1, 28, 28) -> (B, 2Z) and a decoder z (B, Z) -> logits (B, 1, 28, 28)."""

    encoder: nn.Module
    decoder: nn.Module

    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]


def losses(pair: Pair, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction error and KL in nats per example, as one would write them by hand; target in [0, 1]."""
    mean, log_var = pair.encoder(x).chunk(2, dim=1)
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    reconstruction = F.binary_cross_entropy_with_logits(pair.decoder(z), target, reduction="sum")
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
    return reconstruction / len(x), kl / len(x)


# The clock -----------------------------------------------------------------------------------------------------------


class Clock:
    """Times the batches ``WARMUP`` to ``WARMUP + iterations`` of a stream, in the same way in all loops."""

    def __init__(self, iterations: int) -> None:
        self.iterations, self.seen = max(1, iterations // 10) * 10, 0
        self.started = self.stopped = (0.0, 0.0)  # wall clock and CPU time of the process, in seconds

    @property
    def steps(self) -> int:
        """Length of the run: the batch after the timed ones stops the clock; in (a) ten iterations may be one batch."""
        return WARMUP + self.iterations + 10

    @property
    def done(self) -> bool:
        return self.seen >= self.steps

    def rates(self) -> tuple[float, float]:
        """Images per second of wall clock and of CPU time."""
        wall, cpu = (stop - start for start, stop in zip(self.started, self.stopped, strict=True))
        return self.iterations * BATCH / wall, self.iterations * BATCH / cpu

    def tick(self, batches: int = 1) -> None:
        """A batch, or ten in one, is handed out."""
        if self.seen == WARMUP:
            self.started = time.perf_counter(), time.process_time()
        elif self.seen == WARMUP + self.iterations:
            self.stopped = time.perf_counter(), time.process_time()
        self.seen += batches


class Timed:
    """A loader that tells the clock of each batch that it hands out."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock = loader, clock
        self.position = getattr(loader, "position", Position())

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.clock.tick(self.position.batches_per_fetch)
            yield batch


# The data ------------------------------------------------------------------------------------------------------------


class RandomImages(VisionDataset):
    """Stands in for MNIST: as many grey images of the same size, with something to learn, read as MNIST's are."""

    def __init__(self, root: Path, transform: Callable[[Any], Any] | None = None) -> None:
        super().__init__(root, transform=transform)
        generator = torch.Generator().manual_seed(0)
        codes, patterns = torch.randn(60_000, 10, generator=generator), torch.randn(10, 784, generator=generator)
        self.data = (255 * torch.sigmoid(codes @ patterns)).to(torch.uint8).view(-1, 28, 28)
        self.targets = torch.zeros(60_000, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index].numpy(), mode="L")
        return self.transform(image) if self.transform else image, int(self.targets[index])


def dataset(root: Path) -> tuple[str, Any]:
    """MNIST below root where it is unpacked, else random images; with ToTensor for each example."""
    try:
        return "MNIST", MNIST(str(root), transform=ToTensor())
    except RuntimeError:
        return f"random images (no MNIST below {root})", RandomImages(root, transform=ToTensor())


class InMemory(DataModule):
    """The same images in our DataModule, and a clock in its stream."""

    def __init__(self, images: Tensor, labels: Tensor, clock: Clock) -> None:
        super().__init__(batch_size=BATCH)
        self.images, self.labels, self.clock = images, labels, clock

    def describe(self) -> DataSpec:
        return DataSpec(shape=(1, 28, 28), size=len(self.images), num_classes=10)

    def splits(self) -> dict[str, Source]:
        few = Tensors(x=self.images[:BATCH], y=self.labels[:BATCH])  # validation is not timed
        return {"train": Tensors(x=self.images, y=self.labels), "val": few, "test": few}

    def train_dataloader(self) -> Any:
        return Timed(super().train_dataloader(), self.clock)


# The four loops ------------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """What all loops share; ``images`` (N, 1, 28, 28) uint8, ``floats`` the same in [0, 1]."""

    network: dict[str, Any]
    data: Any
    images: Tensor
    floats: Tensor
    folder: Path

    def model(self) -> VAE:
        torch.manual_seed(0)
        spec = DataSpec(shape=(1, 28, 28), size=len(self.images), num_classes=10)
        return VAE(spec, latent_dim=LATENT, likelihood="bernoulli", lr=LR, **self.network)

    def pair(self) -> Pair:
        model = self.model()
        return Pair(model.encoder, model.decoder)

    def loader(self) -> DataLoader:
        return DataLoader(self.data, BATCH, shuffle=True, drop_last=True)


def ours(setting: Setting, clock: Clock) -> Pair:
    """(a) What fit.py does; it validates, draws and saves after the last iteration."""
    model = setting.model()
    config = {"seed": 0, "val_every": clock.steps, "save_every": clock.steps}
    data = InMemory(setting.images, setting.data.targets, clock)
    folder = Path(tempfile.mkdtemp(dir=setting.folder)) / "version_0"
    trainer = fit.build_trainer({"accelerator": "cpu"}, folder, config, clock.steps, data)
    with without_garbage_collection():
        trainer.fit(model, datamodule=data)
    return Pair(model.encoder, model.decoder)


def plain_loop(setting: Setting, clock: Clock) -> Pair:
    """(b) What a tutorial shows."""
    pair, loader = setting.pair(), Timed(setting.loader(), clock)
    optimizer = torch.optim.Adam(pair.parameters(), lr=LR)
    while True:
        for x, _ in loader:
            if clock.done:
                return pair
            optimizer.zero_grad()
            loss = sum(losses(pair, x, x))
            loss.backward()
            optimizer.step()


def floor(setting: Setting, clock: Clock) -> Pair:
    """(c) As little as possible around the same arithmetic."""
    pair, x = setting.pair(), setting.floats
    optimizer = torch.optim.Adam(pair.parameters(), lr=LR, fused=True)
    while True:
        for rows in Timed(torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH), clock):
            if clock.done:
                return pair
            batch = x.index_select(0, rows)
            optimizer.zero_grad()
            loss = sum(losses(pair, batch, batch))
            loss.backward()
            optimizer.step()


class PlainModule(L.LightningModule):
    """What Lightning's tutorial shows."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.encoder, self.decoder = pair

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, _ = batch
        reconstruction, kl = losses(Pair(self.encoder, self.decoder), x, x)
        loss = reconstruction + kl
        self.log("loss", loss, prog_bar=True)
        self.log("reconstruction", reconstruction)
        self.log("kl", kl)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


def plain_module(setting: Setting, clock: Clock) -> Pair:
    """(d) The Trainer as it comes."""
    pair = setting.pair()
    trainer = L.Trainer(accelerator="cpu", max_steps=clock.steps, default_root_dir=tempfile.mkdtemp(dir=setting.folder))
    trainer.fit(PlainModule(pair), Timed(setting.loader(), clock))
    return pair


LOOPS: dict[str, Callable[[Setting, Clock], Pair]] = {
    "(a) ours": ours,
    "(b) plain loop, torchvision": plain_loop,
    "(c) floor: tensors in memory, fused Adam": floor,
    "(d) Trainer's defaults, torchvision": plain_module,
}
OURS, FLOOR = "(a) ours", "(c) floor: tensors in memory, fused Adam"


# Measuring -----------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One loop's run: images per second of wall clock and of CPU time, and the loss in nats that it reached."""

    wall: float
    cpu: float
    loss: float


def measure(name: str, setting: Setting, iterations: int) -> Cell:
    """Run one loop, its output thrown away."""
    clock = Clock(iterations)
    os.environ[NVML] = "0" if LOOPS[name] in (plain_loop, floor) else LIGHTNINGS  # those would not have imported it
    torch.manual_seed(1)  # order and noise of the loops that use the global generator
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pair = LOOPS[name](setting, clock)
    return Cell(*clock.rates(), reached(pair, setting.floats[:2000], signed=name == OURS))


@torch.no_grad()
def reached(pair: Pair, target: Tensor, signed: bool) -> float:
    """The loss on the same images with the same noise; our models take x in [-1, 1], the others in [0, 1]."""
    torch.manual_seed(2)
    for module in pair:
        module.eval()
    return float(sum(losses(pair, 2 * target - 1 if signed else target, target)))


def compare(
    setting: Setting, repeats: int, seconds: float, iterations: int | None
) -> tuple[int, dict[str, list[Cell]]]:
    """The iterations of a cell, and each loop's cells; the loops take turns."""
    if iterations is None:
        iterations = max(1, round(measure(FLOOR, setting, 50).wall / BATCH * seconds))
    cells: dict[str, list[Cell]] = {name: [] for name in LOOPS}
    for repeat in range(repeats):
        for name, measured in cells.items():
            measured.append(measure(name, setting, iterations))
        rates = ", ".join(f"{name[:3]} {measured[-1].wall:,.0f}" for name, measured in cells.items())
        print(f"repeat {repeat + 1} of {repeats}: {rates} images/s", flush=True)
    return iterations, cells


def table(network: str, iterations: int, cells: dict[str, list[Cell]]) -> str:
    """Markdown: medians, and the smallest and largest of the repeats in brackets."""
    lines = [
        f"**{network}**, {iterations:,} iterations a cell, {len(cells[OURS])} repeats",
        "",
        "| loop | images/s | (a) is times as fast | the same by CPU time | loss, nats |",
        "|---|---|---|---|---|",
    ]
    for name, measured in cells.items():
        rate = _spread([cell.wall for cell in measured], ",.0f")
        pairs = list(zip(cells[OURS], measured, strict=True))
        wall, cpu = _spread([a.wall / b.wall for a, b in pairs]), _spread([a.cpu / b.cpu for a, b in pairs])
        lines.append(f"| {name} | {rate} | {wall} | {cpu} | {median(cell.loss for cell in measured):.1f} |")
    return "\n".join(lines)


def _spread(values: list[float], form: str = ".3f") -> str:
    return f"{median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def heading(data: str) -> str:
    """What was measured, with what and on what."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("lightning-gen", "torch", "torchvision", "lightning"))
    return (
        f"VAE with {LATENT} latents and the Bernoulli likelihood on {data}, 28x28 grey, batch {BATCH}, one thread.\n"
        f"{versions}, Python {platform.python_version()}; {_processor()}, {os.cpu_count()} CPUs."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the machinery costs: one VAE trained by four loops.")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder with MNIST; else random images")
    parser.add_argument("--repeats", type=int, default=7, help="turns of the four loops")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of the fastest loop's cell")
    parser.add_argument("--iterations", type=int, help="timed iterations of a cell, instead of --seconds")
    parser.add_argument("--network", choices=["mlp", "dcgan"], help="only this one")
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fit._quiet()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    name, data = dataset(options.root)
    images = data.data.unsqueeze(1)  # (N, 1, 28, 28)
    blocks = [heading(name)]
    with tempfile.TemporaryDirectory() as folder:
        for network, arguments in NETWORKS.items():
            if options.network in (None, arguments["network"]):
                setting = Setting(arguments, data, images, images / 255, Path(folder))
                measured = compare(setting, options.repeats, options.seconds, options.iterations)
                blocks.append(table(network, *measured))
                print(f"\n{blocks[-1]}\n", flush=True)
    text = "\n\n".join(blocks) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
