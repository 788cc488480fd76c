"""Rate-distortion curves: scripts/rate_distortion.py.

A VAE with a fixed scale of the likelihood is trained for each weight of its KL (Alemi et al. 2018, arXiv:1711.00464:
the weight is the slope of the curve), a VQ-VAE for each size of its codebook; both are measured on held-out examples.

    rate of a VAE    KL(q(z|x) || p(z)), which the code of one example needs at least; no file is as short
    rate of tokens   the bytes that the range coder writes
    distortion       mean squared error of values in [0, 1]; of a VAE for a draw z ~ q(z|x), since a code of so few bits
                     is a draw
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen.atomic import write_atomically
from lightning_gen.benchmarking.benchmark import option_pairs
from lightning_gen.benchmarking.cells import ProcessRunner, call_of, config_from_arguments, last_error
from lightning_gen.commands import start
from lightning_gen.compression.curves import Point, draw, image_codec_points
from lightning_gen.compression.stack import import_constriction
from lightning_gen.compression.tokens import TokenCoder
from lightning_gen.config.arguments import Parser
from lightning_gen.config.run_data import instantiate_run_data
from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.paths import to_text
from lightning_gen.drawing.images import save_png
from lightning_gen.kinds import kind_of
from lightning_gen.storage import runs
from lightning_gen.storage.checkpoints import find_checkpoint, load
from lightning_gen.storage.loaded import EVAL_BATCH_SIZE
from lightning_gen.training.noise import indexed_noise

PAGE, PICTURE = "rate_distortion.md", "rate_distortion.png"
VAE, VQ = "vae", "vq-vae"
FIXED = {  # of the VAE: with a scale that adapts itself the weight of the KL would mean something else in each run
    "model.likelihood": "gaussian",
    "model.scale": "0.1",
}


class Job(NamedTuple):
    """A model to train: its curve, what it differs in from the others of the curve, and fit.py's arguments."""

    curve: str
    label: str
    arguments: list[str]


def main(argv: list[str], call: Any = None) -> None:
    """Parse, train what is not trained, measure, write the table and the plot."""
    given, rest = _parse(argv)
    jobs = list_jobs(given, rest)
    for job in jobs:
        config_from_arguments(job.arguments)  # mistakes show before anything runs
    if given.codes:
        import_constriction()  # of the coder of tokens, the last one measured
    processes = ProcessRunner()
    given.out.mkdir(parents=True, exist_ok=True)
    points, x = [], None
    with processes.stopping():
        for job in jobs:
            folder = train_if_missing(job, given.out, call or processes)
            if x is None:
                x = examples(folder, given.n)
            points.append(measure_point(job, folder, x))
            print(f"{points[-1].curve}, {points[-1].label}: {line(points[-1])}   {folder}", flush=True)
    assert x is not None
    others = image_codec_points(x[0]) if x[1] else []
    text = page(points + others, given.steps, argv)
    write_atomically(given.out / PAGE, text.encode())
    save_png(draw(points + others, title=f"{given.data}, {len(x[0]):,} test examples"), given.out / PICTURE, {})
    print(f"\n{text}\ntable: {given.out / PAGE}   plot: {given.out / PICTURE}")


def _parse(argv: list[str]) -> tuple[Any, list[str]]:
    parser = Parser(
        prog=program("rate-distortion"),
        description="Train VAEs of several weights of the KL and VQ-VAEs of several codebooks, and plot rate against "
        "distortion. Runs that are finished are not trained again.",
        epilog="Further options go to fit.py: of all runs --data.root FOLDER, ...; of the VAEs --vae.latent_dim 32, "
        "--vae.lr 0.002, ...; of the VQ-VAEs --vq.prior_args.depth 2, ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data", metavar="NAME", type=to_text, default="digits", help="of the list of fit.py (default digits)"
    )
    betas = "weights of the VAEs' KL (default 1 3 10 30 100)"
    parser.add_argument("--betas", type=float, nargs="*", default=[1.0, 3.0, 10.0, 30.0, 100.0], help=betas)
    codes = "codes in the VQ-VAEs' codebooks (default 4 16 64 256)"
    parser.add_argument("--codes", type=int, nargs="*", default=[4, 16, 64, 256], help=codes)
    parser.add_argument("--steps", type=int, metavar="N", default=2000, help="iterations of each run (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the runs (default 0)")
    parser.add_argument("-n", type=int, default=1000, help="test examples that are measured (default 1000)")
    parser.add_argument("--out", type=Path, default=Path("rate_distortion"), help="folder (default rate_distortion)")
    given, rest = parser.parse_known_args(argv)
    for word in (word.partition("=")[0] for word in rest):
        if word.startswith("-") and not word.startswith(("--data.", "--vae.", "--vq.")):
            raise unknown("option", word, [flag for a in parser._actions for flag in a.option_strings])
    if not given.betas and not given.codes:
        raise UserError("nothing to measure: give --betas or --codes")
    for name, values in (("betas", given.betas), ("codes", given.codes), ("steps", [given.steps]), ("n", [given.n])):
        least = {"codes": 2, "betas": 0}.get(name, 1)
        if any(value < least or not math.isfinite(value) for value in values):
            raise UserError(f"--{name} {' '.join(map(str, values))}: each must be at least {least}")
    return given, rest


def list_jobs(given: Any, rest: Sequence[str]) -> list[Job]:
    """All runs, with fit.py's arguments."""
    pairs = option_pairs(rest)
    shared = {"data": given.data, "steps": given.steps, "seed": given.seed}
    shared |= {name: value for name, value in pairs.items() if name.startswith("data.")}
    jobs = []
    for curve, values in ((VAE, given.betas), (VQ, given.codes)):
        prefix = curve.partition("-")[0] + "."
        own = {f"model.{k.removeprefix(prefix)}": v for k, v in pairs.items() if k.startswith(prefix)}
        fixed = FIXED if curve == VAE else {}
        for value in dict.fromkeys(values):
            knob = "model.terms.kl" if curve == VAE else "model.quantizer_args.codes"
            label = f"beta {value:g}" if curve == VAE else f"{value} codes"
            options = {"model": curve, **shared, "name": f"rate {label}", **fixed, **own, knob: f"{value:g}"}
            jobs.append(Job(curve, label, [word for k, v in options.items() for word in (f"--{k}", str(v))]))
    return jobs


def train_if_missing(job: Job, out: Path, call: Any) -> Path:
    """The folder of a job's run, which is trained unless an earlier call did.

    Raises:
        UserError: it does not train; says why.
    """
    known = find_finished_run(job)
    if known:
        return known
    log = out / (re.sub(r"[^\w.-]+", "_", f"{job.curve} {job.label}") + ".log")
    status = call(call_of("fit", job.arguments), log)
    if status:
        reason = last_error(log.read_text(encoding="utf-8", errors="replace"), status)
        raise UserError(f"{job.curve} with {job.label} failed: {reason} ({log}); the same command goes on from here")
    folder = find_finished_run(job)
    if folder is None:
        raise UserError(f"the run of {job.curve} with {job.label} is not below {runs.ROOT}: see {log}")
    return folder


def find_finished_run(job: Job) -> Path | None:
    """The finished run that fit.py made with a job's arguments, if there is one."""
    config, found = config_from_arguments(job.arguments), []
    for summary in runs.ROOT.glob(f"{job.curve}-*/version_*/{runs.SUMMARY}"):
        with contextlib.suppress(UserError):
            if runs.same_experiment(runs.read_config(summary.parent), config):
                found.append(summary.parent)
    return max(found, key=lambda folder: int(folder.name.removeprefix("version_")), default=None)


# Measuring


def examples(folder: Path, n: int) -> tuple[Tensor, bool]:
    """The first n test examples of a run's data (n, *shape) as they reach a model, and whether they are pictures."""
    data, _ = instantiate_run_data(str(folder), [], (), None)
    data.prepare_data()
    data.setup()
    if data.spec.values == "real" or data.spec.has_two_sides:
        raise UserError(f"{data.spec.kind} data of {data.spec.values} values have no range that errors compare with")
    rows = torch.arange(min(n, data.size("test")))
    x = torch.cat([data.examples("test", part)["x"] for part in rows.split(EVAL_BATCH_SIZE)])
    return x, kind_of(data.spec).fits_png(data.spec)


def measure_point(job: Job, folder: Path, x: tuple[Tensor, bool]) -> Point:
    """Rate and distortion of a run on examples."""
    model: Any = load(find_checkpoint(folder))
    with torch.inference_mode():
        bits, rebuilt = (vae_rate_and_mean if job.curve == VAE else token_rate_and_reconstruction)(model, x[0])
    error = float((rebuilt.double() - x[0].double()).square().mean()) / 4  # of values in [0, 1]
    return Point(job.curve, job.label, bits / x[0].numel(), error)


def vae_rate_and_mean(model: Any, x: Tensor) -> tuple[float, Tensor]:
    """KL(q(z|x) || p(z)) in bits, of all examples together, and the means of p(x|z) for a draw of each z."""
    noise = indexed_noise(range(len(x)), (model.noise_dim,), 0, "rate")
    steps = [
        model.infer(part, None, draws)
        for part, draws in zip(x.split(EVAL_BATCH_SIZE), noise.split(EVAL_BATCH_SIZE), strict=True)
    ]
    nats = sum(float(s.kl.double().sum()) for s in steps)
    return nats / math.log(2), torch.cat([model.likelihood.mean(s.out) for s in steps])


def token_rate_and_reconstruction(model: Any, x: Tensor) -> tuple[float, Tensor]:
    """Bits of the coded tokens, and what they decode to."""
    coder = TokenCoder(model)
    tokens = coder.to_symbols(x, coder.default_block)
    words, _ = coder.encode(tokens, coder.default_block)
    return 32.0 * len(words), coder.from_symbols(tokens, coder.default_block)


# The page


def line(point: Point) -> str:
    """A point in words."""
    return f"{point.rate:.4f} bits/dim, MSE {point.error:.5f}, PSNR {point.psnr:.2f} dB"


def page(points: Sequence[Point], steps: int, argv: Sequence[str]) -> str:
    """The table as Markdown."""
    command = shlex.join([*program("rate-distortion").split(), *argv])
    rows = [f"| {p.curve} | {p.label} | {p.rate:.4f} | {p.error:.5f} | {p.psnr:.2f} |" for p in points]
    head = ["| curve | point | bits/dim | mean squared error | PSNR, dB |", "|---|---|---|---|---|"]
    where = runs.environment(torch.device("cpu"))
    says = f"{steps:,} iterations each; {where['device']}, torch {where['torch']}; `{command}`"
    return "\n".join(["# Rate and distortion", "", *head, *rows, "", says, ""])


if __name__ == "__main__":
    start("rate-distortion")
