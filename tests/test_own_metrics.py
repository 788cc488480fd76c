"""Metrics of the user's own: what they are given, what becomes of their values, and what is said of their mistakes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import Painter
from processes import MEASURE

from lightning_gen.benchmarking import cells
from lightning_gen.commands import evaluate, fit
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import Toy
from lightning_gen.evaluation import own
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.evaluation.groups import METRICS, find_metric
from lightning_gen.evaluation.report import FILE, OWN

RUN = Path("tb_logs/vae-digits/version_0")
METRIC = """
def brightness(real, fake):
    \"\"\"Mean grey level of the samples, and how far it is from that of real examples.

    More of it.
    \"\"\"
    level = fake.double().mean()
    return {"level": level, "distance": float((level - real.double().mean()).abs())}


brightness.better = {"distance": "lower"}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a short run."""
    folder, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(folder)
    try:
        fit.main(["--model", "vae", "--steps", "4", "--trainer.enable_progress_bar", "false"])
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(trained, monkeypatch):
    """The folder, with an empty report, and without modules that another test has left there."""
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which may be taken for that of a file of the same second
    (RUN / FILE).unlink(missing_ok=True)
    yield trained
    for path in trained.glob("*.py"):
        sys.modules.pop(path.stem, None)
        path.unlink()
    shutil.rmtree(trained / "__pycache__", ignore_errors=True)


def module(name, text):
    """A module of the working folder, as it is on the disk now."""
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    sys.modules.pop(name, None)


def evaluated(*metrics):
    evaluate.main([str(RUN), "-n", "100", "--metrics", *metrics])
    return json.loads((RUN / FILE).read_text(encoding="utf-8"))


def digits_run(n=150):
    return EvaluationRun(Painter(Digits()), Digits(), "no extractor is needed", n=n)


def test_a_function_is_given_all_examples_as_they_are_compared(place):
    module("mine", METRIC)
    s = digits_run()
    real, fake, floor = (
        torch.cat([part.x for part in s._examples(name)]) for name in ("reference", "generated", "floor")
    )
    assert real.dtype == fake.dtype == torch.uint8 and len(fake) == 150 and fake.max() > 200
    values = dict(find_metric("mine.brightness").measure(s))
    assert list(values) == ["brightness.level", "brightness.distance"]
    level, distance = values.values()
    assert level.value == pytest.approx(float(fake.double().mean())) and level.n == 150 and level.better is None
    assert level.floor == pytest.approx(float(floor.double().mean()))
    assert distance.value == pytest.approx(float((fake.double().mean() - real.double().mean()).abs()))
    assert distance.better == "lower" and level.how == distance.how
    assert (
        level.how == "Mean grey level of the samples, and how far it is from that of real examples. (mine.brightness)"
    )


def test_points_are_in_their_own_units(place):
    module(
        "mine", "def extent(real, fake):\n    return {'largest': real.abs().max(), 'type': real.is_floating_point()}"
    )
    data = Toy(name="ring8")
    model = Painter(Digits())
    model.spec, model.classes, model.sample = data.spec, 0, lambda n, **_: torch.zeros(n, 2)
    values = dict(find_metric("mine.extent").measure(EvaluationRun(model, data, "none", n=50)))
    batch = data.examples("test", torch.arange(data.size("test")))["x"]
    assert 0 < values["extent.largest"].value <= float(batch.abs().max()) and values["extent.type"].value == 1


CLASSIFIER = """
import torch


def two_sample(real, fake):
    x = torch.cat([real, fake]).flatten(1).float() / 255
    y = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))])
    net = torch.nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real.zero_()
    return {"loss": loss.detach()}
"""


def test_a_function_may_train_and_its_random_numbers_are_its_own(place):
    module("mine", CLASSIFIER)
    before = torch.get_rng_state()
    with torch.inference_mode():
        one, two = (dict(find_metric("mine.two_sample").measure(digits_run()))["two_sample.loss"] for _ in range(2))
    assert one.value == two.value and one.floor == two.floor and 0 < one.value < 1
    assert torch.equal(before, torch.get_rng_state())


def test_values_are_in_the_report_beside_the_others(place, capsys):
    module("mine", METRIC)
    report = evaluated("fd", "mine.brightness")
    assert list(report["done"]) == ["fd", "mine.brightness"] and not report["complete"]
    value = report["values"]["brightness.distance"]
    assert value["better"] == "lower" and value["n"] == 100 and value["floor"] < value["value"]
    assert "brightness.distance" in capsys.readouterr().out
    assert list(report["setting"][OWN]) == ["mine.brightness"]


def test_all_stands_for_what_applies(place):
    module("mine", METRIC)
    report = evaluated("all", "mine.brightness", "--k", "3", "--draws", "100")
    assert report["complete"] and "elbo" in report["values"] and "brightness.level" in report["values"]
    assert "cycle" not in report["inapplicable"]


COUNTS = """
def counted(real, fake):
    with open("calls", "a") as file:
        file.write("x")
    return {"n": len(fake)}
"""


def test_a_function_is_called_again_only_where_its_code_has_changed(place):
    module("mine", COUNTS)
    module("other", METRIC)
    fd = evaluated("fd", "mine.counted", "other.brightness")["values"]["fd_digits_v1"]
    assert Path("calls").read_text() == "xx"  # of the samples and of the floor
    report = evaluated("mine.counted", "elbo")
    assert Path("calls").read_text() == "xx" and set(report["setting"][OWN]) == {"mine.counted", "other.brightness"}
    module("mine", COUNTS.replace("len(fake)", "len(fake) + 1"))
    report = evaluated("mine.counted")
    assert Path("calls").read_text() == "xxxx" and report["values"]["counted.n"]["value"] == 101
    assert report["values"]["fd_digits_v1"] == fd and "brightness.level" in report["values"]
    module("again", COUNTS.replace("len(fake)", "7"))
    report = evaluated("again.counted")
    assert "mine.counted" not in report["done"] and "mine.counted" not in report["setting"][OWN]
    assert report["values"]["counted.n"]["value"] == 7
    assert OWN not in evaluated("fd", "--seed", "1")["setting"]


WRONG = {
    "return 3": "mine.f gives 3: it must give numbers by name",
    "return {}": "mine.f gives {}: it must",
    "return {'a': 'b'}": "mine.f: a is 'b': it must be a finite number",
    "return {'a': None}": "mine.f: a is None: it must be one number",
    "return {'a': fake}": "it must be one number",
    "return {'a': float('inf')}": "mine.f: a is inf: it must be a finite number",
    "return {'b': 1}": "mine.f gives b of the samples, and not a",
    "return {'a': 1 / 0}": "ZeroDivisionError: division by zero (mine.py, line 2)",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_with_a_function_fails_its_group_alone(place, line):
    module("mine", f"def f(real, fake):\n    {line}\n\nf.better = {{'a': 'higher'}}\n")
    with pytest.raises(UserError, match=r"failed, for the reasons above: mine.f; the rest is saved"):
        evaluated("mine.f", "fd")
    report = json.loads((RUN / FILE).read_text(encoding="utf-8"))
    assert WRONG[line] in report["failed"]["mine.f"] and "\n" not in report["failed"]["mine.f"]
    assert list(report["values"]) == ["fd_digits_v1"]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (["mine.nothing"], "cannot import metric 'mine.nothing'"),
        (["nowhere.f"], "cannot import metric 'nowhere.f'"),
        (["mine.LEVELS"], "the metric mine.LEVELS is a int: it must be a function"),
        (["mine.ranked"], "mine.ranked.better is {'a': 'best'}"),
        (["mine.brightness", "other.brightness"], "the values of mine.brightness and of other.brightness would"),
        (["brightness"], "unknown metric 'brightness'"),
    ],
)
def test_mistakes_in_names_are_one_line_before_anything_is_measured(place, metrics, words):
    module("mine", METRIC + "LEVELS = 256\n\ndef ranked(real, fake):\n    pass\n\nranked.better = {'a': 'best'}\n")
    module("other", METRIC)
    with pytest.raises(UserError) as error:
        evaluated(*metrics)
    assert words in str(error.value) and not (RUN / FILE).exists()


def test_two_processes_give_the_values_of_one(place, nursery):
    module("mine", METRIC + CLASSIFIER)
    names = ("mine.brightness", "mine.two_sample")
    one = evaluated(*names)["values"]
    arguments = [RUN, "-n", "100", "--metrics", *names, "--devices", 2, "--fresh"]  # the first rank has no example
    nursery.run(MEASURE, *arguments, cwd=place, ranks=2)
    two = json.loads((RUN / FILE).read_text(encoding="utf-8"))["values"]
    assert set(one) == set(two) == {"brightness.level", "brightness.distance", "two_sample.loss"}
    for name, value in one.items():
        for key in ("value", "floor"):
            assert two[name][key] == pytest.approx(value[key], rel=1e-6), name


def test_an_error_of_the_process_that_computes_is_told_by_both(place, nursery):
    module("mine", "def f(real, fake):\n    raise RuntimeError('no good')\n")
    result = nursery.run(MEASURE, RUN, "--metrics", "mine.f", "--devices", 2, cwd=place, ranks=2, ok=False)
    assert result.returncode == 2 and "Traceback" not in result.said, result.said
    assert "RuntimeError: no good (mine.py, line 2)" in result.output


def test_a_report_names_no_module_that_is_imported(place):
    """What lies in a run's folder executes nothing, and a metric that is typed lets no checkpoint import its module."""
    module("mine", METRIC)
    evaluated("mine.brightness")
    module("mine", "open('executed', 'w').close()\n" + METRIC)
    assert "brightness.level" in evaluated("fd")["values"] and not Path("executed").exists()
    path = RUN / "checkpoints/last.ckpt"
    before = path.read_bytes()
    content = torch.load(path, weights_only=True)
    content["lightning_gen"]["model"] = "mine.Model"
    torch.save(content, path)
    try:
        with pytest.raises(UserError, match="--trust mine"):
            evaluated("mine.brightness", "--which", "last")
    finally:
        path.write_bytes(before)
        Path("executed").unlink()


def test_cells_of_a_benchmark_know_by_which_code_they_were_measured(place):
    module("mine", METRIC)
    code = own.code_hashes(["mine.brightness"])
    done = {"only": None, "evaluation": {"setting": {}}}
    assert cells._covers(done, ["fd"]) and cells._covers(done, None) and cells._covers(done, ["all", "nll"])
    assert not cells._covers(done, ["mine.brightness"])
    assert cells._both(None, ["mine.brightness"]) == ["all", "mine.brightness"] and cells._both(None, ["fd"]) is None
    more = {"only": ["all", "mine.brightness"], "evaluation": {"setting": {OWN: code}}}
    assert cells._covers(more, ["mine.brightness", *METRICS]) and cells._covers(more, None)
    module("mine", METRIC + "\n")
    assert not cells._covers(more, ["mine.brightness"]) and cells._covers(more, ["fd"])
