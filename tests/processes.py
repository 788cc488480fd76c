"""Real processes for the tests, each a copy of one in which everything is imported: they start at once, not in 5 s.

``python tests/processes.py`` is the process that is copied: it reads jobs from its input, one JSON a line, and says
which process each became and how that ended. ``Nursery`` is the tests' side of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
USUAL = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT))),
    "PYTHONIOENCODING": "utf-8",
}


FIT, MEASURE = ROOT / "scripts/fit.py", ROOT / "tests/measure.py"


class Nursery:
    """Starts copies; their origin begins when it is first needed."""

    def __init__(self, folder):
        self.folder = folder  # for what they write
        self.origin = None
        self.told = threading.Condition()
        self.pids, self.statuses = {}, {}  # number of a job -> process, exit status

    def start(self, script, *arguments, cwd, **environment):
        """A copy that runs a script, as ``python script arguments`` would."""
        if self.origin is None:
            self.begin()
        number = len(self.pids)
        job = {"job": number, "script": str(script), "arguments": [str(argument) for argument in arguments]}
        job |= {
            "cwd": str(cwd),
            "output": str(self.folder / f"{number}.out"),
            "errors": str(self.folder / f"{number}.err"),
        }
        job["environment"] = {**os.environ, **USUAL, **{name: str(value) for name, value in environment.items()}}
        with self.told:
            print(json.dumps(job), file=self.origin.stdin, flush=True)
            assert self.told.wait_for(lambda: number in self.pids, 120), (self.folder / "log").read_text(
                encoding="utf-8"
            )
        return Copy(self, job)

    def pair(self, script, *arguments, cwd, by="torchrun", **environment):
        """Two ranks, as torchrun or Lightning would start them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if by == "torchrun":
            world |= {"LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
        else:
            world |= {"NODE_RANK": 0}
        world |= environment
        ranks = [{"LOCAL_RANK": rank} | ({"RANK": rank} if by == "torchrun" else {}) for rank in range(2)]
        return [self.start(script, *arguments, cwd=cwd, **world, **rank) for rank in ranks]

    def run(self, script, *arguments, cwd, ranks=1, ok=True, **environment):
        """A script on one or two ranks, to its end; returns the first rank, with what all have said."""
        start = self.pair if ranks == 2 else lambda *given, **options: [self.start(*given, **options)]
        started = start(script, *arguments, cwd=cwd, **environment)
        statuses = [rank.wait() for rank in started]
        started[0].said = "".join(rank.output + rank.errors for rank in started)
        assert not ok or not any(statuses), started[0].said
        return started[0]

    def fit(self, *arguments, **options):
        return self.run(FIT, *arguments, **options)

    def on_ranks(self, function, folder):
        """A function of a test file, called with its rank and a folder in which both may meet; what each printed."""
        name, script = function.__name__, folder / "ranks.py"
        call = f"{name}(int(sys.argv[1]), Path(sys.argv[2]))"
        lines = ["import sys", "from pathlib import Path", f"from {function.__module__} import {name}", call]
        script.write_text("\n".join(lines))
        ranks = [self.start(script, rank, folder, cwd=folder) for rank in range(2)]
        assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].errors + ranks[1].errors
        return [rank.output for rank in ranks]

    def begin(self):
        with (self.folder / "log").open("w") as log:
            self.origin = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env={**os.environ, **USUAL},
            )
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.origin.stdout:
            said = json.loads(line)
            with self.told:
                getattr(self, said["what"])[said["job"]] = said["value"]
                self.told.notify_all()

    def end(self):
        if self.origin is not None:
            self.origin.stdin.close()
            self.origin.wait(60)
            self.origin.stdout.close()


class Copy:
    """What the tests use of ``subprocess.Popen``."""

    def __init__(self, nursery, job):
        self.nursery, self.job, self.pid = nursery, job["job"], nursery.pids[job["job"]]
        self.files = Path(job["output"]), Path(job["errors"])

    @property
    def output(self):
        return self.files[0].read_text(encoding="utf-8")

    @property
    def errors(self):
        return self.files[1].read_text(encoding="utf-8")

    @property
    def returncode(self):
        return self.poll()

    def poll(self):
        with self.nursery.told:
            return self.nursery.statuses.get(self.job)

    def wait(self, timeout=200):
        """The exit status, negative for a signal; a process that hangs is killed."""
        statuses = self.nursery.statuses
        with self.nursery.told:
            if not self.nursery.told.wait_for(lambda: self.job in statuses, timeout):
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"process {self.pid}, which wrote: {self.output}{self.errors}", timeout)
            return statuses[self.job]

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def until(self, condition, seconds=300):
        """Wait while this runs, as long as a slow machine may take."""
        give_up = time.monotonic() + seconds
        while not condition():
            assert self.poll() is None and time.monotonic() < give_up, self.output + self.errors
            time.sleep(0.02)

    def children(self):
        return [pid for pid, (_, parent) in table().items() if parent == self.pid]


def table():
    """All processes that run here: number -> state, parent; those that ended and wait for their parent are left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent, *_ = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            if state not in "ZX":
                found[int(path.parent.name)] = state, int(parent)
    return found


def copy(job):
    """In the copy: become the script."""
    os.setpgid(0, 0)  # Ctrl-C in the terminal of the tests is for pytest, which ends its processes itself
    for number, name in ((1, "output"), (2, "errors")):
        file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    sys.argv = [job["script"], *job["arguments"]]
    sys.path[0] = str(Path(job["script"]).parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "LOCAL_RANK" in os.environ:
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = int(os.environ["LOCAL_RANK"])  # which is read from the environment at the import
    status = 1
    try:
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    """The process that is copied."""
    import lightning_gen.commands.evaluate
    import lightning_gen.commands.fit  # noqa: F401

    jobs = {}

    def say(what, job, value):
        print(json.dumps({"what": what, "job": job, "value": value}), flush=True)

    open_ = True
    while open_ or jobs:
        if open_ and select.select([sys.stdin], [], [], 0.01)[0]:
            line = sys.stdin.buffer.readline()  # one job is asked for at a time, so no other waits in the buffer
            open_ = bool(line)
            if line:
                job = json.loads(line)
                pid = os.fork()
                if not pid:
                    copy(job)
                jobs[pid] = job["job"]
                say("pids", job["job"], pid)
        elif not open_:
            for pid in jobs:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        while jobs and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            say("statuses", jobs.pop(ended[0]), os.waitstatus_to_exitcode(ended[1]))


if __name__ == "__main__":
    main()
