"""Train the classifier whose features the metrics of generated images use: what scripts/train_extractor.py does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save
from torch import Tensor

from lightning_gen.atomic import write_atomically
from lightning_gen.commands import start
from lightning_gen.config import cli
from lightning_gen.config.arguments import Parser
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.order import derive_seed
from lightning_gen.datamodules.paths import to_text
from lightning_gen.datamodules.sources import Batch
from lightning_gen.kinds import kind_of
from lightning_gen.metrics.extractors import FORMAT, KEY, Extractor, load_extractor, short_name, trained_path
from lightning_gen.names import check_at_least_one
from lightning_gen.networks.classifier import Classifier
from lightning_gen.networks.condition import labels_of
from lightning_gen.schedule import schedule

WARM_UP, PEAK = schedule("0.05..1@20%"), 3e-3  # share of the peak, and AdamW's learning rate there
DECAY = schedule("1..0@20%..100% cos")
WEIGHT_DECAY = 0.05
SHIFT = 14  # an image moves by up to a 14th of its side: 2 pixels of 28


def main(argv: list[str]) -> None:
    """Parse, train, check, write."""
    given, rest = _parse(argv)
    data = labelled(given.data, given.seed, rest)
    if not data.has_own_examples("test"):
        raise UserError(f"--data {given.data} has no test examples, on which the accuracy could be measured")
    network = train(data, given.steps, given.seed, given.width)
    extractor = Extractor(network, short_name(given.data), shape=data.spec.shape, num_classes=data.spec.num_classes)
    splits = {"train": _one_pass(data), "val": data.val_dataloader(), "test": data.test_dataloader()}
    accuracies = {name: accuracy(extractor, data, batches) for name, batches in splits.items()}
    print("accuracy: " + ", ".join(f"{name} {value:.2%}" for name, value in accuracies.items()))
    if accuracies["test"] < given.min_accuracy:
        raise UserError(
            f"{accuracies['test']:.2%} of the test images are recognised, {given.min_accuracy:.2%} are asked for; "
            "nothing was written. Try more --steps, a larger --width, or a lower --min_accuracy"
        )
    out = given.out or trained_path(given.data)
    facts = {"name": out.stem, "data": extractor.name, "seed": given.seed, "steps": given.steps, "width": given.width}
    _write(out, network, facts | {"accuracy": round(accuracies["test"], 6)}, extractor)


def _parse(argv: list[str]) -> tuple[Any, list[str]]:
    parser = Parser(
        prog=program("train-extractor"),
        description="Train a classifier of labelled images, whose features the metrics then use.",
        allow_abbrev=False,
        epilog="Options of the data are written as for fit: --data.root DIR, --data.size 64, --data.batch_size 256.",
    )
    parser.add_argument("--data", required=True, type=to_text, metavar="NAME", help="a labelled data set, as for fit")
    parser.add_argument("--steps", type=int, default=1500, help="training steps (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and shifts (default 0)")
    parser.add_argument("--width", type=int, default=16, help="a quarter of the number of features (default 16)")
    parser.add_argument("--min_accuracy", type=float, default=0.9, help="on the test images, to be kept (default 0.9)")
    parser.add_argument("--out", type=Path, help="file to write (default tb_logs/extractors/NAME.safetensors)")
    given, rest = parser.parse_known_args(argv)
    _check(given, rest)
    return given, rest


def _check(given: Any, rest: list[str]) -> None:
    """Refuse options that are unknown or impossible before the work starts."""
    for option in (token.split("=")[0] for token in rest):
        if option.startswith("--") and not option.startswith("--data."):
            known = ("data", "data.OPTION", "steps", "seed", "width", "min_accuracy", "out")
            raise unknown("option", option, [f"--{name}" for name in known])
    check_at_least_one(steps=given.steps, width=given.width)
    if not 0 <= given.min_accuracy <= 1:
        raise UserError(f"--min_accuracy {given.min_accuracy}: it must lie between 0 and 1")
    if given.out is not None and given.out.is_dir():
        raise UserError(f"--out {given.out} is a folder: name a file, such as {given.out / 'mine.safetensors'}")


def labelled(name: str, seed: int, options: list[str]) -> DataModule:
    """The data set, loaded.

    Args:
        name: as for ``--data``.
        seed: of the order of its training images.
        options: its own, such as ["--data.root", "data"].

    Raises:
        UserError: it is unknown, or holds no labelled images.
    """
    data = cli.instantiate_data(cli.resolve_config({"model": "vae", "data": name, "seed": seed}, options))
    if not isinstance(data, DataModule):
        raise UserError(
            f"--data {name} is no DataModule of this package: wrap its sets with "
            "lightning_gen.datamodules.custom.Custom"
        )
    spec = data.spec
    if spec.has_two_sides or not kind_of(spec).trains_extractor(spec):
        raise UserError(
            f"--data {name} holds {kind_of(spec).plural} of {spec.values!r} values: a classifier is trained on images "
            "of uint8 or of floats in [0, 1]; for other data use --extractor raw"
        )
    if not spec.num_classes:
        raise UserError(
            f"--data {name} has no class labels to learn: give it some (of a folder, subfolders are the classes), "
            "or evaluate with --extractor raw"
        )
    if data.batch_size < 2:
        raise UserError(f"--data.batch_size {data.batch_size}: BatchNorm needs at least 2")
    data.prepare_data()
    data.setup("fit")
    return data


def train(data: DataModule, steps: int, seed: int, width: int) -> Classifier:
    """Minimise the cross-entropy with AdamW, the images shifted at random.

    Args:
        data: labelled images, from the start of their order.
        steps: batches.
        seed: of weights and shifts; the same seed, data and machine give the same weights.
        width: of the ``Classifier``.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global generator
        torch.default_generator.manual_seed(seed)
        network = Classifier(data.spec.shape, data.spec.num_classes, width)
    generator = torch.Generator().manual_seed(derive_seed(seed, "shift"))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    for n, batch in enumerate(track(islice(_endless(data), steps), "training", steps)):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * WARM_UP(n, steps) * DECAY(n, steps)
        batch = data.transform(batch, training=True)
        _, logits = network(shifted(batch["x"], generator))
        labels = labels_of(batch)
        assert labels is not None
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    return network


def _endless(data: DataModule) -> Iterator[Batch]:
    loader = data.train_dataloader()
    while True:
        yield from loader


def _one_pass(data: DataModule) -> Iterable[Batch]:
    """About as many training images as there are."""
    loader = data.train_dataloader()
    return islice(loader, len(loader))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a 14th of its sides, at random; its border pixels fill the gap; (B, C, H, W)."""
    count, _, height, width = x.shape

    def places(side: int) -> Tensor:
        most = side // SHIFT
        by = torch.randint(-most, most + 1, (count, 1), generator=generator)
        return (torch.arange(side) + by).clamp(0, side - 1)  # (B, side)

    rows, columns = places(height)[:, :, None], places(width)[:, None, :]
    return x[torch.arange(count)[:, None, None], :, rows, columns].movedim(3, 1)  # (B, H, W, C) -> (B, C, H, W)


def accuracy(extractor: Extractor, data: DataModule, batches: Iterable[Batch]) -> float:
    """Share of images that are recognised, in [0, 1].

    Args:
        extractor: with classes.
        data: whose images they are.
        batches: as its loaders give them.
    """
    right = count = 0
    for batch in batches:
        guess = extractor.log_probs(data.transform(batch)["x"]).argmax(1)
        labels = labels_of(batch)
        assert labels is not None
        right += int((guess == labels).sum())
        count += len(guess)
    return right / count


def _write(out: Path, network: Classifier, facts: dict[str, Any], extractor: Extractor) -> None:
    """Write the file, and say what it is and how to use it."""
    facts |= {"format": FORMAT, "shape": extractor.shape, "num_classes": extractor.num_classes}
    content = save(network.state_dict(), {KEY: json.dumps(facts, sort_keys=True)})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content)
    written = load_extractor(out)
    print(f"extractor {written.name}, {facts['accuracy']:.2%} of the test images recognised, in {out}")
    print(f"sha256:    {written.sha256}")
    print(f"use:       {program('evaluate')} RUN --extractor {out}")


if __name__ == "__main__":
    start("train-extractor")
