"""A run that is stopped anywhere and resumed ends bit-identical to the uninterrupted one."""

import os
import signal

import pytest
import torch
from processes import FIT

from lightning_gen.atomic import write_atomically
from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.exits import Stopped
from lightning_gen.models.vae import VAE
from lightning_gen.storage.checkpoints import (
    AtomicCheckpointIO,
    find_checkpoint,
    load,
    read_checkpoint,
    set_aside_last,
)

STEPS = 30  # of 10 batches an epoch
VAL_EVERY = 7


def same(a, b, where=""):
    """Whether two checkpoints hold the same values, bit by bit; the clock and Lightning's restart counters aside."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if "RunProgress" not in str(key) and key != "loops":
                same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a} != {b}"


class StopAt(Checkpoints):
    """As if a signal came during an iteration."""

    def __init__(self, folder, at=None, **options):
        super().__init__(folder, **options)
        self.at = at

    @property
    def state_key(self):
        return "Checkpoints"

    def on_train_batch_end(self, trainer, pl_module, *rest):
        if pl_module.iteration == self.at:
            self.signals.pending = signal.SIGTERM
        super().on_train_batch_end(trainer, pl_module, *rest)


def run(folder, trainer, at=None, resume=False, steps=STEPS, epochs=None, dropout=0.2):
    torch.manual_seed(0)
    data = Digits(batch_size=130)
    model = VAE(
        data.spec,
        latent_dim=4,
        network_args={"hidden": [16], "dropout": dropout, "norm": "batch"},
        terms={"kl": "0..1@20"},
        lr="1e-2..1e-4@100% cos",
        ema={"vae": 500.0},
    )
    length = {"max_epochs": epochs} if epochs else {"max_steps": steps, "max_epochs": -1}
    checkpoints = StopAt(folder, at, every=5)
    run = trainer(
        **length,
        enable_checkpointing=True,
        callbacks=[checkpoints],
        plugins=AtomicCheckpointIO(),
        val_check_interval=VAL_EVERY,
        check_val_every_n_epoch=None,
    )
    run.fit(model, data, ckpt_path=folder / "last.ckpt" if resume else None, weights_only=True)
    return read_checkpoint(folder / "last.ckpt")


@pytest.fixture(scope="module")
def whole():
    return {}


# inside an epoch, at its end, at its start, at a validation, both, before the first save, at the last iteration
@pytest.mark.parametrize("at", [1, 3, 7, 9, 10, 11, 14, 20, 21, 29])
@pytest.mark.parametrize("epochs", [None, 3])
def test_stopped_anywhere(tmp_path, trainer, whole, at, epochs):
    if epochs not in whole:
        whole[epochs] = run(tmp_path / "whole", trainer, epochs=epochs)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", trainer, at=at, epochs=epochs)
    assert read_checkpoint(tmp_path / "parts" / "last.ckpt")["lightning_gen"]["iteration"] == at
    same(whole[epochs], run(tmp_path / "parts", trainer, resume=True, epochs=epochs))


def test_resumed_twice_and_from_an_older_checkpoint(tmp_path, trainer, whole):
    if None not in whole:
        whole[None] = run(tmp_path / "whole", trainer)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", trainer, at=4)
    (tmp_path / "old.ckpt").write_bytes((tmp_path / "parts" / "last.ckpt").read_bytes())
    with pytest.raises(Stopped):
        run(tmp_path / "parts", trainer, at=17, resume=True)
    (tmp_path / "parts" / "last.ckpt").write_bytes((tmp_path / "old.ckpt").read_bytes())  # as after kill -9
    same(whole[None], run(tmp_path / "parts", trainer, resume=True))


def test_the_comparison_can_fail(tmp_path, trainer):
    """Another noise gives other weights, so equality means something."""
    a = run(tmp_path / "a", trainer, dropout=0.2)
    b = run(tmp_path / "b", trainer, dropout=0.1)
    with pytest.raises(AssertionError):
        same(a["state_dict"], b["state_dict"])


WAITS = ["--trainer.callbacks", "[{class_path: helpers.Waits, init_args: {iteration: 90}}]"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_signals(tmp_path, nursery):
    """Ctrl-C, SIGTERM and kill -9 on the real script, each resumed to the end."""
    options = ["--model", "vae", "--steps", 600, "--save_every", 40, "--val_every", 250, "--model.ema.vae", 1000]
    nursery.fit(*options, "--name", "whole", cwd=tmp_path)
    reference = read_checkpoint(tmp_path / "tb_logs/vae-digits-whole/version_0/checkpoints/last.ckpt")
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        folder = tmp_path / f"tb_logs/vae-digits-{name.lower()}/version_0"
        last = folder / "checkpoints/last.ckpt"
        process = nursery.start(FIT, *options, "--name", name, *WAITS, cwd=tmp_path)
        process.until((tmp_path / "rank0.here").exists)
        process.send_signal(getattr(signal, name))
        (tmp_path / "go").touch()
        assert process.wait() == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[name], process.errors
        if name != "SIGKILL":
            assert "--resume" in process.output and "Traceback" not in process.output + process.errors
        done = read_checkpoint(last)["lightning_gen"]["iteration"]
        assert done == (80 if name == "SIGKILL" else 91)
        nursery.fit("--resume", folder, cwd=tmp_path)
        same(reference["state_dict"], read_checkpoint(last)["state_dict"])
        same(reference["optimizer_states"], read_checkpoint(last)["optimizer_states"])
        same(reference["lightning_gen"], read_checkpoint(last)["lightning_gen"])
        for file in ("rank0.here", "go"):
            (tmp_path / file).unlink()


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.fixture
def no_room():
    """From its call on, files longer than so many bytes cannot be written: the kernel itself refuses."""
    resource = pytest.importorskip("resource", reason="POSIX limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_full_while_saving(tmp_path, trainer, no_room):
    """A device without room: one line that says what to do, the old checkpoint loads, nothing half-written stays."""
    with pytest.raises(Stopped):
        run(tmp_path / "run", trainer, at=6)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    no_room(len(before) // 2)
    with pytest.raises(
        UserError, match=r"could not save .*too large. The last checkpoint is good: make room, then go on with --resume"
    ):
        run(tmp_path / "run", trainer, resume=True)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"last.ckpt", "previous.ckpt"}


def test_disk_full_at_the_first_checkpoint(tmp_path, trainer, no_room):
    """No checkpoint is promised where there is none."""
    no_room(1000)
    with pytest.raises(UserError, match=r"could not save .*No checkpoint was saved yet: make room, then start"):
        run(tmp_path / "run", trainer)


def damaged(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello")
    elif how == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        torch.save({"lightning_gen": test_signals}, path)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "foreign", "pickled"])
def test_damaged_checkpoints_are_refused_and_a_good_one_is_named(tmp_path, trainer, how):
    with pytest.raises(Stopped):
        run(tmp_path / "run" / "checkpoints", trainer, at=16)
    path = find_checkpoint(tmp_path / "run", "last")
    damaged(path, how)
    with pytest.raises(UserError) as error:
        load(path)
    assert str(path) in str(error.value)
    if how != "pickled":
        assert "previous.ckpt" in str(error.value)
        load(path.with_name("previous.ckpt"))


def test_a_missing_run(tmp_path):
    with pytest.raises(UserError, match="no run folder or checkpoint at"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no checkpoint in .*last.ckpt"):
        find_checkpoint(tmp_path)


def test_a_checkpoint_runs_nothing(tmp_path):
    """Neither a class that is no model, nor a trusted function that would open another file, is called."""
    ran = tmp_path / "ran"
    entries, weights = {"format": 1, "iteration": 0, "images": 0}, {"state_dict": {}}
    inner, outer = tmp_path / "inner.ckpt", tmp_path / "outer.ckpt"
    torch.save(
        weights | {"lightning_gen": {**entries, "model": "os.system"}, "hyper_parameters": {"command": f"touch {ran}"}},
        inner,
    )
    arguments = {"run": str(inner), "trust": ["os", "posix"]}
    torch.save(
        weights
        | {
            "lightning_gen": {**entries, "model": "lightning_gen.storage.checkpoints.load"},
            "hyper_parameters": arguments,
        },
        outer,
    )
    for path in (inner, outer):
        with pytest.raises(UserError, match=r"asks to import|is no GenerativeModule"):
            load(path)
    with pytest.raises(UserError, match="is no GenerativeModule"):
        load(inner, trust=["os", "posix", "nt"])
    assert not ran.exists()


def test_a_flipped_bit_is_noticed(tmp_path):
    """torch.load does not look at the file's checksums; what it would load in silence is refused here."""
    values = torch.arange(500.0)
    torch.save({"lightning_gen": {"iteration": 1}, "values": values}, tmp_path / "last.ckpt")
    content = (tmp_path / "last.ckpt").read_bytes()
    unnoticed_by_torch = 0
    for place in range(11, len(content), len(content) // 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "last.ckpt").write_bytes(flipped)
        try:
            found = read_checkpoint(tmp_path / "last.ckpt")["values"]
            assert torch.equal(found, values), place  # a byte that nobody reads
        except UserError as error:
            assert "last.ckpt" in str(error)
            unnoticed_by_torch += "checksum" in str(error)
    assert unnoticed_by_torch > 30


def test_all_checkpoints_damaged(tmp_path):
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(UserError, match=r"truncated, damaged or no checkpoint$"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_damaged_last_checkpoint_never_replaces_the_good_one_before(tmp_path, trainer, no_room):
    """A run goes on from previous.ckpt, and its first save fails: what it went on from is still there."""
    with pytest.raises(Stopped):
        run(tmp_path / "run", trainer, at=16)
    good = (tmp_path / "run" / "previous.ckpt").read_bytes()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"half")
    set_aside_last(tmp_path / "run" / "previous.ckpt")
    assert not (tmp_path / "run" / "last.ckpt").exists() and (tmp_path / "run" / "last.ckpt.aside").exists()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"half")  # as if it had not been set aside
    no_room(100)
    with pytest.raises(UserError, match="could not save"):
        AtomicCheckpointIO().save_checkpoint({"lightning_gen": {}}, tmp_path / "run" / "last.ckpt")
    assert (tmp_path / "run" / "previous.ckpt").read_bytes() == good


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_twice_ends_at_once(tmp_path, nursery):
    """Also while a check of a slow data set, or a long iteration, lets the first one wait."""
    options = ["--model", "vae", "--steps", 100_000, "--val_every", 100_000, "--save_every", 20]
    process = nursery.start(FIT, *options, *WAITS, cwd=tmp_path)
    process.until((tmp_path / "rank0.here").exists)
    process.send_signal(signal.SIGINT)
    process.until(lambda: "SIGINT: saving after this iteration" in process.output)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and "Traceback" not in process.output + process.errors, process.errors
    read_checkpoint(tmp_path / "tb_logs/vae-digits/version_0/checkpoints/last.ckpt")
