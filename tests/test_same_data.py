"""A run goes on with the data that it began with, or says in one line what has changed."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.config import cli
from lightning_gen.datamodules import identity
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.paired import Paired
from lightning_gen.datamodules.toy import Toy
from lightning_gen.datamodules.unpaired import Unpaired
from lightning_gen.models.vae import VAE
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, read_checkpoint


def told(before, after):
    """What data that a checkpoint of others is given to say; None where they go on."""
    state = torch.load(save(before.state_dict()), weights_only=True)  # as a checkpoint holds it
    try:
        after.load_state_dict(state)
    except UserError as error:
        assert re.fullmatch(r"the data have changed since the checkpoint was written: .*with --init RUN", str(error))
        return str(error).partition("written: ")[2].partition(". A run goes on")[0]
    assert after.position.batches == before.position.batches
    return None


def save(state):
    from io import BytesIO

    buffer = BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


# Arrays


def array(path, rows=200, columns=6, seed=0, **more):
    x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    np.savez(path, x=x, **more) if path.suffix == ".npz" else np.save(path, x)
    return Arrays(str(path))


def test_an_array_that_has_grown(tmp_path):
    """The split is a permutation of all rows: 200 and 260 rows have others, so it must not go on."""
    path = tmp_path / "x.npy"
    before = array(path)
    assert before.state_dict() and told(before, array(path)) is None
    assert told(before, array(path, rows=260)) == "rows 200 -> 260"
    assert told(before, array(path, columns=8)) == "shape 6 -> 8"
    assert told(before, array(path, seed=1)) == "contents of the file"


def test_one_value_of_an_array(tmp_path):
    before = array(tmp_path / "x.npy")
    before.state_dict()
    content = bytearray((tmp_path / "x.npy").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.npy").write_bytes(content)
    assert told(before, Arrays(str(tmp_path / "x.npy"))) == "contents of the file"


def test_the_number_of_classes(tmp_path):
    path, y = tmp_path / "x.npz", np.arange(200) % 10
    before = array(path, y=y)
    before.state_dict()
    assert told(before, array(path, y=np.arange(200) % 12)) == "classes 10 -> 12"
    assert told(before, array(path, y=y[::-1])) == "contents of the file"
    shutil.copy(path, tmp_path / "copy.npz")
    assert told(array(path, y=y), Arrays(str(tmp_path / "x.npz"))) is None, "written anew with the same values"


def test_another_place_makes_no_difference(tmp_path):
    before = array(tmp_path / "x.npy")
    shutil.copy(tmp_path / "x.npy", tmp_path / "elsewhere.npy")
    assert told(before, Arrays(str(tmp_path / "elsewhere.npy"))) is None


def test_large_files_are_hashed_in_blocks(tmp_path, monkeypatch):
    """Both ends and what lies between are seen; and so is the length."""
    monkeypatch.setattr(identity, "WHOLE", 10_000)
    monkeypatch.setattr(identity, "EDGE", 100)
    monkeypatch.setattr(identity, "BLOCKS", 11)
    path, content = tmp_path / "x", bytes(range(250)) * 200
    path.write_bytes(content)
    before = identity.of_file(path)
    for place, seen in ((0, True), (49_999, True), (4990, True), (25_000, True), (200, False)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (identity.of_file(path) != before) is seen, place
    path.write_bytes(content + content[-1:])
    assert identity.of_file(path) != before


# Files


def picture(path, value=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    for k in range(12):
        picture(tmp_path / "p" / ("cat" if k % 2 else "dog") / f"{k:02}.png", 20 * k)
    return tmp_path / "p"


def test_a_folder_that_has_changed(pictures):
    before = Folder(str(pictures), size=8)
    before.state_dict()

    def again():
        return told(before, Folder(str(pictures), size=8))

    assert again() is None
    os.utime(pictures / "cat/01.png", times=(0, 0))
    assert again() is None, "times are not contents"
    picture(pictures / "cat/99.png", 3)
    picture(pictures / "cat/98.png", 3)
    assert again() == "2 files added to 12, such as cat/98.png"
    (pictures / "cat/98.png").unlink()
    (pictures / "cat/99.png").unlink()
    (pictures / "dog/00.png").rename(pictures / "dog/0.png")
    assert again() == "1 file added to 12, such as dog/0.png; 1 file removed of 12"
    (pictures / "dog/0.png").rename(pictures / "dog/00.png")
    picture(pictures / "dog/04.png", 5)
    assert again() == "1 file changed of 12, such as dog/04.png"
    picture(pictures / "bird/1.png")
    assert again().startswith("classes 2 -> 3; 1 file added")


def test_another_root_makes_no_difference(pictures, tmp_path):
    before = Folder(str(pictures), size=8)
    before.state_dict()
    shutil.copytree(pictures, tmp_path / "copy")
    assert told(before, Folder(str(tmp_path / "copy"), size=8)) is None
    assert told(before, Folder(str(pictures), size=16)) == "shape 3x8x8 -> 3x16x16"


def test_a_change_in_the_middle_of_a_large_file_is_not_looked_for(pictures, monkeypatch):
    """That is the price of reading 128 kB of each; a change of its size or of its ends is noticed."""
    monkeypatch.setattr(identity, "EDGE", 20)
    before = Folder(str(pictures), size=8)
    before.state_dict()
    path = pictures / "cat/01.png"
    content = path.read_bytes()
    for place, seen in ((0, True), (len(content) - 1, True), (len(content) // 2, False)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (told(before, Folder(str(pictures), size=8)) is not None) is seen, place


def test_pairs(pictures):
    """Files of both sides, which may have equal names."""
    sides = {"a": str(pictures / "cat"), "b": str(pictures / "dog")}
    before = Unpaired(**sides, size=8)
    before.state_dict()
    assert told(before, Unpaired(**sides, size=8)) is None
    picture(pictures / "dog/01.png", 9)
    assert told(before, Unpaired(**sides, size=8)) == "1 file added to 12, such as b/01.png"
    for k in range(12):
        picture(pictures / "both" / f"{k}.png", k, 8)
    halves = Paired(root=str(pictures / "both"), size=8)
    halves.state_dict()
    picture(pictures / "both/3.png", 77, 8)
    assert told(halves, Paired(root=str(pictures / "both"), size=8)) == "1 file changed of 12, such as 3.png"


def test_a_file_that_cannot_be_read_is_no_reason_to_stop(pictures):
    before = Folder(str(pictures), size=8)
    names = before.example_files()
    (pictures / "cat/01.png").unlink()
    assert len(identity.of_files(names)) == 12


# Other sets


class Stored:
    """A Dataset of stored examples."""

    classes = ("a", "b")

    def __init__(self, rows=40, shift=0.0, random=False):
        self.x = torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(0)).mul(0.9) + shift
        self.random = random

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.x[k] * (torch.rand(()) if self.random else 1.0), k % 2


def test_a_dataset_of_the_users_own():
    """Lengths and some examples; of the latter not the last digits, which may depend on the processor."""
    before = Custom(Stored())
    assert told(before, Custom(Stored())) is None
    assert told(before, Custom(Stored(shift=1e-6))) is None
    assert told(before, Custom(Stored(50))) == "examples of train, val and test 40 -> 50"
    assert told(before, Custom(Stored(), val=Stored(8))).startswith("examples of train, val and test 40 -> 40, 8")
    assert told(before, Custom(Stored(shift=0.05))) == "examples"


def test_random_examples_are_not_compared_and_no_number_is_drawn():
    before = Custom(Stored(random=True))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert len(before.digest["examples"]) == 0
    assert before.spec.shape == (1, 4, 4)
    torch.manual_seed(1)
    _ = Custom(Stored(random=True)).identity()
    assert told(before, Custom(Stored(random=True))) is None
    torch.manual_seed(1)
    with_state = Custom(Stored(random=True))
    _ = with_state.stored_spec
    torch.manual_seed(1)
    with_state.identity()
    assert torch.equal(torch.rand(3), expected), "the generator is as it was"


def test_what_a_set_of_the_users_own_adds():
    class Dated(Toy):
        def __init__(self, date):
            super().__init__()
            self.date, self.files = date, "an attribute of the user's own"

        def identity(self):
            return {**super().identity(), "date": self.date}

    assert told(Dated("monday"), Dated("monday")) is None
    assert told(Dated("monday"), Dated("tuesday")) == "date"


def test_sets_of_this_package():
    assert told(Digits(), Digits(batch_size=64)) is None
    assert told(Toy("ring8"), Toy("moons")) == "classes 8 -> 2"


def test_a_rank_that_writes_nothing_looks_at_nothing(pictures, monkeypatch):
    data = Folder(str(pictures), size=8)
    monkeypatch.setattr(data, "_rank_and_world", lambda: (1, 2))
    assert data.state_dict() == {"batches": 0}


def test_a_checkpoint_that_does_not_know(pictures):
    data = Folder(str(pictures), size=8)
    assert not [line for line in data.notices() if "does not say" in line]
    data.load_state_dict({"batches": 7})
    assert data.position.batches == 7
    assert [line for line in data.notices() if "does not say what its data were" in line]


# Trainers and commands


def test_a_trainer_of_ones_own(tmp_path, trainer):
    """``fit(ckpt_path=...)`` asks the data before the weights, which would only say that their sizes differ."""
    path = tmp_path / "x.npy"

    def fit(data, checkpoint=None):
        model = VAE(data.spec, latent_dim=2, network_args={"hidden": [8]})
        saves = Checkpoints(tmp_path / "run/checkpoints", every=2)
        run = trainer(max_steps=4, enable_checkpointing=True, callbacks=[saves], plugins=AtomicCheckpointIO())
        run.fit(model, data, ckpt_path=checkpoint, weights_only=True)

    fit(array(path))
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert read_checkpoint(last)["Arrays"]["identity"]["rows"] == 200
    with pytest.raises(UserError, match="rows 200 -> 260"):
        fit(array(path, rows=260), last)
    with pytest.raises(UserError, match="shape 6 -> 8"):
        fit(array(path, columns=8), last)


RUN = ["--model", "vae", "--model.network_args.hidden", "[8]", "--steps", 4, "--data.batch_size", 20]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: array(path, rows=260), "rows 200 -> 260"),
        (lambda path: array(path, columns=8), "shape 6 -> 8"),
        (lambda path: array(path, seed=1), "contents of the file"),
    ],
)
def test_resume_says_in_one_line_what_has_changed(tmp_path, script, change, said):
    array(tmp_path / "x.npy")
    script("fit", *RUN, "--data", "x.npy")
    folder = Path("tb_logs/vae-x/version_0")
    change(tmp_path / "x.npy")
    refused = script("fit", "--resume", folder, "--steps", 8, ok=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"error: the data have changed since the checkpoint was written: {said}. ")
    assert "--init" in refused.stderr
    array(tmp_path / "x.npy")
    assert "going on from iteration 4" in script("fit", "--resume", folder, "--steps", 8).stdout


def test_classes_of_a_folder_and_an_old_checkpoint(tmp_path, script, pictures):
    (tmp_path / "p/bird").mkdir()
    script("fit", *RUN, "--data", "p", "--data.size", 8)
    folder = tmp_path / "tb_logs/vae-p/version_0"
    picture(pictures / "bird/1.png")
    refused = script("fit", "--resume", folder, "--steps", 8, ok=False)
    assert (
        refused.returncode == 2 and refused.stderr.count("\n") == 1 and "classes 2 -> 3; 1 file added" in refused.stderr
    )
    last = folder / "checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["Folder"]["identity"]
    torch.save(state, last)
    (pictures / "bird/1.png").unlink()
    said = script("fit", "--resume", folder, "--steps", 8).stdout
    assert "the checkpoint does not say what its data were: whether they are the same is not known" in said
    assert "identity" in read_checkpoint(last)["Folder"]


def test_weights_onto_another_size_name_the_option(tmp_path, script):
    """Pictures of 16x16 had chosen 8 channels, those of 32x32 choose 16: the line says how to take the weights over."""
    cut = ["--model", "cut", "--data", "outline-shapes", "--data.batch_size", 2, "--steps", 1, "--val_every", 1]
    cut += ["--model.critic_args.layers", 1, "--trainer.limit_val_batches", 1]
    script("fit", *cut, "--data.size", 16, "--name", "small")
    init = [*cut, "--data.size", 32, "--init", "tb_logs/cut-outline-shapes-small/version_0"]
    refused = script("fit", *init, ok=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    option = ["--model.network_args.width", "8", "--model.critic_args.width", "8"]
    assert re.search(
        r"another architecture: generator\.stem\.1\.weight is 8x3x7x7, and 16x3x7x7 here, and \d+ more differ; "
        rf"pictures of 16x16 had chosen {' '.join(option)}: give these$",
        refused.stderr,
    )
    script("fit", *init, *option)


def test_weights_of_another_architecture_name_the_option(tmp_path, script):
    script("fit", *RUN, "--data", "digits")
    init = ["--init", "tb_logs/vae-digits/version_0"]
    for option, said in (
        (["--model.latent_dim", 5], "; --model.latent_dim is 16 there, 5 here"),
        (["--model.network_args.hidden", "[9]"], "; --model.network_args.hidden is [8] there, [9] here"),
    ):
        refused = script("fit", *RUN, "--data", "digits", *option, *init, ok=False)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and refused.stderr.endswith(f"{said}\n")


def test_data_that_were_moved_are_found_by_their_option(tmp_path):
    """A run of --data FOLDER did not go on where the folder had another place: its name was no data set."""
    folder, moved = tmp_path / "before", tmp_path / "after"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    run = cli.resolve_config({"model": "vae", "data": str(folder)}, []).config
    folder.rename(moved)
    again = cli.resolve_config({}, ["--data.root", str(moved)], run).config
    assert again["data"]["class_path"] == run["data"]["class_path"] and again["dataset"] == run["dataset"]
    assert again["data"]["init_args"] == {**run["data"]["init_args"], "root": str(moved)}
    assert cli.resolve_config({}, [], run).config == run, "what is missing is said when it is read"
