"""Measure a trained model: what scripts/evaluate.py does."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import track

from datamodules.base import DataModule
from datamodules.errors import UserError, unknown
from lightning_gen import cli, runs
from lightning_gen.checkpoints import find, read
from lightning_gen.evaluation import codes, pictures, quality
from lightning_gen.evaluation.quality import Measured
from lightning_gen.evaluation.report import FILE, Report
from lightning_gen.evaluation.subject import Subject
from lightning_gen.images import save_png
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import Extractor, find_extractor
from lightning_gen.module import GenerativeModule
from lightning_gen.sample import load_on, provenance


class Metric(NamedTuple):
    """A group of numbers that are measured together.

    Args:
        measure: gives them, or raises ``Inapplicable``.
        about: one line for the help.
    """

    measure: Callable[[Subject], Measured]
    about: str


METRICS: dict[str, Metric] = {
    "modes": Metric(quality.modes, "modes found, share of good samples, reverse KL (Gaussian toy data)"),
    "fd": Metric(quality.frechet, "Frechet distance"),
    "kd": Metric(quality.kernel, "kernel distance"),
    "cs": Metric(quality.classifier_score, "inception-type classifier score"),
    "pr": Metric(quality.precision_recall, "precision and recall"),
    "dc": Metric(quality.density_coverage, "density and coverage, coverage per class"),
    "memorisation": Metric(quality.memorisation, "authenticity and nearest-neighbour ratio: is it a copy?"),
    "classes": Metric(quality.classes, "classes that a classifier sees; accuracy on requested classes"),
    "elbo": Metric(codes.elbo, "evidence lower bound, reconstruction and KL"),
    "reconstruction": Metric(codes.reconstructions, "PSNR and SSIM of reconstructions"),
    "latents": Metric(codes.latent, "active units, mutual information, posterior collapse"),
    "mig": Metric(codes.gaps, "mutual information gap, by Chen's convention and by histograms"),
    "factor_vae": Metric(codes.factor_vae, "FactorVAE score"),
    "dci": Metric(codes.dci, "disentanglement, completeness, informativeness"),
    "bits": Metric(codes.bits, "bits per dimension"),
    "nll": Metric(codes.importance, "importance-sampled negative log-likelihood for each k"),
}


def main(argv: list[str]) -> None:
    """Parse, load, measure, write and print."""
    given, rest = _parse(argv)
    names = _names(given.metrics)
    fabric = _fabric(given)
    shows = fabric.is_global_zero and sys.stdout.isatty()
    path = find(given.run, given.which)
    model = load_on(path, str(fabric.device), given.trust)
    data, dataset = _data(given, rest)
    subject = Subject(
        model,
        data,
        _extractor(given.extractor, dataset, data),
        n=given.n,
        seed=given.seed,
        k=tuple(given.k),
        draws=given.draws,
        rank=fabric.global_rank,
        world=fabric.world_size,
        track=lambda rows, title: track(rows, title, disable=not shows, transient=True),
    )
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    report = _report(subject, path, folder / FILE, dataset, given)
    if not fabric.is_global_zero:
        report.write = lambda: None  # type: ignore[method-assign]  # one process writes
    try:
        with torch.inference_mode():
            measure(subject, report, names)
            shown = pictures.safe(subject)
    except KeyboardInterrupt:
        if fabric.is_global_zero:
            print(f"\nwhat is finished is in {report.path}; the same command goes on with the rest", flush=True)
        raise
    if fabric.is_global_zero:
        source = provenance(model, path) | {"seed": given.seed}
        for name, picture in shown:
            save_png(picture, folder / "evaluation" / f"{name}.png", source)
        report.finish([f"evaluation/{name}.png" for name, _ in shown], complete=set(names) == set(METRICS))
        report.show(Console())
        print(f"{report.path}" + "".join(f"\n{folder / 'evaluation' / name}.png" for name, _ in shown))
    if report.content["failed"]:
        raise UserError(f"{len(report.content['failed'])} of {len(names)} groups failed, see above; the rest is saved")


def measure(subject: Subject, report: Report, names: list[str]) -> None:
    """Measure groups of metrics; what is done already is kept, what fails does not keep the rest from it."""
    for name in names:
        if report.is_done(name):
            continue
        start = time.perf_counter()
        try:
            values = dict(METRICS[name].measure(subject))
        except Inapplicable as reason:
            report.inapplicable(name, str(reason))
        except UserError as reason:
            report.failed(name, str(reason))
        else:
            for value in values.values():
                value.seconds = round(time.perf_counter() - start, 2)
            report.add(name, values)


def _parse(argv: list[str]) -> tuple[Any, list[str]]:
    groups = "\n".join(f"  {name:<15}{metric.about}" for name, metric in METRICS.items())
    parser = cli.Parser(
        prog="python scripts/evaluate.py",
        description="Measure a trained model against held-out data: a table, evaluation.json and pictures.",
        epilog=f"metrics:\n{groups}\n\noptions of the run's data: --data.root FOLDER, ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or one of its checkpoints")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("-n", type=int, default=10_000, help="samples and reference examples (default 10000)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="only these (default: all that apply)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    parser.add_argument("--k", type=int, nargs="+", default=[500, 5000], help="importance samples (default 500 5000)")
    parser.add_argument(
        "--draws", type=int, default=5_000_000, help="importance samples for each k over all examples (default 5000000)"
    )
    parser.add_argument("--extractor", default="auto", help="mnist_v1, digits_v1, inception, raw, or a trained file")
    parser.add_argument("--data", metavar="NAME", help="evaluate on other data than the run's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default cpu)")
    parser.add_argument("--devices", type=int, default=1, help="number of devices, which share the work (default 1)")
    parser.add_argument("--fresh", action="store_true", help="measure again what evaluation.json holds already")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given, rest = parser.parse_known_args(argv)
    for name in rest[::2]:
        if not name.startswith("--data."):
            raise unknown("option", name, [flag for a in parser._actions for flag in a.option_strings])
    for name, least in (("n", 2), ("draws", 1), ("devices", 1), ("seed", 0)):
        if getattr(given, name) < least:
            raise UserError(f"{name} {getattr(given, name)}: it must be at least {least}")
    if min(given.k) < 1:
        raise UserError(f"--k {min(given.k)}: at least 1 importance sample")
    return given, rest


def _names(given: list[str] | None) -> list[str]:
    for name in given or []:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return [name for name in METRICS if given is None or name in given]


def _fabric(given: Any) -> Fabric:
    """The processes that share the work, started."""
    try:
        fabric = Fabric(accelerator=given.device.partition(":")[0], devices=given.devices)
    except (RuntimeError, ValueError) as error:  # of Lightning: no such device, or not so many
        raise UserError(f"--device {given.device} --devices {given.devices}: {str(error).splitlines()[0]}") from None
    fabric.launch()
    return fabric


def _data(given: Any, rest: list[str]) -> tuple[DataModule, str]:
    """The data as the model sees them, and their name."""
    if given.data:
        plan = cli.plan({"model": "vae", "data": given.data}, rest)
    else:
        plan = cli.plan({}, rest, runs.read_config(given.run))
    data = cli.instantiate_data(plan)
    if not isinstance(data, DataModule):
        raise UserError(
            f"{type(data).__name__} is a DataModule of another kind: wrap its Dataset in datamodules.custom.Custom"
        )
    data.prepare_data()
    data.setup()
    return data, plan.config["dataset"]


def _extractor(name: str, dataset: str, data: DataModule) -> Extractor | str:
    """The extractor that was asked for; where none fits by itself, the reason."""
    try:
        return find_extractor(name, dataset, data.spec)
    except UserError as reason:
        if name != "auto":
            raise
        return str(reason)


def _report(s: Subject, path: Path, target: Path, dataset: str, given: Any) -> Report:
    state: Mapping[str, Any] = read(path)
    model: GenerativeModule = s.model
    extractor = None if isinstance(s.extractor, str) else s.extractor
    if not s.originals.holds_out("test"):
        print("warning: the data have no test examples of their own: training examples are the reference", flush=True)
    setting = {
        "checkpoint": path.name,
        "checkpoint_sha256": provenance(model, path)["checkpoint_sha256"],
        "model": type(model).__name__,
        "iteration": model.iteration,
        "averaged_weights": any(name.startswith("averages.") for name in state["state_dict"]),
        "n": s.n,
        "seed": s.seed,
        "k": list(s.k),
        "draws": s.draws,
        "data": dataset,
        "reference": f"{'test' if s.originals.holds_out('test') else 'training'} split, {s.n:,} examples",
        "reference_sha256": s.digest(),
        "floor": f"{s.floor_size:,} validation, then training examples against the reference",
        "extractor": extractor and extractor.name,
        "extractor_sha256": extractor and extractor.sha256,
    }
    if s.asked > s.n:
        print(f"-n {s.asked:,}: the reference has {s.n:,} examples, so N is {s.n:,}", flush=True)
    return Report(target, setting, runs.environment(model.device), given.fresh)
