"""One writer for a run's folder, and readers that never see a part of a file."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from processes import FIT, ROOT

from lightning_gen import atomic
from lightning_gen.atomic import atomic_file, link_atomically, remove_parts, write_atomically
from lightning_gen.cluster.launch import attempt_of
from lightning_gen.datamodules.errors import UserError
from lightning_gen.drawing.images import save_png
from lightning_gen.storage import lock
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, read_checkpoint
from lightning_gen.storage.lock import LOCK, QUICK, RunLock, follow, holder

sys.path.insert(0, str(ROOT / "benchmarks"))
from torn_reads import torn_reads

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
HEAD = "import sys, time; from pathlib import Path"
HOLD = f"""{HEAD}
from lightning_gen.storage.lock import RunLock
RunLock().take(Path(sys.argv[1]), "first") and sys.exit(1)
Path(sys.argv[1], "held").touch()
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder until the file ``go`` is there."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / "held").exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


# The lock


@posix
def test_a_second_writer_is_refused_by_name(tmp_path, other):
    with pytest.raises(UserError, match=rf"is being written by process {other.pid} on \S+: wait until it has ended"):
        RunLock().take(tmp_path)
    assert holder(tmp_path / LOCK)[::2] == (str(other.pid), "first")


@posix
@pytest.mark.parametrize("end", ["killed", "by itself"])
def test_the_lock_ends_with_its_process(tmp_path, other, end):
    if end == "killed":
        other.kill()
    else:
        (tmp_path / "go").touch()
    other.wait()
    with RunLock() as held:
        assert held.take(tmp_path) == "" and holder_of_this(tmp_path)


def holder_of_this(folder):
    """Who holds it, seen from another process: reading it here would end the lock."""
    read = f"{HEAD}; from lightning_gen.storage.lock import holder; print(*holder(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", read, folder / LOCK], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.split()[0] == str(os.getpid())


@posix
def test_a_restarted_job_waits_for_the_holder(tmp_path, other):
    """It has the lock as soon as the other process has ended, and not before."""
    pid = os.fork()
    if not pid:
        time.sleep(0.3)
        (tmp_path / "go").touch()
        os._exit(0)
    with RunLock() as held:
        held.take(tmp_path, wait=60)
        assert other.wait() == 0
    os.waitpid(pid, 0)
    assert not (tmp_path / LOCK).read_text().startswith(str(other.pid))


@posix
def test_who_waits_in_vain_is_told(tmp_path, other):
    with pytest.raises(UserError, match="is, after 0 s still being written by process"):
        RunLock().take(tmp_path, wait=0.3)


TAKE = f"{HEAD}; from lightning_gen.storage.lock import RunLock; RunLock().take(Path(sys.argv[1]))"


def may_be_taken(folder):
    done = subprocess.run([sys.executable, "-c", TAKE, folder], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 or "is being written" in done.stderr, done.stderr
    return done.returncode == 0


@posix
def test_a_forked_loader_neither_inherits_nor_ends_the_lock(tmp_path):
    held = RunLock()
    held.take(tmp_path)
    pid = os.fork()
    if not pid:
        held.release()  # closes the file in the child
        os._exit(0)
    os.waitpid(pid, 0)
    assert not may_be_taken(tmp_path), "the child's end must not end the parent's lock"
    go = tmp_path / "go"
    pid = os.fork()
    if not pid:
        while not go.exists():
            time.sleep(0.01)
        os._exit(0)
    held.release()
    free = may_be_taken(tmp_path)  # while the child, with the same file open, is alive
    go.touch()
    os.waitpid(pid, 0)
    assert free, "a loader that outlives its run must not keep the lock"


@posix
def test_a_folder_that_is_held_is_held_on(tmp_path):
    with RunLock() as held:
        held.take(tmp_path, "a")
        held.take(tmp_path, "b")
        assert not may_be_taken(tmp_path)
    assert holder(tmp_path / LOCK)[2] == "a"


@pytest.mark.parametrize("number", ["ENOLCK", "ENOTSUP", "ENOSYS"])
def test_without_locks_it_goes_on_with_one_line(tmp_path, monkeypatch, number):
    """As on file systems of a cluster that are mounted without them; nothing is removed that another may write."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.1-a.part").touch()
    with RunLock() as held:
        note = held.take(tmp_path, "mine")
        assert re.fullmatch(r"\S+ cannot be locked \(.+\): see to it that no other process writes to it", note)
        assert held.take(tmp_path) == "", "it is said once"
        assert holder(tmp_path / LOCK)[2] == "mine", "other ranks wait for this"
    assert (tmp_path / "checkpoints/.1-a.part").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match="No such file") as error:
        RunLock().take(tmp_path / "missing")
    assert error.value.filename.endswith(LOCK)


@posix
def test_what_killed_writers_have_left_is_removed(tmp_path):
    kept = [tmp_path / name for name in (".1-a.part", "samples/.1-a.part", "checkpoints/last.ckpt", "notes.part")]
    gone = [
        tmp_path / name for name in ("checkpoints/.1-a.part", "checkpoints/.last.ckpt.part", "pictures/x/.9-b.part")
    ]
    old = tmp_path / ".2-a.part"
    for path in (*kept, *gone, old):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, times=(time.time() - 2 * QUICK,) * 2)
    with RunLock() as held:
        held.take(tmp_path)
    assert all(path.exists() for path in kept), "an evaluation may be writing beside the run"
    assert not any(path.exists() for path in (*gone, old))


# Ranks that start together


def test_ranks_of_one_start_have_one_name():
    step = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}
    elastic = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "n1"}
    names = [
        attempt_of(step),
        attempt_of({**step, "SLURM_RESTART_COUNT": "1"}),
        attempt_of({**step, "SLURM_STEP_ID": "1"}),
        attempt_of({**elastic, "MASTER_PORT": "1"}),
        attempt_of({**elastic, "MASTER_PORT": "2"}),
    ]
    assert len(set(names)) == len(names) and all(names)
    assert attempt_of({**step, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}) == names[0]
    assert attempt_of({}) == "" and attempt_of({"LOCAL_RANK": "1"}) == ""


def test_other_ranks_wait_for_the_first(tmp_path, monkeypatch):
    """Until the file names their own start; a person who starts one process waits for nobody."""
    follow(tmp_path, "")
    seen = []

    def sleep(_):
        seen.append(len(seen))
        (tmp_path / LOCK).write_text("1\nhost\nearlier\n" if len(seen) < 3 else "2\nhost\nmine\n")

    monkeypatch.setattr(lock.time, "sleep", sleep)
    follow(tmp_path, "mine")
    assert len(seen) == 3
    monkeypatch.undo()
    monkeypatch.setattr(lock, "LATE", 0.1)
    with pytest.raises(UserError, match="the first rank has not taken") as error:
        follow(tmp_path, "another")
    assert error.value.rank_local


SHORT = ["--model", "vae", "--model.network_args.hidden", "[8]", "--save_every", 5, "--val_every", 100]
SHORT += ["--trainer.accelerator", "cpu"]
WAITS = "[{class_path: helpers.Waits, init_args: {iteration: %d}}]"


@posix
def test_a_run_that_runs_is_not_resumed(tmp_path, nursery):
    """The second person gets one line; the run goes on as if nobody had come, and can be resumed afterwards."""
    folder = tmp_path / "tb_logs/vae-digits/version_0"
    first = nursery.start(FIT, *SHORT, "--steps", 20, "--trainer.callbacks", WAITS % 12, cwd=tmp_path)
    first.until((tmp_path / "rank0.here").exists)
    before = (folder / "checkpoints/last.ckpt").stat().st_mtime_ns
    second = nursery.fit("--resume", folder, cwd=tmp_path, ok=False)
    assert second.returncode == 2 and second.output == ""
    assert re.fullmatch(
        rf"error: {re.escape(str(folder))} is being written by process {first.pid} on \S+: wait .*\n", second.errors
    )
    assert (folder / "checkpoints/last.ckpt").stat().st_mtime_ns == before
    (tmp_path / "go").touch()
    assert first.wait() == 0, first.errors
    nursery.fit("--resume", folder, "--steps", 25, cwd=tmp_path)
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["lightning_gen"]["iteration"] == 25
    assert not list(folder.rglob("*.part"))


@posix
def test_all_ranks_of_a_requeued_job_wait_and_read_one_checkpoint(tmp_path, nursery):
    """The earlier attempt still writes when two ranks start again: they go on from the checkpoint that it leaves."""
    job = {"TORCHELASTIC_RUN_ID": "job7"}
    command = [*SHORT, "--steps", 10, "--name", "job"]
    for rank in nursery.pair(FIT, *command, cwd=tmp_path, **job):
        assert rank.wait() == 0, rank.errors
    folder = tmp_path / "tb_logs/vae-digits-job/version_0"
    last, newer = folder / "checkpoints/last.ckpt", tmp_path / "newer"
    newer.write_bytes(last.read_bytes())
    state = torch.load(last, weights_only=True)
    last.write_bytes((folder / "checkpoints/previous.ckpt").read_bytes())  # of iteration 5
    (folder / "summary.json").unlink()
    holding = subprocess.Popen([sys.executable, "-c", HOLD, folder], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (folder / "held").exists():
        time.sleep(0.01)
    ranks = nursery.pair(FIT, *command, cwd=tmp_path, **job)
    time.sleep(1)  # the more time they have, the more would a rank that does not wait show itself
    os.replace(newer, last)
    (folder / "go").touch()
    assert holding.wait() == 0
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].errors + ranks[1].errors
    assert "going on from iteration 10" in ranks[0].output, ranks[0].output
    assert "has all of its iterations, but no summary.json" in ranks[0].output
    assert state["lightning_gen"]["iteration"] == read_checkpoint(last)["lightning_gen"]["iteration"] == 10
    assert (folder / "summary.json").exists()


# Files


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    """The part file of one is not that of another: the last to end wins, and both are whole."""
    path = tmp_path / "last.ckpt"
    with atomic_file(path) as one, atomic_file(path) as two:
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_to_be(tmp_path):
    with pytest.raises(OSError, match="No such file") as error:
        write_atomically(tmp_path / "missing/summary.json", b"")
    assert error.value.filename == str(tmp_path / "missing/summary.json")


def test_long_names_are_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), path)
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_copies_replace_a_file(tmp_path, monkeypatch):
    one, two = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    for _ in range(2):  # the second time both are one file already
        link_atomically(one, two)
        assert two.read_bytes() == b"one" and two.stat().st_ino == one.stat().st_ino
        assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(atomic.os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    one.unlink()
    one.write_bytes(b"three")
    link_atomically(one, two)
    assert two.read_bytes() == b"three" and sorted(path.name for path in tmp_path.iterdir()) == [one.name, two.name]


def test_parts_are_removed_by_age(tmp_path):
    for name, age in ((".1-a.part", 0), (".2-a.part", 100), ("mine.part", 100)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(time.time() - age,) * 2)
    remove_parts(tmp_path, older_than=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".1-a.part", "mine.part"]


@posix
def test_readers_never_see_a_part(tmp_path):
    """Two writers in a loop and a reader; benchmarks/torn_reads.py does it for 25 s."""
    found = torn_reads(tmp_path, reads=60)
    assert found["reads"] == 60 and found["torn"] == 0 and min(found["writes"]) > 0, found
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt", "previous.ckpt"]
    assert len(list(tmp_path.glob(".*.part"))) <= 2, "of each writer that was killed one"


@posix
def test_the_count_of_torn_files_can_rise(tmp_path):
    """What a writer that does not rename leaves is counted, so that 0 means something."""
    AtomicCheckpointIO().save_checkpoint({"lightning_gen": {}, "x": torch.zeros(10_000)}, tmp_path / "last.ckpt")
    content = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    assert torn_reads(tmp_path, reads=5, writers=0)["torn"] == 5
