"""A comparison says what differs, marks winners only among like values, and shows samples and curves of all runs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_gen.commands import compare, fit
from lightning_gen.commands.compare import read_runs, short_names
from lightning_gen.datamodules.errors import UserError
from lightning_gen.evaluation.ranking import best_of
from lightning_gen.pictures.comparison import sample_run
from lightning_gen.storage.checkpoints import load

SETTING = {"checkpoint": "best.ckpt", "iteration": 60, "n": 297, "seed": 0, "data": "digits"}
SETTING |= {"reference": "test split, 297 examples", "reference_sha256": "a" * 64}
SETTING |= {"extractor": "digits_v1", "extractor_sha256": "b" * 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """tb_logs of three short runs: a VAE, a beta-VAE, and a VAE of points."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.chdir(folder)
        for words in ("--model vae", "--model beta-vae", "--model vae --data toy"):
            fit.main([*words.split(), "--steps", "60", "--val_every", "30", "--trainer.enable_progress_bar", "false"])
    return folder / "tb_logs"


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A folder of one's own with copies of the runs."""
    shutil.copytree(trained, tmp_path / "tb_logs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


VAE, BETA, TOY = (f"tb_logs/{name}/version_0" for name in ("vae-digits", "beta-vae-digits", "vae-toy"))


def entry(value, better="lower", **more):
    return {"value": value, "floor": 0.4, "better": better, "n": 2000, "k": None, "std": None, "how": "", **more}


def evaluate(run, values, complete=True, failed=None, **setting):
    """Writes an evaluation.json of the run's checkpoint."""
    sha256 = hashlib.sha256(Path(run, "checkpoints/best.ckpt").read_bytes()).hexdigest()
    content = {"format": 1, "complete": complete, "setting": {**SETTING, "checkpoint_sha256": sha256, **setting}}
    content |= {"environment": {}, "done": {}, "inapplicable": {}, "pictures": []}
    content |= {"values": values, "failed": failed or {}}
    Path(run, "evaluation.json").write_text(json.dumps(content))


def compared(*arguments, curves=("--curve", "val/loss")):
    """The page of a comparison: its rows by their first cell, and all of its text."""
    compare.main([*arguments, *curves, "-n", "4"])
    with open("comparison/comparison.md", encoding="utf-8") as file:
        page = file.read()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}, page


def test_the_page_shows_options_that_differ_and_final_values(place, capsys):
    rows, page = compared(VAE, BETA, curves=())
    assert rows["preset"] == ["vae", "beta-vae"] and rows["model.terms.kl"] == ["1.0", "4.0"]
    assert "steps" not in rows and not any("init_args" in name for name in rows)
    summary = json.loads((place / VAE / "summary.json").read_text(encoding="utf-8"))
    assert rows["val/loss"][0] == f"{summary['final']['val/loss']:.4g}" and rows["iterations"] == ["60", "60"]
    assert float(rows["images/s"][1].replace(",", "")) > 0
    assert f"lightning-gen evaluate {BETA}` would add its values" in page and "![" in page
    printed = capsys.readouterr().out
    assert "model.terms.kl" in printed and "comparison/comparison.png" in printed and "-digits has no" in printed


def test_the_best_of_comparable_values_is_marked(place):
    evaluate(VAE, {"fd": entry(3.1), "recall": entry(0.5, "higher", k=5), "nn_ratio": entry(0.9, "near 1", std=0.1)})
    evaluate(BETA, {"fd": entry(4.2), "recall": entry(0.6, "higher", k=5), "nn_ratio": entry(1.3, "near 1")})
    rows, page = compared(VAE, BETA)
    assert rows["fd"] == ["lower", "N 2,000", "0.4", "3.1 *", "4.2"]
    assert rows["recall"][1:] == ["N 2,000, k 5", "0.4", "0.5", "0.6 *"]
    assert rows["nn_ratio"][3:] == ["0.9 ± 0.1 *", "1.3"]
    assert rows["checkpoint, iteration"][3:] == ["best, 60"] * 2
    assert "real data: validation, then training examples (fd, recall); the reference itself (nn_ratio)" in page
    assert "## Notes" not in page


@pytest.mark.parametrize(
    ("change", "setting", "said"),
    [
        ({"n": 1500}, {}, "N 2,000 (vae-digits), 1,500 (beta-vae-digits)"),
        ({"k": 5}, {}, "k none (vae-digits), 5 (beta-vae-digits)"),
        ({}, {"extractor_sha256": "c" * 64}, "digits_v1 [cccccccccccc] (beta-vae-digits)"),
        ({}, {"reference_sha256": "d" * 64}, "reference [aaaaaaaaaaaa] (vae-digits)"),
        ({}, {"checkpoint": "last.ckpt"}, "checkpoint best (vae-digits), last (beta-vae-digits)"),
        ({}, {"averaged_weights": True}, "weights as trained (vae-digits), averaged (beta-vae-digits)"),
        ({}, {"sampler": "gmm", "components": 3}, "gmm of 3 components (beta-vae-digits)"),
        ({"given": "class"}, {}, "given none (vae-digits), class (beta-vae-digits)"),
    ],
)
def test_unlike_values_have_no_winner_and_a_note(place, change, setting, said):
    evaluate(VAE, {"fd": entry(3.1)})
    evaluate(BETA, {"fd": entry(4.2, **change)}, **setting)
    rows, page = compared(VAE, BETA)
    assert rows["fd"][3].startswith("3.1") and rows["fd"][4].startswith("4.2") and "*" not in "".join(rows["fd"])
    assert "No winner: fd: " in page and said in page


def test_runs_say_checkpoint_weights_and_sampler_and_values_what_tells_them_apart(place):
    evaluate(VAE, {"fd": entry(3.1)}, averaged_weights=True)
    evaluate(BETA, {"fd": entry(4.2, n=1500)}, checkpoint="last.ckpt", sampler="gmm", components=3)
    rows, _ = compared(VAE, BETA)
    assert rows["checkpoint, iteration"][3:] == ["best, averaged, 60", "last, gmm of 3 components, 60"]
    assert rows["fd"][1:] == ["-", "0.4", "3.1 (N 2,000)", "4.2 (N 1,500)"]


def test_another_seed_of_training_is_no_other_model(place):
    path = place / BETA / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "seed": 1}))
    for run, value in ((VAE, 3.1), (BETA, 4.2)):
        evaluate(run, {"fd": entry(value)})
    rows, page = compared(VAE, BETA)
    assert rows["fd"][3:] == ["3.1", "4.2"] and "seeds 0 (vae-digits), 1 (beta-vae-digits)" in page


def test_few_examples_and_differences_within_their_error_have_no_winner(place):
    likelihoods = {"elbo": (-100.0, -101.0, 1.5), "nll_is500": (99.0, 101.0, 1.5)}
    for which, run in enumerate((VAE, BETA)):
        values = {name: entry(own[which], "lower", std=own[2]) for name, own in likelihoods.items()}
        evaluate(run, {"fd": entry(3.1 + which, n=999), "kd": entry(1.0 + which, std=5.0), **values})
    rows, page = compared(VAE, BETA)
    assert rows["fd"][3:] == ["3.1", "4.1"] and "No winner: fd: N below 1,000." in page
    assert rows["elbo"][3:] == ["-100 (±1.5)", "-101 (±1.5)"] and "elbo: a difference within the error" in page
    assert rows["nll_is500"][3:] == ["99 (±1.5) *", "101 (±1.5)"]
    assert rows["kd"][3:] == ["1 ± 5 *", "2 ± 5"]  # the spread over subsets, no error


def test_a_value_without_an_extractor_does_not_depend_on_it(place):
    evaluate(VAE, {"elbo": entry(-3.0, "higher", extractor=None), "fd": entry(3.1, extractor="digits_v1")})
    evaluate(BETA, {"elbo": entry(-4.0, "higher", extractor=None), "fd": entry(4.2)}, extractor_sha256="c" * 64)
    rows, _ = compared(VAE, BETA)
    assert rows["elbo"][3:] == ["-3 *", "-4"] and "*" not in "".join(rows["fd"])


def test_what_is_missing_or_old_is_said(place):
    evaluate(VAE, {"fd": entry("nan"), "kd": entry(1.0)}, complete=False, failed={"dci": "no factors"})
    evaluate(BETA, {"fd": entry(4.2)}, checkpoint_sha256="0" * 64)
    (place / BETA / "summary.json").unlink()
    rows, page = compared(VAE, BETA)
    assert rows["fd"][3:] == ["nan", "4.2 *"] and rows["kd"][3:] == ["1", "-"] and rows["iterations"][1] == "-"
    assert "evaluation of vae-digits is incomplete" in page and "dci failed: no factors" in page
    assert "beta-vae-digits was evaluated before its best.ckpt" in page and "has no summary.json" in page


def test_other_data_leave_no_winner(place):
    evaluate(VAE, {"elbo": entry(-1.0, "higher")})
    evaluate(TOY, {"elbo": entry(-2.0, "higher")})
    rows, page = compared(VAE, TOY)
    assert rows["elbo"][3:] == ["-1", "-2"] and "across data sets" in page and "toy (vae-toy)" in page


def test_other_hardware_is_said(place):
    path = place / BETA / "summary.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"threads": "', '"threads": "7'))
    assert "different environments" in compared(VAE, BETA)[1]


def test_the_picture_holds_every_run_and_is_replaced(place):
    compared(VAE, BETA)
    with Image.open("comparison/comparison.png") as picture:
        wide, both = picture.size[0], picture.convert("RGB").getcolors(1 << 20)
        sources = json.loads(picture.text["runs"])
    assert wide >= 1000 and sources.keys() == {"vae-digits", "beta-vae-digits"}
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert any(found == colour and count > 1000 for count, found in both), colour
    compared(VAE, BETA, TOY)
    with Image.open("comparison/comparison.png") as picture:
        assert picture.size[0] > wide and "vae-toy" in picture.text["runs"]


def test_samples_are_those_of_the_seed(place):
    run = read_runs([VAE, BETA])[0]
    sheet = sample_run(run.label, run.checkpoint, 300, seed=4)
    assert sheet.samples.equal(load(run.folder).sample(300, seed=4)) and "300 of best.ckpt" in sheet.caption


def test_default_curves_are_those_that_all_runs_share(place):
    runs = read_runs([VAE, BETA])
    assert {"train/loss", "val/loss", "val/kl"} <= set(compare.chosen_curves(runs, None))
    assert sorted(runs[0].curves["val/loss"]) == [30, 60]
    del runs[1].curves["val/kl"]
    assert "val/kl" not in compare.chosen_curves(runs, None)
    assert compare.chosen_curves(runs, ["val/kl", "val/kl"]) == ["val/kl"]


def test_curves_of_before_have_the_tags_of_today(place):
    with SummaryWriter(VAE) as events:
        events.add_scalar("train/lr_vae", 0.25, 30)
    (run, _) = read_runs([VAE, BETA])
    assert run.curves["train/lr"] == {30: 0.25} and "train/lr_vae" not in run.curves


def test_a_run_without_event_files_is_left_out_of_the_plot(place):
    for file in (place / BETA).glob("events*"):
        file.unlink()
    assert "beta-vae-digits has no event files" in compared(VAE, BETA)[1]
    for file in (place / VAE).glob("events*"):
        file.unlink()
    assert "\n- vae-digits has no event files" in compared(VAE, BETA, curves=())[1]


def test_mistakes_are_one_line(place, script):
    (place / "tb_logs/empty").mkdir()
    for words, said in (
        ([VAE], "takes two runs or more, not 1"),
        ([VAE, f"{VAE}/checkpoints/last.ckpt"], "is the same run as"),
        ([VAE, "tb_logs/empty"], "tb_logs/empty is no run folder"),
        ([VAE, BETA, "--curve", "val/lss"], "did you mean 'val/loss'?"),
        ([VAE, BETA, "-n", "0"], "at least 1 sample"),
    ):
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            compare.main(words)
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "setting": {}, "failed": {}, "values": {"fd": 3}}'):
        (place / BETA / "evaluation.json").write_text(text)
        with pytest.raises(UserError, match=f"{BETA}/evaluation.json is damaged"):
            compare.main([VAE, BETA])
    result = script("compare", VAE, "--seed", 1, BETA, ok=False)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_names_are_short_and_unique(place):
    root = place / "tb_logs"
    assert short_names([root / "vae/version_0", root / "gan/version_0"]) == ["vae", "gan"]
    assert short_names([root / "vae/version_0", root / "vae/version_1"]) == ["version_0", "version_1"]
    mixed = [root / "vae/version_0", root / "vae/version_1", root / "gan/version_0"]
    assert short_names(mixed) == ["vae/version_0", "vae/version_1", "gan/version_0"]
    assert short_names([root / "good", root / "bad"]) == ["good", "bad"]


def test_best_of_ranks_only_what_can_be_ranked():
    values = {"a": 0.9, "b": 1.3, "c": float("nan")}
    assert best_of(values, "lower") == {"a"} and best_of(values, "higher") == {"b"}
    assert best_of(values, "near 1.2") == {"b"} and best_of(values, None) == set()
    assert best_of({"a": 1.0, "b": 1.0, "c": 2.0}, "lower") == {"a", "b"}
    assert best_of({"a": 1.00001, "b": 1.00002}, "lower") == set()  # they read the same
    assert best_of({"a": float("inf"), "b": float("nan")}, "lower") == set()


def test_other_options_of_the_same_data_are_other_data(place):
    path = place / BETA / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["data"]["init_args"] |= {"binarize": "dynamic", "batch_size": 64}
    path.write_text(yaml.safe_dump(config))
    page = compared(VAE, BETA)[1]
    assert "no winners: data.binarize none (vae-digits), dynamic (beta-vae-digits)." in page


def test_translators_are_compared_by_what_they_drew_at_the_end(script, tmp_path):
    small = ["--model.network_args.width", 4, "--model.network_args.blocks", 1, "--model.critic_args.width", 4]
    for seed in (0, 1):
        script("fit", "--model", "cut", "--steps", 2, "--seed", seed, "--data.batch_size", 1, *small)
    runs = [f"tb_logs/cut-outline-shapes/version_{k}" for k in (0, 1)]
    script("compare", *runs)
    with Image.open(next(tmp_path.rglob("comparison.png"))) as picture:
        colours = np.asarray(picture.convert("RGB"))[: picture.height // 2].reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 500  # two sheets of coloured shapes, not two grey squares
