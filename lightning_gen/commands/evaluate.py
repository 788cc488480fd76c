"""Evaluate a trained model: scripts/evaluate.py."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.config.run_data import instantiate_run_data, parse_with_data_options
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.loader import cores
from lightning_gen.drawing.images import save_png
from lightning_gen.evaluation import own, pictures, translation
from lightning_gen.evaluation.evaluation_run import EvaluationRun, error_message
from lightning_gen.evaluation.groups import (
    ALL,
    CODES,
    METRICS,
    SAMPLES,
    TRANSLATIONS,
    VERSION,
    Metric,
    check_metrics,
    find_metric,
    own_metrics,
)
from lightning_gen.evaluation.report import FILE, OWN, PREVIOUS, Report
from lightning_gen.evaluation.samplers import add_sampler, attach_sampler
from lightning_gen.evaluation.solving import add_solver, attach_solver
from lightning_gen.evaluation.values import Value
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import Extractor, find_extractor
from lightning_gen.protocols import SamplesClasses, SamplesTexts, Tokenises, Translates
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import find_checkpoint, read_checkpoint
from lightning_gen.storage.loaded import DEVICES, describe_device, load_on, provenance, resolve_device
from lightning_gen.training import threads

USUAL_N = 10_000
PATIENCE = timedelta(days=1)  # of a process that waits for the share of another
# settings that only these groups depend on
SETTINGS_OF_GROUPS = {"k": ("bits", "nll"), "draws": ("bits", "nll"), "segmenter": ("segmentation",)}
PICTURES = "evaluation"  # folder in the run's
# options of data that leave evaluations as they are
HANDLING = ("root", "a", "b", "num_workers", "memory", "batch_size", "flip")


def main(argv: list[str]) -> None:
    """Parse, load, measure, write and print."""
    given, rest = _parse(argv)
    fabric = _fabric(given)
    path = find_checkpoint(given.run, given.which)
    with contextlib.suppress(UserError):  # of a checkpoint that fit did not write
        threads.follow(runs.read_config(given.run))
    model = load_on(path, str(fabric.device), given.trust)
    names = _names(given.metrics, model)
    data, config = _data(given, rest, fabric)
    subject = _subject(model, data, config["dataset"], given, fabric)
    drawn_from = attach_sampler(model, given.sampler, data, given.components)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    setting = _setting(subject, model, path, config) | drawn_from | attach_solver(model, given)
    setting |= {"segmenter": given.segmenter}
    setting |= {OWN: own.code_hashes(asked)} if (asked := own_metrics(names)) else {}
    report = Report(
        folder / FILE, setting, runs.environment(model.device), names if given.fresh else [], SETTINGS_OF_GROUPS
    )
    report.writes = fabric.is_global_zero
    fabric.barrier()  # all have read the earlier report before one writes
    if report.writes:
        print(f"evaluating {path} on {describe_device(model.device)}", flush=True)
        _warn(subject, given, report)
    try:
        with torch.inference_mode():
            measured = measure(subject, report, names)
            shown = draw(subject, report) if measured or not report.has_pictures() else {}
    except KeyboardInterrupt:
        if report.writes:
            print(f"\nwhat is finished is in {report.path}; the same command goes on with the rest", flush=True)
        raise
    if report.writes:
        source = provenance(model, path) | {"seed": given.seed} | drawn_from
        for name, picture in shown.items():
            save_png(picture, folder / name, source)
        complete = all(map(report.is_done, _names(None, model)))
        report.finish(list(shown) or report.content["pictures"], complete=complete)
        report.show(Console())
        print("\n".join(map(str, [report.path, *(folder / name for name in report.content["pictures"])])))
    if report.content["failed"]:
        raise UserError(f"failed, for the reasons above: {', '.join(report.content['failed'])}; the rest is saved")


def _subject(model: Any, data: DataModule, dataset: str, given: Any, fabric: Fabric) -> EvaluationRun:
    """What is measured: the samples of a model, or the translations of each direction of a translator."""
    shows = fabric.is_global_zero and sys.stdout.isatty()
    options: dict[str, Any] = {
        "n": given.n or USUAL_N,
        "seed": given.seed,
        "k": tuple(given.k),
        "draws": given.draws,
        "rank": fabric.global_rank,
        "world": fabric.world_size,
        "track": lambda rows, title: track(rows, title, disable=not shows, transient=True),
    }
    if isinstance(model, Translates):
        segmenters = translation.segmenters_of(given.segmenter or [], fabric.device)
        return translation.translation_run(model, data, given.extractor, dataset, segmenters, **options)
    return EvaluationRun(model, data, _extractor(given.extractor, dataset, data), **options)


def draw(subject: EvaluationRun, report: Report) -> dict[str, Tensor]:
    """File -> picture uint8 (3, H, W) of the model's samples or translations."""
    shown = {}
    try:
        for part in subject.all_runs:
            for name, picture in pictures.draw_all(part):
                shown[f"{PICTURES}/{part.prefix}{name}.png"] = picture
    except Inapplicable:  # it makes no samples
        pass
    except Exception as error:
        report.failed("pictures", error_message(error))
    return shown


def measure(subject: EvaluationRun, report: Report, names: list[str]) -> bool:
    """Measure groups of metrics; what is done already is kept, what fails does not keep the rest from it.

    Returns:
        whether there was anything to measure.
    """
    names = [name for name in names if not report.is_done(name)]
    if reason := translation.missing_baseline(subject):
        report.inapplicable(translation.BASELINE, reason)
    for name in names:
        start = time.perf_counter()
        try:
            metric = find_metric(name)
            values = _values(subject, metric)
        except Inapplicable as reason:
            report.inapplicable(name, str(reason))
        except Exception as error:  # of the user's model, or ours: the other groups are measured in any case
            report.failed(name, error_message(error))
        else:
            for value in values.values():
                value.seconds = round(time.perf_counter() - start, 2)
                value.given = given_to(subject.model, metric)
            report.add(name, values)
    return bool(names)


def given_to(model: Any, metric: Metric) -> str | None:
    """What a model is told of each example when this is measured: "class", "text" or None."""
    if metric.category == CODES and isinstance(model, Tokenises):  # whose prior alone is conditional
        return None
    if isinstance(model, SamplesClasses) and model.classes:
        return "class"
    return "text" if isinstance(model, SamplesTexts) and model.condition_length else None


def _values(subject: EvaluationRun, metric: Metric) -> dict[str, Value]:
    """The values of all parts to which a group of metrics applies.

    Raises:
        Inapplicable: to none of them, for the first one's reason.
    """
    values: dict[str, Value] = {}
    reasons = []
    for part in subject.all_runs:
        try:
            values |= {f"{part.prefix}{name}": value for name, value in metric.measure(part)}
        except Inapplicable as reason:
            reasons.append(reason)
    if reasons and not values:
        raise reasons[0]
    return values


def _parse(argv: list[str]) -> tuple[Any, list[str]]:
    groups = "\n".join(f"  {name:<15}{metric.about}" for name, metric in METRICS.items())
    parser = Parser(
        prog=program("evaluate"),
        description="Measure a trained model against held-out data: a table, evaluation.json and pictures.",
        epilog=f"metrics:\n{groups}\n\noptions of the run's data: --data.root FOLDER, ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or one of its checkpoints")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument(
        "-n", type=int, help=f"samples and reference examples (default {USUAL_N}, at most the test examples)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="only these (default: all that apply): of the list below, import paths of functions of your own such as "
        "my_metrics.sharpness, and all for all that apply",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    parser.add_argument("--k", type=int, nargs="+", default=[500, 5000], help="importance samples (default 500 5000)")
    parser.add_argument(
        "--draws", type=int, default=5_000_000, help="importance samples for each k over all examples (default 5000000)"
    )
    parser.add_argument("--extractor", default="auto", help="mnist_v1, digits_v1, inception, raw, or a trained file")
    parser.add_argument(
        "--segmenter",
        nargs="+",
        metavar="[SIDE=]PATH",
        help="import path of what maps pictures (B, C, H, W) in [-1, 1] of a translation's side (b) to class logits",
    )
    add_sampler(parser)
    add_solver(parser)
    parser.add_argument("--data", metavar="NAME", help="evaluate on other data than the run's")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--devices", type=int, default=1, help="number of devices, which share the work (default 1)")
    parser.add_argument("--fresh", action="store_true", help="measure again what evaluation.json holds already")
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given, rest = parse_with_data_options(parser, argv)
    for name, least in (("n", 2), ("draws", 1), ("devices", 1), ("seed", 0)):
        if getattr(given, name) is not None and getattr(given, name) < least:
            raise UserError(f"{name} {getattr(given, name)}: it must be at least {least}")
    check_metrics(given.metrics or [])
    if min(given.k) < 1:
        raise UserError(f"--k {min(given.k)}: at least 1 importance sample")
    return given, rest


def _names(given: list[str] | None, model: Any) -> list[str]:
    """The requested groups; without any, and for "all", those that models of this kind may have."""
    usual = (SAMPLES, TRANSLATIONS) if isinstance(model, Translates) else (SAMPLES, CODES)
    asked = dict.fromkeys([ALL] if given is None else given)
    may_apply = [name for name, metric in METRICS.items() if ALL in asked and metric.category in usual]
    return [*(name for name in METRICS if name in asked or name in may_apply), *own_metrics([*asked])]


def _fabric(given: Any) -> Fabric:
    """The processes that share the work, started."""
    given.device = resolve_device(given.device)
    kind, _, index = given.device.partition(":")
    if index and given.devices > 1:
        raise UserError(f"--device {given.device} names one device: drop :{index} or --devices {given.devices}")
    if kind == "cpu" and given.devices > cores():
        raise UserError(f"--devices {given.devices}: there are {cores()} CPU cores for as many processes")
    # gloo, because what the metrics gather is on the CPU
    strategy = DDPStrategy(process_group_backend="gloo", timeout=PATIENCE) if given.devices > 1 else "auto"
    try:
        devices = [int(index)] if index else given.devices
        fabric = Fabric(accelerator=kind, devices=devices, strategy=strategy)
    except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:  # no such device, or not so many
        raise UserError(f"--device {given.device} --devices {given.devices}: {str(error).splitlines()[0]}") from None
    fabric.launch()
    return fabric


def _data(given: Any, rest: list[str], fabric: Fabric) -> tuple[DataModule, dict[str, Any]]:
    """The data as the model sees them, and the configuration that says which."""
    data, config = instantiate_run_data(given.run, rest, given.trust, given.data)
    with fabric.rank_zero_first():
        data.prepare_data()
    data.setup()
    return data, config


def _extractor(name: str, dataset: str, data: DataModule) -> Extractor | str:
    """The requested extractor; where none fits by itself, the reason."""
    try:
        return find_extractor(name, dataset, data.spec)
    except UserError as reason:
        if name != "auto":
            raise
        return str(reason)


def _setting(s: EvaluationRun, model: Any, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """All that the values depend on; those of an earlier evaluation with another setting are not taken over."""
    state: Mapping[str, Any] = read_checkpoint(path)
    extractors = list(dict.fromkeys(e for part in s.all_runs if not isinstance(e := part.extractor, str)))
    digest, readable = s.reference_hash()
    split = s.split if s.unbinarized_data.has_own_examples(s.split) else "training"
    each = " of each side" if s.reference_data else ""
    broken = f" ({s.n - readable} of {s.n:,} could not be read)" if readable < s.n else ""
    options = {
        name: v for name, v in runs.flatten_config(config["data"]).items() if name.split(".")[-1] not in HANDLING
    }
    return {
        "version": VERSION,
        "checkpoint": path.name,
        "checkpoint_sha256": provenance(model, path)["checkpoint_sha256"],
        "model": type(model).__name__,
        "iteration": model.iteration,
        "averaged_weights": any(name.startswith("averages.") for name in state["state_dict"]),
        "n": s.n,
        "seed": s.seed,
        "k": list(s.k),
        "draws": s.draws,
        "data": config["dataset"],
        "data_options": options,
        "training_examples": s.unbinarized_data.size("train"),
        "reference": f"{split} split, {readable:,} examples{each}{broken}",
        "reference_sha256": digest,
        "floor_of": s.floor_of,
        "extractor": ", ".join(extractor.name for extractor in extractors) or None,
        "extractor_sha256": ", ".join(filter(None, (extractor.sha256 for extractor in extractors))) or None,
    }


def _warn(s: EvaluationRun, given: Any, report: Report) -> None:
    """Warn of settings whose values are easily misread."""
    if not s.unbinarized_data.has_own_examples(s.split):
        print("warning: the data have no test examples of their own: training examples are the reference", flush=True)
    if given.n and given.n > s.n:
        print(f"-n {given.n:,}: the reference has {s.n:,} examples, so N is {s.n:,}", flush=True)
    if report.replaced:
        print(f"{report.path} was of another setting ({report.replaced}): it will be kept as {PREVIOUS}", flush=True)


if __name__ == "__main__":
    start("evaluate")
