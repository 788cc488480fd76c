"""Does everything run on this machine's GPU? ``python benchmarks/gpu_smoke.py``, in minutes.

One preset of each family trains in bf16-mixed and in 16-mixed, is resumed, sampled (or translates) and evaluated, each
by the command that a user gives, all in one process. Prints a table: images/s (eager, of the run after the resume,
whose kernels are known), how many values the evaluation has, seconds of all of it; then the errors of what failed, and
exit status 1 if anything did. Where there is no GPU it says so: ``--device cpu`` then tries the program itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from lightning_gen.commands import evaluate, fit, sample, translate
from lightning_gen.datamodules.errors import UserError

PRESETS = {  # preset -> its data and batch
    "conv-vae": ["--data", "digits", "--data.batch_size", "128"],
    "wae": ["--data", "digits", "--data.batch_size", "128"],
    "vq-vae": ["--data", "digits", "--data.batch_size", "128"],
    "r3gan": ["--data", "digits", "--data.batch_size", "64", "--watch", "none"],
    "cyclegan": ["--data", "outline-shapes", "--watch", "none"],
}
PRECISIONS = ("bf16-mixed", "16-mixed")
COMMANDS = {"fit": fit, "sample": sample, "translate": translate, "evaluate": evaluate}


class Failed(Exception):
    """A command that did not end well, with the last lines of what it said."""


def call(command: str, *arguments: object) -> str:
    """What a command prints."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            COMMANDS[command].main([str(a) for a in arguments])
    except UserError as error:
        raise Failed(f"{command}: {error}") from error
    except Exception as error:
        raise Failed(f"{command}: {traceback.format_exc(limit=-3)}") from error
    return output.getvalue()


def smoke(preset: str, precision: str, device: str, steps: int) -> dict[str, object]:
    """Train, resume, draw and evaluate one preset in the working folder."""
    options = [*PRESETS[preset], "--seed", 0, "--save_every", steps, "--val_every", steps]
    call("fit", "--model", preset, *options, "--name", precision, "--steps", steps, *trainer(device, precision))
    (run,) = Path("tb_logs").glob(f"{preset}-*-{precision}/version_0")
    call("fit", "--resume", run, "--steps", 2 * steps)
    summary = json.loads((run / "summary.json").read_text())
    if summary["iterations"] != 2 * steps:
        raise Failed(f"fit --resume: ended at iteration {summary['iterations']} of {2 * steps}")
    drawn = Path("drawn", run.parent.name)
    if preset == "cyclegan":
        call("translate", run, picture(), "--out", drawn, "--device", device)
    else:
        call("sample", run, "-n", 64, "--out", drawn, "--device", device)
    if not any(drawn.rglob("*.png")):
        raise Failed(f"no picture in {drawn}")
    call("evaluate", run, "-n", 200, "--device", device)
    values = json.loads((run / "evaluation.json").read_text())["values"]
    return {"images/s": summary["images_per_second"], "values": len(values)}


def picture() -> Path:
    """A drawing of 64x48 pixels in the working folder."""
    path = Path("in.png")
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 40), outline="black", width=2)
    image.save(path)
    return path


def trainer(device: str, precision: str) -> list[str]:
    """Options of the Trainer."""
    accelerator = "gpu" if device.startswith("cuda") else device
    return ["--trainer.accelerator", accelerator, "--trainer.devices", "1", "--trainer.precision", precision]


def main() -> None:
    """Parse, smoke, print; the status says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200, help="iterations before the resume, and as many after it")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--precisions", nargs="+", choices=(*PRECISIONS, "32-true"), default=PRECISIONS)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is available to torch here: --device cpu tries the program without one")
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
    print(f"{name}, torch {torch.__version__}, {given.steps} iterations, resumed to {2 * given.steps}\n")
    print("| preset | precision | images/s | values measured | seconds | |\n|---|---|---|---|---|---|")
    failures = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for preset in given.presets:
            for precision in given.precisions:
                start = time.perf_counter()
                try:
                    found = smoke(preset, precision, given.device, given.steps)
                except Failed as error:
                    found, failures[f"{preset} in {precision}"] = {}, str(error)
                cells = [found.get("images/s", "-"), found.get("values", "-"), f"{time.perf_counter() - start:.0f}"]
                print(
                    f"| {preset} | {precision} | {' | '.join(map(str, cells))} | {'' if found else 'failed'} |",
                    flush=True,
                )
    for what, error in failures.items():
        print(f"\n{what}: {error}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    main()
