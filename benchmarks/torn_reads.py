"""Two processes that write the checkpoints and reports of one folder in a loop, and a reader: how many reads are torn?

    python benchmarks/torn_reads.py [--seconds 25]

There is no lock between the writers: it is the files that must be whole, whatever is written by whom.
"""

import argparse
import itertools
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from lightning_gen.atomic import write_atomically
from lightning_gen.datamodules.errors import UserError
from lightning_gen.drawing.images import save_png
from lightning_gen.storage.checkpoints import LAST, PREVIOUS, AtomicCheckpointIO, read_checkpoint

NUMBERS = 200_000  # of a checkpoint of 1.6 MB


def write_for_ever(folder, number):
    """Write checkpoints, JSON and pictures, each of one value, in a loop; count the rounds in a file."""
    torch.set_num_threads(1)
    writer = AtomicCheckpointIO()
    for count in itertools.count(1):
        value = 1000 * number + count % 1000
        about = {"model": "lightning_gen.models.vae.VAE", "iteration": value, "images": 0}
        content = {"lightning_gen": about, "hyper_parameters": {}, "state_dict": {"x": torch.full((NUMBERS,), value)}}
        writer.save_checkpoint(content, folder / LAST)
        write_atomically(folder / "summary.json", json.dumps([value] * 2000).encode())
        save_png(torch.full((3, 64, 64), value % 256, dtype=torch.uint8), folder / "samples.png")
        write_atomically(folder / f"count.{number}", str(count).encode())


def is_torn(folder):
    """Whether any of the files, where it is there, is damaged or made of two writes."""
    try:
        for path in (path for path in (folder / LAST, folder / PREVIOUS) if path.exists()):
            found = read_checkpoint(path)
            if not (found["state_dict"]["x"] == found["lightning_gen"]["iteration"]).all():
                return True
        if (folder / "summary.json").exists() and len(set(json.loads((folder / "summary.json").read_text()))) > 1:
            return True
        if (folder / "samples.png").exists():
            with Image.open(folder / "samples.png") as picture:
                return len(picture.getcolors()) > 1
        return False
    except (UserError, ValueError, OSError):
        return True


def start_writer(folder, number):
    """In a process of its own; returns its number."""
    pid = os.fork()
    if not pid:
        try:
            write_for_ever(folder, number)
        finally:
            os._exit(1)
    return pid


def torn_reads(folder, reads=None, seconds=None, writers=2):
    """Read so often, or so long, while others write; returns the counts of reads, of torn ones, and of writes."""
    children = [start_writer(folder, number) for number in range(writers)]
    counts = [folder / f"count.{number}" for number in range(writers)]
    while not all(path.exists() for path in counts):
        assert not any(os.waitpid(pid, os.WNOHANG)[0] for pid in children), "a writer has failed"
        time.sleep(0.01)
    start, done, torn = time.monotonic(), 0, 0
    while done < reads if reads else time.monotonic() - start < seconds:
        torn += is_torn(folder)
        done += 1
    elapsed = time.monotonic() - start
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    writes = [int(path.read_text()) for path in counts]
    return {"reads": done, "torn": torn, "writes": writes, "seconds": round(elapsed, 1)}


def main():
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = torn_reads(Path(place), seconds=given.seconds)
        found["left_by_killed_writers"] = len(list(Path(place).glob(".*.part")))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
