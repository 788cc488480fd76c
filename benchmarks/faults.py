"""Long campaigns of interruptions: ``python benchmarks/faults.py kill --trials 100`` and ``signal --trials 50``.

kill     one process, ``kill -9`` at a random moment from its first to its last instant, then resumed to the end.
signal   two processes, SIGTERM, SIGINT or SIGUSR1 to a random one at a random moment of the training, then resumed.

After each trial the weights, optimizers and counters must equal, bit by bit, those of the run that nobody disturbed.
Runs are forked from a process in which everything is imported, so a trial takes seconds. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen import exits
from lightning_gen.commands import fit
from lightning_gen.datamodules.errors import UserError
from lightning_gen.storage.checkpoints import read_checkpoint

MODEL = ["--data", "digits", "--val_every", "50", "--save_every", "5", "--trainer.accelerator", "cpu"]
PARTS = ("state_dict", "optimizer_states", "lightning_gen")
PATIENCE = 90.0  # seconds until a run counts as hung


def fork(arguments: list[str], rank: int = 0, world: int = 1, port: int = 0) -> int:
    """Start fit.py in a copy of this process, as torchrun would; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    with open("output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if world > 1:
        values = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": f"trial{port}"}
        os.environ.update({name: str(value) for name, value in values.items()})
        rank_zero_only.rank = rank
    sys.argv = ["fit.py", *arguments]
    status = 1
    try:
        exits.run_main(fit.main)
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def start(arguments: list[str], world: int) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(arguments, rank, world, port) for rank in range(world)]


def wait(pids: list[int], patience: float = PATIENCE) -> list[int | None]:
    """Exit statuses, negative for a signal, None for those that hang; these are killed."""
    statuses: dict[int, int] = {}
    give_up = time.monotonic() + patience
    while len(statuses) < len(pids) and time.monotonic() < give_up:
        for pid in set(pids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for pid in set(pids) - set(statuses):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [statuses.get(pid) for pid in pids]


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Places at which two checkpoints differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]  # type: ignore[arg-type]
    if isinstance(a, dict):
        return [d for key in {*a, *b} for d in differences(a.get(key), b.get(key), f"{where}.{key}")]  # type: ignore
    if isinstance(a, list | tuple):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")]  # type: ignore
    return [] if a == b else [where]


def checkpoint(name: str) -> Path:
    return next(Path().glob(f"tb_logs/*-{name}/version_0"), Path("none")) / "checkpoints" / "last.ckpt"


def kill_trial(options: list[str], rng: random.Random, seconds: float) -> str:
    """One process killed once or twice; returns what went wrong."""
    pids = start([*options, "--name", "trial"], 1)
    for _ in range(rng.choice((1, 2))):
        time.sleep(rng.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
        wait(pids)
        if checkpoint("trial").exists():
            try:
                read_checkpoint(checkpoint("trial"))
            except UserError as error:
                return f"no good checkpoint: {error}"
        again = ["--resume", str(checkpoint("trial").parents[1])] if checkpoint("trial").exists() else None
        if again is None:  # nothing had been saved: it starts anew
            shutil.rmtree(
                "tb_logs/" + next((p.name for p in Path("tb_logs").glob("*-trial")), "none"), ignore_errors=True
            )
        pids = start(again or [*options, "--name", "trial"], 1)
    (status,) = wait(pids)
    complete = status == 2 and "is complete" in Path("output.txt").read_text()
    return "" if status == 0 or complete else f"status {status} after the resume"


def signal_trial(options: list[str], rng: random.Random, seconds: float) -> str:
    """Two processes, of which one gets a signal; returns what went wrong."""
    pids = start([*options, "--name", "trial"], 2)
    give_up = time.monotonic() + PATIENCE
    while not checkpoint("trial").exists() and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.8 * seconds))
    signum = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signum)
    statuses = wait(pids)
    late = "everything is saved" not in Path("output.txt").read_text()  # after the last iteration
    possible = {0, -signum, 128 + signum} if late else {0}  # torchrun takes any but 0 for a failure
    if not set(statuses) <= possible:
        return f"{signum.name}: statuses {statuses}"
    if late:
        return ""
    try:
        read_checkpoint(checkpoint("trial"))
    except UserError as error:
        return f"torn checkpoint: {error}"
    statuses = wait(start(["--resume", str(checkpoint("trial").parents[1])], 2))
    return "" if statuses == [0, 0] else f"statuses {statuses} after the resume"


def main() -> None:
    """Run a campaign and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("kill", "signal"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["vae", "wgan-gp"], help="in turn")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp(prefix="faults"))
    rng, world, failures = random.Random(given.seed), 1 if given.kind == "kill" else 2, []
    trial = kill_trial if given.kind == "kill" else signal_trial
    references, seconds = {}, {}
    for model in given.models:
        options = ["--model", model, "--steps", str(given.steps), *MODEL]
        begin = time.monotonic()
        assert wait(start([*options, "--name", "whole"], world), 600) == [0] * world, Path("output.txt").read_text()
        seconds[model] = time.monotonic() - begin
        references[model] = read_checkpoint(checkpoint("whole"))
        shutil.rmtree("tb_logs")
    print(f"{given.kind}: undisturbed runs take {seconds}", flush=True)
    for number in range(given.trials):
        model = given.models[number % len(given.models)]
        options = ["--model", model, "--steps", str(given.steps), *MODEL]
        Path("output.txt").write_text("")
        trouble = trial(options, rng, seconds[model])
        if not trouble:
            final = read_checkpoint(checkpoint("trial"))
            unequal = [d for part in PARTS for d in differences(references[model][part], final[part], part)]
            trouble = f"differs in {unequal[:3]}" if unequal else ""
        if trouble:
            failures.append({"trial": number, "model": model, "trouble": trouble})
            print(failures[-1], Path("output.txt").read_text()[-1500:], flush=True)
        shutil.rmtree("tb_logs")
        if (number + 1) % 10 == 0:
            print(f"{number + 1} trials, {len(failures)} failures", flush=True)
    print(json.dumps({"kind": given.kind, "trials": given.trials, "models": given.models, "failures": failures}))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
