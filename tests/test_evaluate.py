"""Evaluation of a run: what it writes, that it can be interrupted and shared out, and the metrics during training."""

import contextlib
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import Painter
from PIL import Image
from processes import MEASURE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gen.commands import evaluate, fit
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.folder import Folder
from lightning_gen.evaluation import pictures, quality
from lightning_gen.evaluation.evaluation_run import EvaluationRun, rank_chunks
from lightning_gen.evaluation.metric_names import STANDARD_ERRORS, base_of
from lightning_gen.evaluation.report import FILE, Report
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.storage.checkpoints import find_checkpoint, load, read_checkpoint

RUN = "tb_logs/vae-digits/version_0"
QUICK = ["--k", "5", "20", "--draws", "2000"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a short run on digits and one on points."""
    folder = tmp_path_factory.mktemp("place")
    before = os.getcwd()
    os.chdir(folder)
    try:
        fit.main(["--model", "vae", "--steps", "300", "--val_every", "150", "--model.ema.vae", "5000"])
        fit.main(["--model", "vae", "--data", "toy", "--steps", "20"])
        fit.main(["--model", "helpers.Duel", "--data", "toy", "--steps", "4"])
        shutil.copytree(Path(RUN) / "checkpoints", "lightning_logs/version_0/checkpoints")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def evaluated(run, *options):
    evaluate.main([run, *map(str, [*QUICK, *options])])
    return json.loads((find_checkpoint(run).parent.parent / FILE).read_text(encoding="utf-8"))


def test_an_evaluation_says_how_each_value_was_obtained(there, capsys):
    report = evaluated(RUN, "--fresh")
    assert report["complete"] and not report["failed"]
    setting = report["setting"]
    assert setting["n"] == 297 and setting["averaged_weights"] and setting["iteration"] == 300
    assert all(len(setting[name]) == 64 for name in ("checkpoint_sha256", "reference_sha256", "extractor_sha256"))
    values = report["values"]
    expected = ["fd", "kd", "cs", "precision", "recall", "density", "coverage", "authenticity", "nn_ratio", "classes"]
    assert {f"{name}_digits_v1" for name in expected} <= set(values)
    assert {"elbo", "kl", "nll_is5", "nll_is20", "bits_per_dim", "psnr", "ssim", "active_units"} <= set(values)
    for value in values.values():
        assert value["n"] > 0 and len(value["how"]) > 20 and value["seconds"] is not None
    for name, value in values.items():
        assert ("standard error" in value["how"]) == (base_of(name) in STANDARD_ERRORS), name
    assert values["fd_digits_v1"]["value"] > 2 * values["fd_digits_v1"]["floor"] > 0  # 300 iterations are few
    assert values["nll_is20"]["n"] == 100 and values["nll_is20"]["k"] == 20
    assert values["elbo"]["value"] == pytest.approx(-values["reconstruction"]["value"] - values["kl"]["value"])
    assert values["nll_is20"]["value"] < values["nll_is5"]["value"] < -values["elbo"]["value"]
    assert set(report["inapplicable"]) == {"modes", "mig", "factor_vae", "dci", "rate"}
    output = capsys.readouterr().out
    assert "fd_digits_v1" in output and "297" in output and "no known factors" in output
    for picture in ("samples", "neighbours", "classes"):
        assert (there / RUN / f"evaluation/{picture}.png").stat().st_size > 1000


@pytest.fixture
def by_two(there, nursery):
    """Evaluates on two processes, both there already, or of which the first one starts the other."""

    def call(*arguments, ok=False, ranks=2):
        return nursery.run(MEASURE, *arguments, *QUICK, "--devices", 2, "--fresh", cwd=there, ranks=ranks, ok=ok)

    return call


@pytest.mark.parametrize(("n", "ranks"), [(297, 2), (100, 1)])  # two chunks, and one: the first rank has no example
def test_two_processes_give_the_values_of_one(there, by_two, n, ranks):
    one = evaluated(RUN, "--fresh", "-n", n)["values"]
    by_two(RUN, "-n", n, ranks=ranks, ok=True)
    two = json.loads((there / RUN / FILE).read_text(encoding="utf-8"))["values"]
    assert set(one) == set(two)
    for name, value in one.items():
        for key in ("value", "floor", "std"):
            same = two[name][key] == value[key]  # also None
            assert same or two[name][key] == pytest.approx(value[key], rel=1e-6, abs=1e-9), name


def test_the_random_numbers_of_training_are_untouched(there, tmp_path):
    model, data = load(RUN), Digits()
    s = EvaluationRun(model, data, find_extractor("auto", "digits", data.spec), n=297, k=(5,))
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluate.measure(s, Report(tmp_path / FILE, {}, {}), list(evaluate.METRICS))
    assert len(list(pictures.draw_all(s))) == 3
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()


def test_an_interrupted_evaluation_goes_on(there, monkeypatch):
    whole = evaluated(RUN, "--fresh")

    def interrupted(subject):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(evaluate.METRICS, "pr", evaluate.Metric(interrupted, ""))
        with pytest.raises(KeyboardInterrupt):
            evaluated(RUN, "--fresh")
    half = json.loads((there / RUN / FILE).read_text(encoding="utf-8"))
    assert not half["complete"] and set(half["done"]) == {"fd", "kd", "cs"}
    monkeypatch.setitem(evaluate.METRICS, "fd", evaluate.Metric(interrupted, ""))  # would be seen if run again
    again = evaluated(RUN)
    assert again["complete"]
    assert {k: v["value"] for k, v in again["values"].items()} == {k: v["value"] for k, v in whole["values"].items()}


def test_another_setting_starts_anew(there):
    evaluated(RUN, "--metrics", "fd", "elbo")
    report = evaluated(RUN, "--metrics", "fd", "--seed", 1)
    assert list(report["values"]) == ["fd_digits_v1"] and not report["complete"]


def test_a_metric_that_fails_does_not_keep_the_rest_from_being_measured(there):
    with pytest.raises(UserError, match=r"failed, for the reasons above: cs, dc; "):
        evaluated(RUN, "--metrics", "elbo", "cs", "dc", "-n", 4)
    report = json.loads((there / RUN / FILE).read_text(encoding="utf-8"))
    assert "elbo" in report["values"]
    assert "10" in report["failed"]["cs"] and "4" in report["failed"]["cs"]


def test_any_error_of_a_metric_is_told_and_the_rest_is_measured(there, monkeypatch):
    def broken(subject):
        raise RuntimeError("no such thing")
        yield

    monkeypatch.setitem(evaluate.METRICS, "fd", evaluate.Metric(broken, ""))
    with pytest.raises(UserError, match="failed, for the reasons above: fd; "):
        evaluated(RUN, "--fresh", "--metrics", "fd", "elbo")
    report = json.loads((there / RUN / FILE).read_text(encoding="utf-8"))
    assert "elbo" in report["values"] and report["pictures"]
    assert re.match(r"RuntimeError: no such thing \(test_evaluate.py, line \d+\)", report["failed"]["fd"])


def diverged(there, name="diverged"):
    """A copy of the run whose decoder gives NaN."""
    folder = there / f"tb_logs/{name}/version_0"
    shutil.copytree(there / RUN, folder, dirs_exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        content = read_checkpoint(path)
        for key, value in content["state_dict"].items():
            if "decoder" in key:
                value.fill_(float("nan"))
        torch.save(content, path)
    return str(folder)


def test_a_diverged_model_is_not_scored(there):
    run = diverged(there)
    with pytest.raises(UserError, match=r"failed, for the reasons above: fd, .*nll, pictures; "):
        evaluated(run)
    report = json.loads((there / run / FILE).read_text(encoding="utf-8"))
    assert "fd_digits_v1" not in report["values"] and "elbo" not in report["values"]
    assert "not finite: has the model diverged?" in report["failed"]["fd"]
    assert "not finite: has the model diverged?" in report["failed"]["nll"]


def test_an_error_of_one_process_is_told_by_both(there, by_two):
    result = by_two(diverged(there), "-n", "100", "--metrics", "fd", "nll")  # only one of them has a chunk
    assert result.returncode == 2 and "Traceback" not in result.said, result.said
    assert "has the model diverged?" in result.output


def test_an_assertion_in_a_model_stops_no_process_for_ever(there, by_two):
    """Of a text-less error of the rank that alone has examples; a model without samples is so for both."""
    run = there / "tb_logs/mute/version_0"
    shutil.copytree(there / RUN, run, dirs_exist_ok=True)
    (run / FILE).unlink(missing_ok=True)
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = read_checkpoint(path)
        content["lightning_gen"]["model"] = "helpers.Asserting"
        torch.save(content, path)
    result = by_two(str(run), "-n", "100", "--metrics", "fd", "elbo", "--trust", "helpers")
    report = json.loads((run / FILE).read_text(encoding="utf-8"))
    assert result.returncode == 2 and "elbo" in report["values"], result.said
    assert re.match(r"AssertionError:  \(helpers.py, line \d+\)", report["failed"]["fd"])


def test_values_of_other_data_options_are_not_taken_over(there, capsys):
    before = evaluated(RUN, "--metrics", "elbo")["values"]["elbo"]["value"]
    after = evaluated(RUN, "--metrics", "elbo", "--data.binarize", "dynamic")["values"]["elbo"]["value"]
    assert abs(after - before) > 5
    assert "of another setting (data_options" in capsys.readouterr().out
    kept = json.loads((there / RUN / "evaluation.previous.json").read_text(encoding="utf-8"))
    assert kept["values"]["elbo"]["value"] == before


def test_another_k_measures_only_what_depends_on_it(there, monkeypatch):
    before = evaluated(RUN, "--fresh")
    monkeypatch.setitem(evaluate.METRICS, "fd", evaluate.Metric(None, ""))  # would fail if it were measured
    evaluate.main([RUN, "--k", "7", "--draws", "2000"])
    after = json.loads((there / RUN / FILE).read_text(encoding="utf-8"))
    assert after["complete"] and after["values"]["fd_digits_v1"] == before["values"]["fd_digits_v1"]
    assert after["values"]["nll_is7"]["n"] == 285 and "nll_is5" not in after["values"]
    assert after["values"]["bits_per_dim"]["k"] == 7


def test_what_differs_from_an_earlier_report_is_named(tmp_path):
    path = tmp_path / FILE
    Report(path, {"n": 1, "seed": 0, "k": [5]}, {"torch": "1", "threads": "1"}).write()
    assert Report(path, {"n": 1, "seed": 0, "k": [5]}, {"torch": "1", "threads": "2"}).replaced == ""
    assert Report(path, {"n": 2, "seed": 0, "k": [6]}, {"torch": "2"}, own={"k": ["nll"]}).replaced == "n, torch"


def test_groups_measured_one_by_one_are_a_complete_report(there):
    names = list(evaluate.METRICS)
    assert not evaluated(RUN, "--fresh", "--metrics", *names[:5])["complete"]
    assert evaluated(RUN, "--metrics", *names[5:])["complete"]
    assert evaluated(RUN, "--metrics", "fd")["complete"]


def test_a_run_of_somebody_elses_data_set_needs_trust(there):
    (there / "my_data.py").write_text(
        "from lightning_gen.datamodules.digits import Digits\n\nclass Mine(Digits):\n    pass\n"
    )
    with pytest.raises(UserError, match=r"my_data.*--trust my_data"):
        evaluate.main([RUN, "--data", "my_data.Mine", "--metrics", "elbo"])


PAYLOAD = "class_path: payload.Payload, init_args: {}"
CUSTOM = "class_path: lightning_gen.datamodules.custom.Custom, init_args: {train:"
HOSTILE = {  # entries of a config.yaml, and what is said of them; None where they are not read
    f"trainer: {{callbacks: [{{{PAYLOAD}}}]}}": None,
    f"trainer: {{logger: {{{PAYLOAD}}}}}": None,
    f"model: {{{PAYLOAD}}}": None,
    f"data: {{{PAYLOAD}}}": "--trust payload",
    f"data: {{{CUSTOM} {{{PAYLOAD}}}}}}}": "--trust payload",
    f"data: {{{CUSTOM} payload.Payload}}}}": "--trust payload",
    f"data: {{{CUSTOM} [{{{PAYLOAD}}}]}}}}": "--trust payload",
    "data: {class_path: [payload], init_args: {}}": "is no import path",
    "data: null": "data in the configuration of .* is damaged",
    "data: {class_path: lightning_gen.datamodules.digits.Digits, init_args: 5}": "is damaged",
}


@pytest.mark.parametrize("entry", HOSTILE)
def test_what_lies_in_a_runs_folder_executes_nothing(entry, there, monkeypatch):
    """Somebody else's run names classes beside it; they are not imported, let alone called."""
    run = there / "hostile"
    shutil.copytree(there / RUN, run)
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    (there / "executed").unlink(missing_ok=True)
    (there / "payload.py").write_text("open('executed', 'w').close()\n\nclass Payload:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(there)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) | yaml.safe_load(entry)
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    refused = pytest.raises(UserError, match=HOSTILE[entry]) if HOSTILE[entry] else contextlib.nullcontext()
    try:
        with refused:
            evaluate.main([str(run), "--metrics", "elbo", "-n", "20"])
        assert not (there / "executed").exists() and "payload" not in sys.modules
    finally:
        shutil.rmtree(run)


@pytest.fixture
def sorted_folder(tmp_path):
    """Digits as files, in a folder for each class."""
    data = Digits()
    batch = data.examples("train", torch.arange(600))
    for number, (x, y) in enumerate(zip(batch["x"], batch["y"].tolist(), strict=True)):
        (tmp_path / f"images/{y}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(((x[0] + 1) * 127.5).round().to(torch.uint8).numpy()).save(
            tmp_path / f"images/{y}/{number}.png"
        )
    return tmp_path / "images"


def test_data_sorted_by_class_are_taken_in_random_order(sorted_folder):
    data = Folder(str(sorted_folder), size=8, channels=1)
    s = EvaluationRun(Painter(Digits()), data, find_extractor("raw", "folder", data.spec), n=20)
    y = s.real("test", range(20)).y
    assert len(y.unique()) > 5 and not torch.equal(y, y.sort().values)


def test_broken_images_are_counted_and_the_neighbours_are_right(sorted_folder):
    for path in sorted(sorted_folder.glob("*/*.png"))[::5]:
        path.write_bytes(b"no picture")
    data = Folder(str(sorted_folder), size=8, channels=1, memory=1e-8)
    painter = Painter(Digits())
    s = EvaluationRun(painter, data, find_extractor("raw", "folder", data.spec), n=60)
    assert s.reference_hash()[1] < s.n
    train = s.extract_features("train")
    image = s.examples_at("train", train.positions[7:8]).x
    assert torch.equal(find_extractor("raw", "folder", data.spec)(image)[0], train.features[7])


def test_a_checkpoint_of_another_trainer_is_measured_on_data_that_are_named(there):
    report = evaluated("lightning_logs/version_0", "--data", "digits", "--metrics", "elbo")
    assert report["values"]["elbo"]["n"] == 297


def test_points_are_compared_as_they_are(there):
    report = evaluated("tb_logs/vae-toy/version_0", "-n", 600, "--metrics", "modes", "fd", "memorisation", "cs", "bits")
    assert report["values"]["modes"]["floor"] == 25
    assert report["values"]["high_quality"]["floor"] == pytest.approx(0.9889, abs=0.02)
    assert report["values"]["fd_raw"]["floor"] < 0.1
    assert set(report["inapplicable"]) == {"cs", "bits"}
    assert (there / "tb_logs/vae-toy/version_0/evaluation/density.png").exists()


def test_a_model_without_a_likelihood_is_measured_by_its_samples(there):
    report = evaluated("tb_logs/duel-toy/version_0", "-n", 300, "--trust", "helpers")
    assert {"fd_raw", "modes"} <= set(report["values"])
    assert "knows no likelihood" in report["inapplicable"]["nll"]
    assert "knows no likelihood" in report["inapplicable"]["elbo"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([RUN, "--metrics", "fdd"], ["'fdd'", "did you mean 'fd'", "memorisation"]),
        ([RUN, "--data", "toy"], ["(1, 8, 8)", "(2,)"]),
        ([RUN, "-n", "1"], ["n 1", "at least 2"]),
        ([RUN, "--extractor", "mnist_v1"], ["28", "8"]),
        ([RUN, "--extractor", "nothing"], ["nothing", "digits_v1"]),
        ([RUN, "--k", "0"], ["--k 0"]),
        ([RUN, "--device", "gpu9"], ["gpu9"]),
        ([RUN, "--devices", "100000"], ["100000", "CPU cores"]),
        ([RUN, "--color", "red"], ["--color"]),
        (["nowhere"], ["nowhere", "tb_logs"]),
        (["lightning_logs/version_0"], ["config.yaml", "--data NAME"]),
    ],
)
def test_mistakes_are_one_line(there, arguments, words):
    with pytest.raises(UserError) as error:
        evaluate.main(arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_a_damaged_report_is_named(there):
    (there / RUN / FILE).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        evaluated(RUN, "--metrics", "fd")
    (there / RUN / FILE).unlink()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_whole_chunks_in_order(world):
    everyone = [row for rank in range(world) for rows in rank_chunks(1000, rank, world) for row in rows]
    assert everyone == list(range(1000))
    alone = rank_chunks(1000, 0, 1)
    assert all(rows in alone for rank in range(world) for rows in rank_chunks(1000, rank, world))


# A model that makes the class that it is asked for


def subject(model, n=200, **options):
    data = Digits()
    return EvaluationRun(model, data, find_extractor("auto", "digits", data.spec), n=n, **options)


def test_classes_are_asked_for_and_recognised():
    values = dict(quality.classes(subject(Painter(Digits()))))
    accuracy = values["class_accuracy_digits_v1"]
    assert accuracy.value > 0.9 and accuracy.floor > 0.9
    assert len(accuracy.details["per_class"]) == 10
    assert values["classes_digits_v1"].value == 10


def test_wrong_classes_are_seen():
    values = dict(quality.classes(subject(Painter(Digits(), shift=1))))
    assert values["class_accuracy_digits_v1"].value < 0.1


def test_a_missing_class_shows_in_coverage_and_classes():
    values = dict(quality.density_coverage(subject(Painter(Digits(), only=(0, 1, 2, 3, 4, 5, 6, 7, 8)))))
    covered = values["coverage_digits_v1"].details["per_class"]
    assert covered[9] < 0.3 < min(covered[name] for name in range(9))
    values = dict(quality.classes(subject(Painter(Digits(), only=(3,)))))
    assert values["classes_digits_v1"].value <= 2


def test_copies_of_training_examples_are_found_out():
    values = dict(quality.memorisation(subject(Painter(Digits()))))  # which paints training examples
    assert values["authenticity_digits_v1"].value == 0 and values["nn_ratio_digits_v1"].value == 0
    assert values["nn_ratio_digits_v1"].floor == pytest.approx(1)
    assert values["authenticity_digits_v1"].floor > 0.3


def test_the_grid_of_classes_has_a_row_for_each():
    picture = pictures.per_class(subject(Painter(Digits())))
    assert picture.shape[1] == pytest.approx(picture.shape[2], abs=5)  # ten rows of ten


def test_without_an_extractor_the_reason_is_given():
    with pytest.raises(Inapplicable, match="no such"):
        next(quality.frechet(EvaluationRun(Painter(Digits()), Digits(), "no such network", n=50)))


def test_samples_of_another_shape_are_refused():
    model = Painter(Digits())
    model.sample = lambda n, **_: torch.zeros(n, 1, 9, 9)
    with pytest.raises(UserError, match=r"\(1, 9, 9\).*\(1, 8, 8\)"):
        next(quality.frechet(subject(model)))


def test_random_binarisation_is_not_held_against_the_samples():
    data = Digits(binarize="dynamic")
    s = EvaluationRun(Painter(Digits()), data, find_extractor("auto", "digits", Digits().spec), n=50)
    grey = s.real("test", range(50))[0]
    assert len(grey.unique()) > 10
    assert len(s.map_test_set(["x"], 50, "", lambda batch: {"x": batch["x"]})["x"].unique()) == 2


# During training


def test_watched_values_choose_the_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "val/fd_digits_v1@100"
    usual = ["--model", "vae", "--steps", "60", "--val_every", "20", "--model.ema.vae", "2000"]
    fit.main([*usual, "--watch", "fd@100,kd@100", "--best_by", name, "--name", "watched"])
    fit.main([*usual, "--name", "plain"])
    watched, plain = (tmp_path / f"tb_logs/vae-digits-{tag}/version_0" for tag in ("watched", "plain"))
    summary = json.loads((watched / "summary.json").read_text(encoding="utf-8"))
    assert summary["best"][name] == pytest.approx(min(summary["best"][name], summary["final"][name]))
    assert "val/kd_digits_v1@100" in summary["final"]
    states = [read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (watched, plain)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())  # watching changes nothing
    model = load(watched)  # and can be measured again: the value is that of the averaged weights
    s = EvaluationRun(model, Digits(), find_extractor("auto", "digits", model.spec), n=100, split="val")
    metric = quality.FrechetDistance()
    metric.update(s.extract_features("reference").features, real=True)
    metric.update(s.extract_features("generated").features, real=False)
    assert float(metric.compute()) == pytest.approx(summary["best"][name], rel=1e-4)


def test_best_is_the_highest_where_that_is_better(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value, low in (("val/elbo", False), ("max:val/kl", False), ("val/kl", True)):
        name = value.removeprefix("max:")
        fit.main(["--model", "vae", "--steps", "60", "--val_every", "20", "--best_by", value, "--name", "best"])
        run = max((tmp_path / "tb_logs/vae-digits-best").iterdir())
        scalars = EventAccumulator(str(run)).Reload().Scalars(name)
        seen = [point.value for point in scalars]
        assert len(set(seen)) == 3
        best = json.loads((run / "summary.json").read_text(encoding="utf-8"))["best"]
        assert best[name] == pytest.approx((min if low else max)(seen))
        assert read_checkpoint(run / "checkpoints/best.ckpt")["lightning_gen"]["iteration"] == best["iteration"]


def test_watching_goes_on_after_a_resume_and_on_two_devices(tmp_path, nursery):
    usual = ["--model", "vae", "--steps", "40", "--val_every", "20", "--watch", "fd@150,kd@100"]
    usual += ["--best_by", "val/fd_digits_v1@150", "--trainer.accelerator", "cpu"]
    nursery.fit(*usual, "--name", "one", cwd=tmp_path)
    nursery.fit(*usual, "--name", "two", cwd=tmp_path, ranks=2)
    one, two = (tmp_path / f"tb_logs/vae-digits-{name}/version_0" for name in ("one", "two"))
    finals = [json.loads((run / "summary.json").read_text(encoding="utf-8"))["final"] for run in (one, two)]
    for name in ("val/fd_digits_v1@150", "val/kd_digits_v1@100"):
        assert finals[0][name] == pytest.approx(finals[1][name], rel=1e-2)  # weights differ in the last digits
    nursery.fit("--resume", one, "--steps", "60", cwd=tmp_path)
    assert json.loads((one / "summary.json").read_text(encoding="utf-8"))["iterations"] == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--watch", "fid@100"], ["fid@100", "fd@1000"]),
        (["--watch", "fd@9999"], ["200 validation examples"]),
        (["--watch", "fd@50", "--data", "wide.npy"], ["5000 dimensions", "watch kd"]),
        (["--watch", "fd@50", "--model", "helpers.Still"], ["Still makes no new examples"]),
        (["--watch", "fd", "--data", "shapes"], ["extractor"]),
        (["--best_by", "val/lose"], ["val/lose", "val/loss"]),
    ],
)
def test_what_cannot_be_watched_is_said(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((600, 5000), np.float32))
    with pytest.raises(UserError) as error:
        fit.main([*([] if "--model" in arguments else ["--model", "vae"]), "--steps", "4", *arguments])
    assert all(word in str(error.value) for word in words), error.value
