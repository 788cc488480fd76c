"""Benchmarks: budgets, cells that are finished, resumed, failed or run anew, and the page of results."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from helpers import empty_checkpoint

from lightning_gen import commands
from lightning_gen.benchmarking.cells import ProcessRunner, config_from_arguments, last_error
from lightning_gen.benchmarking.differences import paired_difference
from lightning_gen.benchmarking.page import markdown
from lightning_gen.benchmarking.results import cell_path, tag_of, write_cell
from lightning_gen.benchmarking.table import format_mean_std
from lightning_gen.commands.benchmark import Benchmark, Budget, fixed_iterations, main, parse_budget, round_down
from lightning_gen.datamodules.errors import UserError
from lightning_gen.evaluation.metric_names import base_of, extractor_of
from lightning_gen.storage import runs

ENVIRONMENT = {"torch": "2.15.0", "lightning": "2.6.6", "system": "Linux", "device": "a CPU", "threads": "1"}
SETTING = {
    **{"n": 297, "data": "digits", "reference": "test split, 297 examples", "checkpoint": "best.ckpt"},
    **{"reference_sha256": "r" * 64, "extractor": "digits_v1", "extractor_sha256": "e" * 64},
}
SHORT = ["--models", "vae", "--budget", "60it", "--seeds", "2"]


def value(number, better="lower", floor=None, n=2000, k=None, **more):
    entry = {"value": number, "n": n, "k": k, "std": None, "floor": floor, "better": better, "likelihood": None}
    return {**entry, "given": None, "how": None, "note": None, **more}


class Scripts:
    """Stands for fit.py and evaluate.py: writes what they write, and notes how they were called.

    Args:
        fail: of (script, seed) the exit status and the last words.
        rate: images per second.
    """

    def __init__(self, fail=None, rate=12_800.0):
        self.calls, self.fail, self.rate, self.groups = [], fail or {}, rate, {}

    def __call__(self, command, log):
        script, arguments = command[3], command[4:]
        self.calls.append([script, *arguments])
        folder = self.begin(arguments) if script == "fit" else runs.find_run_folder(arguments[0])
        config = runs.read_config(folder)
        status, words = self.fail.get((script, config["seed"]), (0, ""))
        if status:
            log.write_text(log.read_text(encoding="utf-8") + words + "\n")
        elif script == "fit":
            self.finish(folder, config)
        else:
            self.evaluate(folder, config["seed"])
            status = 2 if self.groups else 0
        return status

    def begin(self, arguments):
        if arguments[0] == "--resume":
            return runs.find_run_folder(arguments[1])
        config = config_from_arguments(arguments)
        folder = runs.new_folder(config)
        runs.write_config(config, folder)
        (folder / "checkpoints").mkdir()
        torch.save(empty_checkpoint(30), folder / "checkpoints/last.ckpt")
        return folder

    def finish(self, folder, config):
        images = 128 * config["steps"]
        own = {"seconds": 2 * images / self.rate, "images_per_second": self.rate, "environment": ENVIRONMENT}
        runs.write_summary(folder, {"iterations": config["steps"], "images": images, **own})

    def evaluate(self, folder, seed):
        content = {
            "format": 1,
            "setting": SETTING,
            "values": {"fd_digits_v1": value(3.0 + seed, floor=0.5)},
            "done": {"fd": []},
        }
        content |= {"inapplicable": {"mig": "no factors"}, "failed": self.groups}
        (folder / "evaluation.json").write_text(json.dumps(content))

    def names(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "benchmarks/results"


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


# Budgets


@pytest.mark.parametrize(
    ("text", "amount", "kind"),
    [
        *[("10m", 600, "seconds"), ("90s", 90, "seconds"), ("1.5h", 5400, "seconds"), ("5000it", 5000, "iterations")],
        *[("2.3Mimg", 2_300_000, "images"), ("500kimg", 500_000, "images"), ("64img", 64, "images")],
    ],
)
def test_budgets_are_times_iterations_or_images(text, amount, kind):
    assert parse_budget(text) == Budget(text, amount, kind)


@pytest.mark.parametrize(
    "text", ["10", "m", "10 m", "0s", "-5it", "1.5it", "0.0001kimg", "5min", "2mimg", "1e3it", "007s"]
)
def test_other_budgets_are_a_mistake(text):
    with pytest.raises(UserError, match=re.escape(f"--budget {text}: ") + ".*90s.*5000it.*Mimg"):
        parse_budget(text)


def test_images_become_whole_batches_and_need_a_batch_size():
    config = {"dataset": "mine", "data": {"init_args": {"batch_size": 128}}}
    assert fixed_iterations(parse_budget("2Mimg"), config) == 15625
    assert fixed_iterations(parse_budget("64img"), config) == 1
    assert fixed_iterations(parse_budget("70it"), config) == 70
    assert fixed_iterations(parse_budget("70s"), config) is None
    with pytest.raises(UserError, match="batch size of mine is not known"):
        fixed_iterations(parse_budget("2Mimg"), {"dataset": "mine", "data": {"init_args": {}}})


def test_measured_iterations_keep_two_digits():
    assert [round_down(n) for n in (0.3, 7.9, 99.9, 101, 12_999, 987_654)] == [1, 7, 99, 100, 12_000, 980_000]


# Names


def test_cells_are_named_by_all_that_tells_them_apart(tmp_path):
    assert cell_path(tmp_path, "mnist", "vae", "10m", {}, 2).name == "mnist-vae-10m-seed2.json"
    assert cell_path(tmp_path, "./my pictures/", "a.B", "1.5h", {}, 0).name == "my_pictures-a.B-1.5h-seed0.json"
    tag = tag_of({"data.binarize": "dynamic"})[0]
    assert (
        cell_path(tmp_path, "mnist", "vae", "10m", {"data.binarize": "dynamic"}, 0).name
        == f"mnist-vae-10m-{tag}-seed0.json"
    )
    assert tag != tag_of({"data.binarize": "static"})[0] and re.fullmatch("[0-9a-f]{6}", tag)
    assert tag_of({"a": "1", "b": "2"}) == tag_of({"b": "2", "a": "1"})


def test_options_that_move_no_result_are_not_kept():
    arguments = ["--data.root", "/somewhere", "--model.latent_dim=4", "--data.num_workers", "2", "--val_every", "9"]
    assert Benchmark("mnist", "1m", ProcessRunner(), arguments).options == {"model.latent_dim": "4", "val_every": "9"}
    assert Benchmark("folder", "1m", ProcessRunner(), ["--data.root", "here"]).options == {"data.root": "here"}


# Cells


def test_a_benchmark_trains_evaluates_and_writes_each_cell(place, capsys):
    scripts = Scripts()
    main([*SHORT, "--only", "fd", "--model.latent_dim", "4", "--data.num_workers", "0"], scripts)
    assert scripts.names() == ["fit", "evaluate"] * 2
    assert scripts.calls[1][-2:] == ["--metrics", "fd"]
    tag = tag_of({"model.latent_dim": "4"})[0]
    cell = read(place, f"digits-vae-60it-{tag}-seed1.json")
    assert (cell["iterations"], cell["images"], cell["images_per_second"]) == (60, 7680, 12_800)
    assert cell["evaluation"]["values"]["fd_digits_v1"] == value(4.0, floor=0.5) | {"given": None}
    assert cell["evaluation"]["inapplicable"] == {"mig": "no factors"} and cell["environment"] == ENVIRONMENT
    assert "fit --model vae --data digits --steps 60 --seed 1 --model.latent_dim=4 &&" in cell["command"]
    assert cell["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", cell["commit"])
    assert "failed" not in cell and "num_workers" not in json.dumps(cell)
    output = capsys.readouterr().out
    assert "vae: 60it = 60 iterations\n" in output
    assert re.search(r"\[2/2\] vae seed 1: trained 60 iterations in 1\.2 s, evaluated in \d", output)
    page = (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert rows(page)["vae"][:3] == ["2 (0, 1)", "best", "3.50 ± 0.71"] and "3.50\u00a0±\u00a00.71 |" in page


def test_a_finished_cell_is_not_run_again(place, capsys):
    main(SHORT, Scripts())
    scripts = Scripts()
    main([*SHORT, "--only", "fd"], scripts)
    assert scripts.calls == [] and capsys.readouterr().out.count("finished before") == 2
    main([*SHORT, "--model.latent_dim", "4"], scripts)
    assert scripts.names() == ["fit", "evaluate"] * 2 and len(list(place.iterdir())) == 4


def test_options_of_the_measurement_reach_evaluate_alone(place):
    scripts = Scripts()
    main([*SHORT, "--evaluate.k=100,1000", "--evaluate.n", "50"], scripts)
    trained, measured = scripts.calls[:2]
    assert not any("evaluate" in word or "100" in word for word in trained)
    assert trained[trained.index("--name") + 1] == "benchmark-60it"  # the run that has no such options
    assert measured[2:] == ["--k", "100", "1000", "-n", "50"]
    (cell,) = {path.name.rsplit("-", 1)[0] for path in place.iterdir()}
    assert cell != "digits-vae-60it"  # but another cell
    with pytest.raises(UserError, match=r"unknown option of evaluate 'depth'"):
        main([*SHORT, "--evaluate.depth=3"], scripts)


def test_a_removed_cell_is_made_anew(place):
    main(SHORT, Scripts())
    (place / "digits-vae-60it-seed1.json").unlink()
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.names() == ["fit", "evaluate"] and "--resume" not in scripts.calls[0]


def test_more_metrics_need_no_new_training(place):
    main([*SHORT, "--only", "fd"], Scripts())
    scripts = Scripts()
    main([*SHORT, "--only", "elbo"], scripts)
    assert scripts.names() == ["evaluate"] * 2 and scripts.calls[0][-3:] == ["--metrics", "fd", "elbo"]
    assert read(place, "digits-vae-60it-seed0.json")["only"] == ["fd", "elbo"]


def test_a_cell_of_another_length_is_made_anew(place):
    main(SHORT, Scripts())
    path = place / "digits-vae-60it-seed0.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "iterations": 50}))
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.names() == ["fit", "evaluate"] and read(place, path.name)["iterations"] == 60


def test_a_failed_cell_harms_no_other_and_is_tried_again(place, capsys):
    words = "Traceback\n  File x\nValueError: no good in /home/me/data/x.npy\n[rank: 0] bye"
    with pytest.raises(UserError, match=r"vae seed 0$"):
        main(SHORT, Scripts({("fit", 0): (1, words)}))
    failed = read(place, "digits-vae-60it-seed0.json")
    assert failed["failed"] == "ValueError: no good in x.npy" and "evaluation" not in failed
    assert "[1/2] vae seed 0: failed: ValueError: no good in x.npy (tb_logs/benchmark/" in capsys.readouterr().out
    assert "- vae seed 0: ValueError" in (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert "failed" not in read(place, "digits-vae-60it-seed1.json")
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.names() == ["fit", "evaluate"] and scripts.calls[0][1] == "--resume"
    assert "failed" not in read(place, "digits-vae-60it-seed0.json")


def test_after_a_failed_evaluation_only_that_is_repeated(place):
    with pytest.raises(UserError):
        main(SHORT, Scripts({("evaluate", 1): (-signal.SIGKILL, "")}))
    assert read(place, "digits-vae-60it-seed1.json")["failed"] == "killed by SIGKILL (out of memory?)"
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.names() == ["evaluate"]


def test_groups_of_metrics_that_failed_leave_the_rest(place):
    scripts = Scripts()
    scripts.groups = {"dci": "too little memory at /opt/x/y"}
    with pytest.raises(UserError, match="vae seed 0, vae seed 1"):
        main(SHORT, scripts)
    cell = read(place, "digits-vae-60it-seed0.json")
    assert cell["failed"] == "dci: too little memory at y" and cell["evaluation"]["values"]
    page = (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert rows(page)["vae"][2] == "3.50 ± 0.71"


def test_a_stopped_cell_goes_on_where_it_was(place):
    with pytest.raises(UserError):
        main(SHORT, Scripts({("fit", 1): (143, "")}))
    assert read(place, "digits-vae-60it-seed1.json")["failed"] == "not finished"
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.calls[0] == ["fit", "--resume", "tb_logs/vae-digits-benchmark-60it/version_1"]


def test_a_run_that_cannot_go_on_begins_anew(place):
    with pytest.raises(UserError):
        main(SHORT, Scripts({("fit", 1): (1, "error: x")}))
    (place.parents[1] / "tb_logs/vae-digits-benchmark-60it/version_1/checkpoints/last.ckpt").write_bytes(b"PK broken")
    scripts = Scripts()
    main(SHORT, scripts)
    assert scripts.names() == ["fit", "evaluate"] and "--resume" not in scripts.calls[0]


def test_a_time_is_measured_once_and_kept(place, capsys):
    arguments = ["--models", "vae", "--budget", "125s", "--seeds", "2"]
    first = Scripts({("fit", 1): (1, "error: x")})
    with pytest.raises(UserError):
        main(arguments, first)
    lengths = [call[call.index("--steps") + 1] for call in first.calls if call[0] == "fit"]
    assert lengths == ["20", "1000", "12000", "12000"]  # 100 iterations a second
    assert not list((place.parents[1] / "tb_logs").glob("*calibration*"))
    assert "vae: 125s = 12,000 iterations" in capsys.readouterr().out
    faster = Scripts(rate=99_999.0)
    main([*arguments[:-1], "3"], faster)
    assert [call[1] for call in faster.calls if call[0] == "fit"] == ["--resume", "--model"]
    assert read(place, "digits-vae-125s-seed2.json")["iterations"] == 12_000


def test_a_model_that_cannot_be_measured_leaves_the_others(place):
    class Broken(Scripts):
        def __call__(self, command, log):
            self.fail = {("fit", 0): (1, "error: too large")} if "conv-vae" in command else {}
            return super().__call__(command, log)

    with pytest.raises(UserError, match=r"conv-vae seed 0$"):
        main(["--models", "conv-vae", "vae", "--budget", "125s", "--seeds", "1"], Broken())
    assert read(place, "digits-conv-vae-125s-seed0.json")["failed"] == "too large"
    assert read(place, "digits-vae-125s-seed0.json")["iterations"] == 12_000
    main(["--models", "conv-vae", "vae", "--budget", "125s", "--seeds", "1"], Scripts())
    assert "failed" not in read(place, "digits-conv-vae-125s-seed0.json")


def test_jobs_run_at_once(place):
    scripts = Scripts()
    main([*SHORT, "--jobs", "2"], scripts)
    assert sorted(scripts.names()) == ["evaluate", "evaluate", "fit", "fit"] and len(list(place.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "veä"], "unknown model 'veä': did you mean 'vae'"),
        ([], "which models?.*beta-vae"),
        ([*SHORT, "--seeds", "0"], "--seeds 0: it must be at least 1"),
        ([*SHORT, "--jobs", "0"], "--jobs 0"),
        ([*SHORT, "--budget", "9999999999it"], "below 2\\^32"),
        ([*SHORT, "--only", "fdd"], "unknown metric 'fdd': did you mean 'fd'"),
        ([*SHORT, "--only", "nowhere.f"], "cannot import metric 'nowhere.f'"),
        ([*SHORT, "--data", "mnits"], "unknown data set 'mnits': did you mean 'mnist'"),
        ([*SHORT, "--model.latent_dimm", "3"], "latent_dim"),
        ([*SHORT, "--steps", "3"], "--steps is not used here"),
        ([*SHORT, "--seed", "3"], "--seed is not used here"),
        ([*SHORT, "--trainer.default_root_dir", "/x"], "no paths of one machine"),
        (["--table"], "no cell in benchmarks/results"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(place, arguments, words):
    scripts = Scripts()
    with pytest.raises(UserError, match=words):
        main(arguments, scripts)
    assert scripts.calls == [] and not place.exists()


def test_a_damaged_or_foreign_cell_is_named(place):
    main(SHORT, Scripts())
    path = place / "digits-vae-60it-seed0.json"
    cell = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**cell, "data": "./digits"}))
    with pytest.raises(UserError, match=r"seed0.json is the file of --models vae --data ./digits already"):
        main(SHORT, Scripts())
    path.write_text("{")
    with pytest.raises(UserError, match=r"seed0.json is damaged: remove it"):
        main(["--table"])


def test_errors_are_found_in_the_output():
    assert last_error("error: a\nerror: b is /a/b/c.png, see https://x.org/a/b and tb_logs/x/y\n", 2) == (
        "b is c.png, see https://x.org/a/b and tb_logs/x/y"
    )
    assert last_error("x\ntorch.OutOfMemoryError: CUDA out of memory.\nbye", 1).startswith(
        "torch.OutOfMemoryError: CUDA"
    )
    assert last_error("Segmentation fault", 139) == "Segmentation fault"
    assert last_error("", 3) == "exit status 3"


def test_termination_reaches_the_commands(tmp_path):
    processes, log = ProcessRunner(), tmp_path / "log"
    command = [sys.executable, "-c", "import os, sys, time; print(os.environ['OMP_NUM_THREADS']); sys.exit(3)"]
    assert processes(command, log) == 3 and log.read_text(encoding="utf-8").strip().isdigit()
    with processes.stopping(), pytest.raises(KeyboardInterrupt):
        child = subprocess.Popen(["sleep", "60"])
        processes.running.add(child)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)
    assert child.wait(10) == -signal.SIGTERM


# Rows of configuration files

WITH_FILE = ["--models", "vae", "mine.yaml", "--budget", "60it", "--seeds", "2"]
TERMS = """
def roughness(s, power: float = 2.0):
    return (s.out[..., 1:] - s.out[..., :-1]).abs().pow(power).flatten(1).sum(1)


def level(real, fake):
    return {"mean": fake.double().mean()}
"""


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def mine(place):
    """A configuration file of the user's own."""
    return write(place.parents[1] / "mine.yaml", "model: {init_args: {latent_dim: 5, terms: {kl: 2}}}\nval_every: 30\n")


def test_a_configuration_file_is_a_row_beside_the_presets(mine, place, capsys):
    scripts = Scripts()
    main(WITH_FILE, scripts)
    assert scripts.names() == ["fit", "evaluate"] * 4 and capsys.readouterr().out.count("for all") == 0
    assert scripts.calls[4][1:7] == ["--config", "mine.yaml", "--data", "digits", "--steps", "60"]
    content = {"model": {"init_args": {"latent_dim": 5, "terms": {"kl": 2}}}, "val_every": 30}
    own = read(place, "digits-mine-60it-seed1.json")
    assert own["model"] == "mine" and set(own["config"]) == {"file", "sha256", "content"}
    assert own["config"]["file"] == "mine.yaml" and own["config"]["content"] == content
    assert re.fullmatch("[0-9a-f]{64}", own["config"]["sha256"])
    assert "fit --config mine.yaml --data digits --steps 60 --seed 1 &&" in own["command"]
    assert "config" not in read(place, "digits-vae-60it-seed1.json")
    table = rows((place.parents[1] / "RESULTS.md").read_text(encoding="utf-8"))
    assert "3.50 ± 0.71" in table["vae"] and "3.50 ± 0.71" in table["mine"]
    run = runs.read_config("tb_logs/vae-digits-benchmark-60it-mine/version_1")
    arguments = run["model"]["init_args"]
    assert (arguments["latent_dim"], arguments["terms"], run["steps"], run["seed"]) == (5, {"kl": 2}, 60, 1)
    again = Scripts()
    main(WITH_FILE, again)
    assert again.calls == []


def test_the_same_options_in_other_words_are_the_same_row(mine, place):
    main(WITH_FILE, Scripts())
    mine.write_text("# mine\nval_every: 30\nmodel:\n  init_args:\n    terms: {kl: 2}\n    latent_dim: 5\nseed: 4\n")
    again = Scripts()
    main(WITH_FILE, again)
    assert again.calls == []


def test_a_changed_file_mixes_with_no_earlier_cells(mine, place):
    main(WITH_FILE, Scripts())
    mine.write_text("model: {init_args: {latent_dim: 6, terms: {kl: 2}}}\nval_every: 30\n")
    again = Scripts()
    words = (
        r"seed0.json was made by other content of mine.yaml \(model.init_args.latent_dim\).*name, or remove the cells"
    )
    with pytest.raises(UserError, match=words):
        main(WITH_FILE, again)
    (place / "digits-mine-60it-seed0.json").unlink()
    with pytest.raises(UserError, match=r"seed1.json was made by other content"):  # of a seed that is not asked for
        main([*WITH_FILE[:-1], "1"], again)
    assert again.calls == []
    (place / "digits-mine-60it-seed1.json").unlink()
    main(WITH_FILE, again)
    assert again.names() == ["fit", "evaluate"] * 2


def test_a_file_that_did_not_train_may_be_mended(mine, place):
    with pytest.raises(UserError, match="mine seed 0, mine seed 1"):
        main(["--models", "mine.yaml", *SHORT[2:]], Scripts({("fit", seed): (1, "error: NaN") for seed in (0, 1)}))
    mine.write_text("model: {init_args: {latent_dim: 6}}\n")
    scripts = Scripts()
    main(["--models", "mine.yaml", *SHORT[2:]], scripts)
    assert scripts.names() == ["fit", "evaluate"] * 2 and "--resume" not in scripts.calls[0]
    assert read(place, "digits-mine-60it-seed0.json")["config"]["content"] == {
        "model": {"init_args": {"latent_dim": 6}}
    }


def test_what_print_config_writes_is_a_row(place, script, capsys):
    text = script("fit", "--model", "vae", "--seed", 7, "--name", "x", "--val_every", 30, "--print_config").stdout
    write(place.parents[1] / "mine.yaml", text)
    capsys.readouterr()
    main([*WITH_FILE, "--model.terms.kl", "2", "--data.num_workers=0"], Scripts())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "for all 2 rows: --model.terms.kl=2 --data.num_workers=0"
    assert said[1] == "mine.yaml: the benchmark's own stand in the place of steps 3000, seed 7, name x"
    assert said[2] == "vae: 60it = 60 iterations"
    tag = tag_of({"model.terms.kl": "2"})[0]
    content = read(place, f"digits-mine-60it-{tag}-seed0.json")["config"]["content"]
    assert content["preset"] == "vae" and content["val_every"] == 30 and "init" not in content
    assert not {"dataset", "steps", "epochs", "seed", "name"} & set(content)
    assert not {"root", "num_workers"} & set(content["data"]["init_args"])


def test_options_of_data_that_a_file_has_for_itself_are_said(mine, place, capsys):
    mine.write_text("data: {init_args: {binarize: dynamic, num_workers: 0}}\nepochs: 3\n")
    main(WITH_FILE, Scripts())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mine.yaml: the benchmark's own stand in the place of epochs 3"
    assert said[1] == "mine.yaml: data.binarize dynamic in this row alone"


def test_a_time_is_measured_of_a_file_too(mine, place):
    scripts = Scripts()
    main(["--models", "mine.yaml", "--budget", "125s", "--seeds", "1"], scripts)
    lengths = [call[call.index("--steps") + 1] for call in scripts.calls if call[0] == "fit"]
    assert lengths == ["20", "1000", "12000"] and all("mine.yaml" in call for call in scripts.calls if call[0] == "fit")
    assert read(place, "digits-mine-125s-seed0.json")["iterations"] == 12_000
    assert not list((place.parents[1] / "tb_logs").glob("*calibration*"))


def test_no_path_of_this_machine_is_kept(mine, place):
    main(["--models", str(mine), *SHORT[2:]], Scripts())
    own = read(place, "digits-mine-60it-seed0.json")
    assert "fit --config mine.yaml --data" in own["command"] and str(mine.parent) not in json.dumps(own)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mine.yaml": ""}, "mine.yaml is no mapping"),
        ({"vae.yaml": "seed: 1"}, "vae.yaml would be a row of the same name as the preset vae: rename the file"),
        ({"mine.yaml": "seed: 1", "my/mine.yml": "seed: 1"}, "my/mine.yml would be .* same name as mine.yaml"),
        ({"a b.yaml": "seed: 1", "a_b.yaml": "seed: 1"}, "a_b.yaml would be .* same name as a b.yaml"),
        ({"mine.yaml": None}, "cannot read the configuration mine.yaml: No such file"),
        ({"mine.yaml": "a: ["}, "mine.yaml is no YAML"),
        ({"mine.yaml": "sed: 3"}, "unknown key of the configuration 'sed': did you mean 'seed'"),
        ({"mine.yaml": "model: {init_args: {latent_dimm: 3}}"}, "latent_dimm"),
        ({"mine.yaml": "dataset: mnist"}, "mine.yaml is of the data mnist, this benchmark of digits: remove dataset"),
        (
            {"mine.yaml": "data: {class_path: lightning_gen.datamodules.mnist.MNIST}"},
            "mine.yaml sets class_path of other data than --data digits",
        ),
        ({"mine.yaml": "data: {init_args: {root: /x}}\ninit: /home/me/run"}, "mine.yaml: init /home/me/run: .*machine"),
        ({"mine.yaml": "model: {init_args: {network: own_nets.tiny}}", "own_nets.py": "import no"}, "--trust own_nets"),
        ({"mine.yaml": "model: {init_args: {terms: {own: {f: {weight: 1}}}}}", "own.py": ""}, "--trust own"),
    ],
)
def test_mistakes_in_files_are_one_line_before_anything_runs(place, files, words):
    for name, text in files.items():
        if text is not None:
            write(place.parents[1] / name, text)
    scripts = Scripts()
    with pytest.raises(UserError, match=words):
        main(["--models", *(name for name in files if name[-3:] != ".py"), "--budget", "60it"], scripts)
    assert scripts.calls == [] and not place.exists()


def test_a_file_may_not_name_other_files_as_its_data(place):
    for name in ("one", "two"):
        np.save(place.parents[1] / f"{name}.npy", np.zeros((60, 3), np.float32))
    write(place.parents[1] / "mine.yaml", "data: {init_args: {path: two.npy}}")
    with pytest.raises(UserError, match=r"mine.yaml sets path of other data than --data one.npy"):
        main(["--models", "mine.yaml", "--data", "one.npy", "--budget", "60it"], Scripts())


def here(command, log):
    """Runs a command in this process."""
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            commands.call(command[3:])
        except UserError as error:
            print(f"error: {error}")
            return 2
    return 0


@pytest.fixture
def own_terms(place, monkeypatch):
    """A loss term of the user's own, in the working folder."""
    yield write(place.parents[1] / "own_terms.py", TERMS)
    sys.modules.pop("own_terms", None)


def test_a_term_of_the_users_own_is_trained_and_measured(place, own_terms):
    write(place.parents[1] / "rough.yaml", "model: {init_args: {terms: {own_terms.roughness: 0.01}}}")
    short = ["--models", "vae", "rough.yaml", "--budget", "5it", "--seeds", "2", "--only", "elbo", "own_terms.level"]
    main([*short, "--trust", "own_terms"], here)
    summary, own = (read(place, f"digits-{name}-5it-seed1.json") for name in ("vae", "rough"))
    assert list(own["config"]["modules"]) == ["own_terms.py"]
    assert own["evaluation"]["values"]["elbo"]["value"] != summary["evaluation"]["values"]["elbo"]["value"]
    assert {"vae", "rough"} <= set(rows((place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")))
    assert 0 < own["evaluation"]["values"]["level.mean"]["value"] < 255
    assert own["command"].endswith("--metrics elbo own_terms.level")
    own_terms.write_text(TERMS.replace("2.0", "1.0"))
    with pytest.raises(UserError, match=r"other content of rough.yaml \(own_terms.py\)"):
        main([*short, "--trust", "own_terms"], here)


# The page


def cell(model="vae", seed=0, values=None, setting=None, **more):
    finished = {
        **{"format": 1, "data": "mnist", "budget": "10m", "options": {"data.binarize": "dynamic"}, "only": None},
        **{"iterations": 12_000, "images": 1_536_000, "seconds": 601.0, "images_per_second": 2555.0},
        **{"environment": ENVIRONMENT, "commit": "a" * 40, "date": "2030-01-02", "command": "x"},
        "evaluation": {"setting": SETTING | (setting or {}), "values": values or {}, "inapplicable": {}, "failed": {}},
    }
    return {"model": model, "seed": seed, **finished, **more}


def failed_cell(model, seed, reason):
    identity = {"format": 1, "data": "mnist", "budget": "10m", "options": {"data.binarize": "dynamic"}}
    return {"model": model, "seed": seed, **identity, "only": None, "failed": reason}


def rows(page):
    """The cells of all table rows, by model; the later tables' follow."""
    found = {}
    for line in page.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            name, *texts = (text.strip() for text in line.replace("\u00a0", " ").strip("|").split("|"))
            found.setdefault(name, []).extend(texts)
    return found


def test_means_are_as_exact_as_their_deviation():
    assert format_mean_std([3.0, 4.0, 3.5]) == "3.50 ± 0.50"
    assert format_mean_std([1234.0, 1534.0]) == "1,380 ± 210"
    assert format_mean_std([0.81234, 0.81236]) == "0.812350 ± 0.000014"
    assert (
        format_mean_std([16, 16]) == "16 ± 0"
        and format_mean_std([12_345.678]) == "12,346"
        and format_mean_std([0.123456]) == "0.1235"
    )
    assert format_mean_std([3.0, "nan"]) == "nan" and format_mean_std([]) == "-"
    assert format_mean_std([0.0, 0.1414]) == "0.07 ± 0.10"


def test_the_table_ranks_means_and_shows_the_floor():
    cells = [
        *(
            cell("beta-vae", k, {"fd_a": value(9 + k, floor=0.5), "precision_a": value(0.9, "higher")})
            for k in range(3)
        ),
        *(cell("vae", k, {"fd_a": value(5 + k, floor=0.5), "nn_ratio_a": value(0.97, "near 1")}) for k in range(3)),
        failed_cell("conv-vae", 2, "out of memory"),
    ]
    page = markdown(cells)
    table = rows(page)
    assert page.startswith("Generated by `lightning-gen benchmark --table`") and "never edited" in page.splitlines()[0]
    assert "## mnist, 10m, data.binarize dynamic" in page
    floor = "real: validation, then training examples"  # of evaluations before they said it
    assert list(table) == ["model", "vae", "beta-vae", floor]  # the order of the presets
    heads = ["fd ↓<br>a, N 2,000", "precision ↑<br>a, N 2,000", "nn_ratio → 1<br>a, N 2,000"]
    assert table["model"] == ["seeds", "checkpoint", *heads, "speed", "training"]
    assert table["vae"] == ["3 (0-2)", "best", "**6.0 ± 1.0**", "-", "0.97 ± 0", "1.00x", "10.0 min"]
    assert table["beta-vae"][2:4] == ["10.0 ± 1.0", "0.9 ± 0"]
    assert table[floor][2:4] == ["0.5", "-"]
    assert "- conv-vae seed 2: out of memory" in page and "- conv-vae seed 0, 1: missing" in page
    assert "10m = 12,000 iterations, 1,536,000 images\n" in page
    for part in (
        "digits_v1 [eeeeeeeeeeee]",
        "[rrrrrrrrrrrr]",
        "a CPU, 1 thread",
        "torch 2.15.0",
        "a" * 10,
        "2030",
    ):
        assert part in page, part
    command = (
        "lightning-gen benchmark --models vae beta-vae conv-vae --data mnist --seeds 3 --budget 10m "
        "--data.binarize=dynamic"
    )
    assert f"{command}\n" in page


@pytest.mark.parametrize(
    ("name", "change", "setting", "reason"),
    [
        ("fd_a", {"n": 1500}, {}, "N"),
        ("fd_a", {"k": 7}, {}, "k"),
        ("fd_a", {}, {"extractor_sha256": "f" * 64}, "extractor"),
        ("fd_a", {}, {"reference_sha256": "s" * 64}, "reference"),
        ("fd_a", {}, {"checkpoint": "last.ckpt"}, "checkpoint"),
        ("fd_a", {}, {"averaged_weights": True}, "weights"),
        ("fd_a", {}, {"sampler": "gmm", "components": 10}, "sampler"),
        ("fd_a", {}, {"version": 2}, "version"),
        ("fd_a", {"better": "near 1"}, {}, "better"),
        ("elbo", {"likelihood": "Gaussian of uint8 values"}, {}, "likelihood"),
        ("elbo", {"given": "class"}, {}, "given"),
    ],
)
def test_values_that_were_measured_otherwise_have_no_winner(name, change, setting, reason):
    def page(change, setting):
        own = {"fd_a": {}, "elbo": {"likelihood": "Bernoulli of binary values"}}[name]
        first = cell("vae", 0, {name: value(5.0, **own)})
        return markdown([first, cell("beta-vae", 0, {name: value(9.0, **own) | change}, setting)])

    assert "**5**" in page({}, {}) and "nothing bold because" not in page({}, {})
    assert "**5" not in page(change, setting) and "**9" not in page(change, setting)
    assert f"- nothing bold because of {reason}: {name}\n" in page(change, setting)


def test_likelihoods_depend_on_neither_sampler_nor_extractor():
    other = {"sampler": "gmm", "components": 10, "extractor_sha256": "f" * 64}
    page = markdown([cell("vae", 0, {"elbo": value(5.0)}), cell("beta-vae", 0, {"elbo": value(9.0)}, other)])
    assert rows(page)["vae"][2] == "**5**" and rows(page)["beta-vae"][1] == "best, gmm of 10 components"


def test_means_over_other_seeds_have_no_winner():
    cells = [*(cell("vae", k, {"fd_a": value(5.0 + k)}) for k in (0, 1)), cell("beta-vae", 0, {"fd_a": value(9.0)})]
    assert rows(markdown(cells))["vae"][2] == "5.50 ± 0.71" and "because of seeds: fd_a" in markdown(cells)
    cells.append(cell("beta-vae", 2, {"fd_a": value(9.5)}))  # as many
    assert rows(markdown(cells))["beta-vae"][0] == "2 (0, 2)" and "because of seeds: fd_a" in markdown(cells)
    cells[-1] = cell("beta-vae", 1, {"fd_a": value(9.5)})
    assert rows(markdown(cells))["vae"][2] == "**5.50 ± 0.71**"


def test_few_examples_rank_nothing():
    def page(n):
        return markdown([cell("vae", 0, {"fd_a": value(5.0, n=n)}), cell("beta-vae", 0, {"fd_a": value(9.0, n=n)})])

    assert rows(page(999))["vae"][2] == "5" and "because of N below 1,000: fd_a" in page(999)
    assert rows(page(1000))["vae"][2] == "**5**"
    legend = page(999)[: page(999).index("## mnist")]
    assert "N is below 1,000" in legend.replace("\n", " ")


def test_rows_say_checkpoint_weights_and_seeds_and_heads_what_most_values_share():
    odd = {"nll_is5000": value(96.6, n=1500, k=5000, likelihood="Gaussian of binary values")}
    usual = {"nll_is5000": value(95.0, n=2000, k=5000, likelihood="Bernoulli of binary values")}
    cells = [cell("vae", 0, odd, {"checkpoint": "last.ckpt", "averaged_weights": True})]
    cells += [cell(model, 3, usual) for model in ("beta-vae", "conv-vae")]
    table = rows(markdown(cells))
    assert table["model"][2] == "nll_is5000 ↓<br>N 2,000, k 5,000, Bernoulli"
    assert table["vae"][:3] == ["1 (0)", "last, averaged", "96.6 (N 1,500, Gaussian)"]
    assert table["beta-vae"][:3] == ["1 (3)", "best", "95"]
    table = rows(markdown(cells[:2]))  # no majority: each says it
    assert table["model"][2] == "nll_is5000 ↓<br>k 5,000"
    assert table["beta-vae"][2] == "95 (N 2,000, Bernoulli)"


def test_the_error_over_examples_stands_beside_the_spread_over_seeds():
    values = [{"nll_is500": value(95.0 + k, std=0.8 + k / 10), "kd_a": value(2.0, std=9.0)} for k in range(2)]
    table = rows(markdown([cell("vae", k, own) for k, own in enumerate(values)]))
    assert table["vae"][2:4] == ["2 ± 0", "95.50 ± 0.71 (±0.85)"]  # of kd it is the spread over subsets


@pytest.mark.parametrize(("errors", "bold"), [((0.1, 0.9), True), ((0.1, 1.0), False), ((1.1, 0.1), False)])
def test_a_difference_within_the_error_over_examples_has_no_winner(errors, bold):
    cells = [
        cell("vae", 0, {"elbo": value(-100.0, "higher", std=errors[0])}),
        cell("beta-vae", 0, {"elbo": value(-101.0, "higher", std=errors[1])}),
        cell("conv-vae", 0, {"elbo": value(-109.0, "higher", std=50.0)}),  # of the third it does not matter
    ]
    assert ("**-100" in markdown(cells)) == bold
    assert ("because of a difference within the error over examples: elbo" in markdown(cells)) != bold


def test_speed_is_relative_to_the_first_model_on_the_same_machine():
    other = {"environment": {**ENVIRONMENT, "device": "another CPU"}}
    more = {"environment": {**ENVIRONMENT, "threads": "2"}}
    cells = [cell("vae", 0), cell("beta-vae", 0, images_per_second=1277.5), cell("conv-vae", 0, **other)]
    cells += [cell("cvae", 0, images_per_second=5110.0, seconds=20.0, **other), cell("iwae", 0, **more)]
    cells += [cell("vamp-vae", 0, seconds=10.0), cell("vamp-vae", 1, seconds=30.0, **more)]
    for own in cells:
        own["evaluation"]["values"] = {"fd_a": value(5.0)}
    page = markdown(cells)
    costs = {model: texts[-2:] for model, texts in rows(page).items()}
    assert costs["vae"] == ["1.00x ¹", "10.0 min ¹"] and costs["beta-vae"] == ["0.50x ¹", "10.0 min ¹"]
    assert costs["conv-vae"] == ["1.00x ²", "10.0 min ²"] and costs["cvae"] == ["2.00x ²", "20 s ²"]
    assert costs["iwae"] == ["1.00x ³", "10.0 min ³"]
    assert costs["vamp-vae"] == ["1.00x ¹, 1.00x ³", "10 s ¹, 30 s ³"]
    assert "- ² another CPU, 1 thread, Linux; images/s: conv-vae 2,555, cvae 5,110\n" in page
    assert "- a CPU, 1 thread, Linux; images/s: vae 2,555, beta-vae 1,278\n" in markdown(cells[:2])


def test_notes_and_explanations_are_told_once(place):
    fd = {"how": "Frechet distance", "note": None}
    cells = [
        cell("vae", 0, {"fd_a": value(5.0, **fd), "nll_is9": value(1.0, how="bound", note="fewer examples")}),
        cell("vae", 1, {"fd_a": value(6.0, **fd), "nll_is9": value(1.0, how="bound")}),
        cell("beta-vae", 0, {"fd_a": value(5.0, **fd), "nll_is9": value(1.0, how="tight", note="fewer examples")}),
    ]
    page = markdown(cells)
    assert page.count("fewer examples") == 1 and "- nll_is9: fewer examples (vae seed 0, beta-vae)\n" in page
    assert "- fd_a: Frechet distance\n- nll_is9: bound (vae); tight (beta-vae)\n" in page
    assert "<details>" not in markdown([cell("vae", 0, {"fd_a": value(5.0)})])


def test_cells_keep_what_values_say_of_themselves(place):
    class Telling(Scripts):
        def evaluate(self, folder, seed):
            super().evaluate(folder, seed)
            content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            content["values"]["fd_digits_v1"] |= {"how": "a distance", "note": "few", "given": "class", "seconds": 3}
            (folder / "evaluation.json").write_text(json.dumps(content))

    main(SHORT, Telling())
    kept = read(place, "digits-vae-60it-seed1.json")["evaluation"]["values"]["fd_digits_v1"]
    assert kept == value(4.0, floor=0.5, how="a distance", note="few", given="class")
    page = (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert "- fd_digits_v1: few (vae)\n" in page and "- fd_digits_v1: a distance\n" in page


def test_each_kind_of_real_data_has_a_row():
    drawn = {"floor_of": "2,000 training and validation examples at random"}
    cells = [
        cell("vae", 0, {"fd_a": value(5.0, floor=0.5)}),
        cell("beta-vae", 0, {"fd_a": value(6.0, floor=0.7), "nn_ratio_a": value(1.2, "near 1", floor=1.0)}, drawn),
    ]
    table = rows(markdown(cells))
    assert table["real: validation, then training examples"][2:4] == ["0.5", "-"]
    assert table["real: 2,000 training and validation examples at random"][2:4] == ["0.7", "-"]
    assert table["real: the reference itself"][2:4] == ["-", "1"]


def test_a_name_says_what_was_measured():
    assert [base_of(name) for name in ("a2b_fd_raw_untranslated", "nll_is500", "class_kl_mnist_v1", "mine")] == [
        *("fd", "nll", "class_kl", "mine")
    ]
    assert [extractor_of(name) for name in ("a2b_fd_my_net", "classes_a", "modes", "nll_is500", "mig_chen")] == [
        *("my_net", "a", "", "", "")
    ]


# Differences


def test_the_mean_of_paired_differences_has_the_interval_of_students_t():
    d = paired_difference([1.0, 2.0, 3.0])  # mean 2, s = 1, t_{2, 0.975} = 4.302653
    assert (d.mean, d.n) == (2.0, 3) and d.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    d = paired_difference([-1.0, 1.0])  # mean 0, s = sqrt(2), t_{1, 0.975} = 12.706205
    assert (d.mean, d.n) == (0.0, 2) and d.half == pytest.approx(12.706205, rel=1e-6)
    assert paired_difference([0.25]) == (0.25, None, 1)


def test_a_section_with_a_configuration_file_shows_differences_to_its_first_model():
    mine, numbers = {"config": {"file": "a-file.yaml"}}, {"vae": (5.0, 6.0, 7.0), "a-file": (6.0, 8.0, 10.0)}
    cells = [cell("a-file", k, {"fd_a": value(v), "elbo": value(1.0)}, **mine) for k, v in enumerate(numbers["a-file"])]
    cells += [cell("vae", k, {"fd_a": value(v), "elbo": value(1.0)}) for k, v in enumerate(numbers["vae"])]
    cells += [cell("beta-vae", k, {"fd_a": value(v)}) for k, v in ((1, 4.0), (5, 99.0))]
    cells += [
        cell("b-file", k, {"fd_a": value(v, n=1500), "elbo": value(2.0)}, **mine) for k, v in enumerate((1.0, 2.0))
    ]
    page = markdown(cells)
    assert list(rows(page))[1:5] == ["vae", "beta-vae", "a-file", "b-file"]
    table = page[page.index("**Differences to vae**") :]
    assert rows(table)["value"] == ["beta-vae", "a-file", "b-file"]
    # differences 1, 2, 3; of one seed 4 - 6; another N
    assert rows(table)["fd_a ↓"] == ["-2 (n 1)", "2.0 [-0.5, 4.5] (n 3)", "-"]
    assert rows(table)["elbo ↓"] == ["-", "0.0 [0.0, 0.0] (n 3)", "1.0 [1.0, 1.0] (n 2)"]
    assert "--models vae beta-vae a-file.yaml a-file.yaml --data" in page  # both cells' configs name the one file
    assert "Differences to" not in markdown([own for own in cells if "config" not in own])
    assert "Differences to" not in markdown([own for own in cells if own["model"] == "a-file"])


def test_values_without_a_number_and_partly_missing_ones_are_shown():
    values = [{"fd_a": value("nan"), "kd_a": value(1.0)}, {"fd_a": value(2.0)}]
    page = markdown(
        [cell("vae", seed, own) for seed, own in enumerate(values)] + [cell("beta-vae", 0, {"fd_a": value(3.0)})]
    )
    assert rows(page)["vae"][2:4] == ["nan", "1 (1 of 2 seeds)"]
    assert rows(page)["beta-vae"][2] == "3"
    assert "- beta-vae seed 1: missing" in page


def test_many_metrics_make_two_tables():
    names = [
        "elbo",
        "nll_is500",
        "nll_is5000",
        "mig_chen",
        "coverage_a",
        "density_a",
        "recall_a",
        "precision_a",
        "fd_a",
    ]
    page = markdown([cell("vae", 0, {name: value(1.0, None) for name in names})])
    assert rows(page)["model"] == [
        *["seeds", "checkpoint"],
        *(f"{name}<br>a, N 2,000" for name in ("fd", "precision", "recall", "density", "coverage")),
        *["speed", "training", "seeds", "checkpoint"],
        *(f"{name}<br>N 2,000" for name in ("nll_is500", "nll_is5000", "elbo", "mig_chen")),
    ]
    titles = [page.index(f"**{title}**") for title in ("Samples", "Likelihood and latents")]
    assert titles[0] < page.index("coverage<br>") < titles[1] < page.index("elbo<br>")
    few = markdown([cell("vae", 0, {name: value(1.0, None) for name in names[1:]})])
    assert "**Samples**" not in few


def test_sections_are_told_apart_and_the_table_alone_reads_the_files(place, capsys):
    for number, own in enumerate(({}, {"options": {}}, {"budget": "1h"}, {"data": "digits"})):
        write_cell(place / f"{number}.json", cell(**own))
    main(["--table"])
    page = (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    headings = ["digits, 10m, data.binarize dynamic", "mnist, 10m", "mnist, 10m, data.binarize dynamic"]
    assert re.findall("## (.*)", page) == [*headings, "mnist, 1h, data.binarize dynamic"]
    assert capsys.readouterr().out == "RESULTS.md\n"
    (place / "2.json").rename(place.parents[1] / "2.json")
    main(["--table", "--results", str(place.parents[1])])
    assert re.findall("## (.*)", page := (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")) == [
        "mnist, 1h, data.binarize dynamic"
    ]
    assert str(place.parents[1]) not in page


# The real thing


def test_the_scripts_make_a_cell(place, script, capsys):
    arguments = ["--models", "vae", "--data", "digits", "--budget", "60it", "--seeds", "1", "--only", "elbo"]
    output = script("benchmark", *arguments).stdout
    assert re.search(
        r"\[1/1\] vae seed 0: trained 60 iterations in [\d.]+ s, evaluated in [\d.]+ s\nRESULTS.md", output
    )
    own = read(place, "digits-vae-60it-seed0.json")
    assert own["images"] == 60 * 128 and own["environment"]["threads"] == "1" and own["only"] == ["elbo"]
    assert -200 < own["evaluation"]["values"]["elbo"]["value"] < 0
    assert own["evaluation"]["setting"]["iteration"] == 60
    page = (place.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert rows(page)["model"][2].startswith("elbo ↑<br>N 297, ")
    assert str(place.parents[1]) not in page + json.dumps(own)
    main(arguments)
    assert "finished before" in capsys.readouterr().out


def test_values_given_the_class_are_marked_and_do_not_win():
    """-log p(x|y) is another quantity than -log p(x), and evenly spread classes are another task."""
    cells = [cell("vae", 0, {"bits_per_dim": value(3.7), "fd_a": value(5.0)})]
    cells += [cell("mixture-vae", 0, {"bits_per_dim": value(3.6), "fd_a": value(6.0)})]
    untold = {"bits_per_dim": value(3.5), "fd_a": value(1.0)}
    for entry in untold.values():  # of an earlier version
        del entry["given"]
    cells += [cell("cvae", 0, untold)]  # of a preset that takes classes
    told = {"bits_per_dim": value(3.4, given="class"), "fd_a": value(0.5, given="class")}
    cells += [cell("beta-vae", 0, told)]  # as evaluations say now
    tokens = {"fd_a": value(0.1), "psnr": value(30.0)}
    del tokens["fd_a"]["given"], tokens["psnr"]["given"]
    cells += [cell("vq-vae", 0, tokens)]  # its prior alone is conditional
    page = markdown(cells)
    assert "| 3.5 † |" in page and "| 3.4 † |" in page and "**3.6**" in page and "| 0.1 † |" in page
    assert "**5**" in page and "| 30 |" in page and "nothing bold because" not in page
    alike = markdown([cell("beta-vae", 0, told), cell("vae", 0, {"fd_a": value(0.7, given="class")})])
    assert "**0.5 †**" in alike  # where all are told the class
