"""How long do the commands take to start? ``python benchmarks/startup.py`` prints CPU seconds beside their floor.

The floor of a command that trains or samples is ``import torch, lightning``, which it cannot do without; of a list or a
help, nothing is needed but Python. Each figure is the median of several processes, user and system time together.
``--checkout DIR`` measures another checkout of this repository.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "tests/data/version_0.1/vae"
FLOORS = {"Python alone": "pass", "import torch": "import torch", "import torch, lightning": "import torch, lightning"}
COMMANDS = {  # script and arguments -> exit status
    "fit": 0,
    "fit --help": 0,
    "fit --model vea": 2,
    "fit --model vae --data digit": 2,
    "sample --help": 0,
    "fit --model vae --print_config": 0,
    "sample RUN -n 1 --out out": 0,
    "reconstruct RUN picture.png --out out": 0,
}
FLOOR = "import torch, lightning"


def cpu_seconds(command, place, checkout, status=0):
    """User and system time of a process, checked for its exit status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if result.returncode != status:
        sys.exit(f"{' '.join(map(str, command))} ended with status {result.returncode}: {result.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(checkout, repeats):
    """Name -> CPU seconds; the rounds are interleaved, so that a busy minute does not meet one row alone."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(RUN, Path(place) / "RUN")
        Image.fromarray(np.full((8, 8), 128, np.uint8)).save(Path(place) / "picture.png")
        calls = {name: ([sys.executable, "-c", code], 0) for name, code in FLOORS.items()}
        for name, status in COMMANDS.items():
            script, *arguments = name.split()
            calls[name] = [sys.executable, checkout / "scripts" / f"{script}.py", *arguments], status
        seconds = {name: [] for name in calls}
        for _ in range(repeats + 1):
            for name, (command, status) in calls.items():
                seconds[name].append(cpu_seconds(command, place, checkout, status))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first round fills caches


def main():
    parser = argparse.ArgumentParser(description="CPU seconds of starting the commands, beside their floor.")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="of this repository (default: this one)")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each row (default 5)")
    given = parser.parse_args()
    seconds = measure(given.checkout.resolve(), given.repeats)
    print("| what | CPU seconds | of the floor |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| `{name}` | {value:.2f} | {value / seconds[FLOOR]:.2f} |")


if __name__ == "__main__":
    main()
