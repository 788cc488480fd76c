"""The verdict on adversarial training, the callback that comes to it, and what fit.py does about it."""

import json
import re

import pytest
import torch
from helpers import Duel

from lightning_gen.adversarial.stability import VERDICTS, assess, final_over_best, report, suggestions, summary_line
from lightning_gen.callbacks import stability
from lightning_gen.callbacks.stability import Stability
from lightning_gen.callbacks.watch import Watch, trained_extractor
from lightning_gen.commands import fit
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import Toy
from lightning_gen.metrics.extractors import RAW
from lightning_gen.presets import PRESETS
from lightning_gen.protocols import Discriminates
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, read_checkpoint

TOTAL = 100
FD = "val/fd_raw@100"


class Judging(Duel):
    """A game whose critic can be asked."""

    def discriminate(self, x, y=None):
        return self.network("critic")(x).squeeze(1)


class Collapsing(Judging):
    """Makes the same point again and again."""

    def sample(self, n, y=None, seed=0, start=0):
        return super().sample(1, y, seed, 0).expand(n, -1)


class Together(Judging):
    """Its critic judges no single examples."""

    def discriminate(self, x, y=None):
        raise UserError("two at once")


class Classes(Judging):
    """Told the class, which its samples and logits show."""

    classes = 25

    def sample(self, n, y=None, seed=0, start=0):
        self.conditions_for_samples = y
        return torch.stack([y.float(), torch.arange(start, start + n) / 1000], 1)

    def discriminate(self, x, y=None):
        assert len(x) == len(y)
        return 100.0 * (x[:, 0] == y) + 2


def rows(**columns):
    """A history of equally spaced validations of a run of TOTAL iterations; healthy where nothing is said."""
    count = len(next(iter(columns.values())))
    usual = {"logit_real": 1.0, "logit_fake": -1.0, "logit_gap": 2.0, "sign_real": 0.7, "sign_fake": 0.3}
    usual |= {"diversity": 0.9, "duplicates": 0.02, FD.removeprefix("val/"): 5.0}
    columns = {name: [value] * count for name, value in usual.items()} | columns
    every = TOTAL // count
    return [
        {"iteration": every * (k + 1), **{f"val/{name}": values[k] for name, values in columns.items()}}
        for k in range(count)
    ]


def verdict(**columns):
    return assess(rows(**columns), TOTAL).verdict


# The verdict


def test_a_healthy_run_is_healthy_at_each_validation():
    history = rows(diversity=[0.05, 0.1, 0.4, 0.7, 0.9, 1.05, 0.95, 1.0, 0.97, 1.0])
    assert {assess(history[: k + 1], TOTAL).verdict for k in range(10)} == {"healthy"}
    assert assess(history, TOTAL).saw == "diversity 1, duplicates 0.02, logit gap 2"


def test_samples_that_become_alike_have_collapsed():
    falling = [0.8, 0.9, 0.9, 0.5, 0.2, 0.1]
    assert verdict(diversity=falling) == "collapsed"
    assert verdict(diversity=falling[:-1]) == "healthy"  # once is not enough
    assert verdict(diversity=[0.0] * 5) == "collapsed"  # nor does it matter whether they were ever apart
    assert verdict(duplicates=[0.0, 0.0, 0.1, 0.6, 0.7]) == "collapsed"
    assert "diversity 0.1 of" in assess(rows(diversity=falling), TOTAL).saw


def test_at_the_beginning_and_while_it_learns_a_generator_may_make_samples_that_are_alike():
    alike = [0.01] * 10
    assert [assess(rows(diversity=alike)[: k + 1], TOTAL).verdict for k in range(4)][:3] == ["healthy"] * 3
    assert assess(rows(diversity=alike)[:4], TOTAL).verdict == "collapsed"  # at 30 and 40 % of the run
    assert verdict(diversity=[0.01, 0.02, 0.04, 0.08, 0.16], duplicates=[1.0] * 5) == "healthy"


def test_logits_that_explode_have_diverged_at_any_time():
    assert verdict(logit_fake=[-1e3, -2e4]) == "diverged"
    assert assess(rows(logit_real=[1.0, 2e4] + [1.0] * 18)[:2], TOTAL) == ("diverged", "mean logits of 2e+04")


def test_a_large_gap_counts_only_with_samples_that_got_worse():
    gap, distance = [2.0, 5.0, 50.0, 200.0], [9.0, 4.0, 6.0, 13.0]
    assert verdict(logit_gap=gap, **{FD[4:]: distance}) == "diverged"
    assert verdict(logit_gap=gap, **{FD[4:]: [9.0, 4.0, 4.5, 5.0]}) == "healthy"
    assert verdict(logit_gap=[2.0] * 4, **{FD[4:]: distance}) == "healthy"
    assert "3.2 times its best" in assess(rows(logit_gap=gap, **{FD[4:]: distance}), TOTAL).saw


def surely_right(gaps, **columns):
    late = [1.0] * 10
    return {"logit_gap": gaps, "sign_real": late, "sign_fake": [0.0] * 10, **columns}


def test_a_discriminator_that_is_always_right_and_no_better_samples_is_saturated():
    growing, still = [float(k) for k in range(10)], [3.0, *[4.0] * 9]
    assert verdict(**surely_right(growing, **{FD[4:]: still})) == "saturated"
    assert verdict(**surely_right(growing, **{FD[4:]: [*still[:-1], 2.0]})) == "healthy"  # the samples get better
    assert verdict(**surely_right([*growing[:-1], 1.0], **{FD[4:]: still})) == "healthy"
    assert verdict(**surely_right([9.0] * 6 + growing[-4:], **{FD[4:]: still})) == "healthy"  # for a short while
    assert verdict(**surely_right(growing, sign_real=[0.9] * 10, **{FD[4:]: still})) == "healthy"
    without = [{name: row[name] for name in row if name != FD} for row in rows(**surely_right(growing))]
    assert assess(without, TOTAL).verdict == "saturated"  # by the diversity, where no distance is known


def test_the_worst_verdict_is_given():
    assert verdict(logit_fake=[-2e4] * 5, diversity=[0.0] * 5) == "diverged"


def test_a_discriminator_that_judges_no_single_examples_does_not_hide_a_collapse():
    short = [
        {name: row[name] for name in ("iteration", "val/diversity", "val/duplicates")}
        for row in rows(diversity=[0.0] * 9)
    ]
    assert assess(short, TOTAL).verdict == "collapsed"


def test_final_over_best():
    history = rows(**{FD[4:]: [8.0, 2.0, 3.0]})
    assert final_over_best(history) == {FD: {"final": 3.0, "best": 2.0, "ratio": 1.5}}
    below = rows(**{FD[4:]: [8.0, -1.0, 3.0]})  # a kernel distance may be
    assert final_over_best(below)[FD]["ratio"] is None
    found = report(history, assess(history, TOTAL), {})
    assert summary_line(found).endswith("final fd_raw@100 1.5 times its best)")
    assert report([], assess(history, TOTAL), {}) is None


def test_what_is_in_use_is_not_advised():
    options = {"penalties": {"r1": 1.0}, "spectral_norm": "none", "pack": 1, "lr": 1e-3}
    tries = suggestions("collapsed", options)
    assert tries[0] == "spectral norm (--model.spectral_norm discriminator)"
    assert "packing (--model.pack 2)" in tries and "a lower learning rate (--model.lr)" in tries
    assert not any("penalty" in text for text in tries)
    assert "packing" not in " ".join(suggestions("collapsed", {**options, "pack": 2}))
    assert suggestions("diverged", {})[0] == "a gradient penalty"  # no option of a model that has none
    assert suggestions("healthy", {}) == []


# The callback


def measured(model, trainer, data=None, steps=4, watch=None, **options):
    data = data or Toy(batch_size=32)
    callback = Stability(data, options.pop("on_collapse", "warn"), watch)
    run = trainer(
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        callbacks=[*([watch] if watch else []), callback],
        plugins=AtomicCheckpointIO(),
    )
    run.fit(model, data, **options)
    return callback, run


def test_values_are_logged_and_training_is_untouched(trainer):
    models = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = Judging(Toy().spec, ema={"generator": 500.0})
        if watched:
            callback, run = measured(model, trainer)
        else:
            trainer(max_steps=4, limit_val_batches=0).fit(model, Toy(batch_size=32))
        models.append(model.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    assert [row["iteration"] for row in callback.history] == [1, 2, 3, 4]
    last = callback.history[-1]
    for name in stability_names():
        assert float(run.callback_metrics[name]) == pytest.approx(last[name]), name
    assert last["val/logit_gap"] == pytest.approx(last["val/logit_real"] - last["val/logit_fake"])
    assert 0 <= last["val/sign_fake"] <= 1 and 0 < last["val/ema_distance"] < 1


def stability_names():
    sides = [f"val/{kind}_{side}" for kind in ("logit", "sign") for side in ("real", "fake")]
    return [*sides, "val/logit_gap", "val/diversity", "val/duplicates", "val/nearest", "val/ema_distance"]


def test_diversity_and_duplicates_of_the_data_and_of_copies():
    data = Toy()
    x, other = (data.examples("val", torch.arange(k, k + 512))["x"] for k in (0, 512))
    found = stability._variety(x, other, data.spec)
    assert found["val/diversity"] == pytest.approx(1, abs=0.05) and found["val/duplicates"] < 0.05
    copies = stability._variety(x, other[:128].repeat(4, 1), data.spec)
    assert copies["val/diversity"] == pytest.approx(1, abs=0.1) and copies["val/duplicates"] == 1
    half = stability._variety(x, 0.5 * x, data.spec)
    assert half["val/diversity"] == pytest.approx(0.5)
    one = stability._variety(x, x[:1].expand(512, 2), data.spec)
    assert (one["val/diversity"], one["val/duplicates"]) == (0.0, 1.0)
    assert found["val/nearest"] == pytest.approx(1, abs=0.2)  # as near to the data as these are
    noise = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
    assert stability._variety(x, noise, data.spec)["val/nearest"] > 5


def test_samples_that_are_noise_are_too_early_to_judge():
    history = rows(nearest=[30.0, 8.0, 2.5, 1.9, 1.2])
    assert [assess(history[: k + 1], TOTAL).verdict for k in range(5)] == ["early"] * 3 + ["healthy"] * 2
    early = assess(history[:2], TOTAL)
    assert early.saw == "a sample is 8.0 times as far from the data as these are apart"
    assert summary_line(report(history[:2], early, {})).startswith("too early to say (a sample is 8.0 times")
    assert not assess(history, TOTAL).worse_than(early) and suggestions("early", {}) == []  # nothing to warn of
    assert verdict(nearest=[9.0] * 5, diversity=[0.0] * 5) == "collapsed"  # which noise does not excuse


def test_a_conditional_model_is_asked_for_all_classes_and_told_those_of_the_data(trainer):
    model = Classes(Toy().spec)
    callback, _ = measured(model, trainer, steps=1)
    assert set(model.conditions_for_samples.tolist()) == set(range(25))
    row = callback.history[-1]
    assert row["val/logit_fake"] == 102 and row["val/sign_real"] == 1
    assert 2 <= row["val/logit_real"] < 102


def test_a_discriminator_of_several_examples_is_not_asked(trainer):
    callback, _ = measured(Together(Toy().spec), trainer, steps=1)
    assert set(callback.history[-1]) == {"iteration", "val/diversity", "val/duplicates", "val/nearest"}


def test_one_warning_when_it_collapses(trainer, capsys):
    callback, _ = measured(Collapsing(Toy().spec), trainer, steps=10)
    assert callback.verdict.verdict == "collapsed" and not callback.stopped
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: iteration 4: the samples have collapsed: diversity 0 of")
    assert "a lower learning rate (--model.lr)" in lines[0]


def test_the_history_survives_a_resume(trainer, tmp_path):
    def model():
        torch.manual_seed(0)
        return Judging(Toy().spec)

    def watch(data):
        return Watch("fd@100", RAW, data)

    data = Toy(batch_size=32)
    whole, run = measured(model(), trainer, data, watch=watch(data), steps=6)
    assert all(FD in row for row in whole.history)
    data = Toy(batch_size=32)
    _, run = measured(model(), trainer, data, watch=watch(data), steps=3)
    run.save_checkpoint(tmp_path / "half.ckpt")
    assert len(read_checkpoint(tmp_path / "half.ckpt")["callbacks"]["Stability"]["history"]) == 3
    data = Toy(batch_size=32)
    again, _ = measured(
        model(), trainer, data, watch=watch(data), steps=6, ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert again.state_dict() == whole.state_dict()


# fit.py

USUAL = ["--data", "toy", "--data.batch_size", "32", "--steps", "50", "--val_every", "5"]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


ADVERSARIAL = [name for name, row in PRESETS.items() if row.model.endswith(".GAN")]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_what_it_says_to_try_can_be_tried(name):
    """Each option that is written with a value is one that the preset takes."""
    model, _ = cli.instantiate(cli.resolve_config(*parse_short_options(["--model", name])))
    tries = {text for verdict in VERDICTS for text in suggestions(verdict, dict(model.hparams))}
    options = [re.sub(r".*\((.*)\)", r"\1", text).split() for text in tries if "(" in text]
    options = [words for words in options if len(words) > 1]
    assert options
    for words in options:
        cli.instantiate(cli.resolve_config(*parse_short_options(["--model", name, *words])))


def test_stop_saves_and_says_what_to_try(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"stopped at iteration 20: the samples have collapsed: .*Try.*last\.ckpt"
    ) as error:
        fit.main(["--model", "test_stability.Collapsing", *USUAL, "--on_collapse", "stop"])
    assert "\n" not in str(error.value)
    folder = next((tmp_path / "tb_logs").rglob("version_0"))
    found = summary_of(folder)
    assert found["iterations"] == 20 and found["stability"]["verdict"] == "collapsed"
    assert found["stability"]["try"] and found["stability"]["last"]["val/diversity"] == 0
    state = read_checkpoint(folder / "checkpoints/last.ckpt")
    assert state["lightning_gen"]["iteration"] == 20
    assert [row["iteration"] for row in state["callbacks"]["Stability"]["history"]] == [5, 10, 15, 20]
    assert "stability:  collapsed" in capsys.readouterr().out
    fit.main(["--resume", str(folder), "--on_collapse", "warn"])  # it may go on
    found = summary_of(folder)
    assert found["iterations"] == 50 and found["stability"]["verdict"] == "collapsed"
    assert "warning: iteration" not in capsys.readouterr().out  # known before


def test_an_adversarial_model_is_watched_unasked(tmp_path, monkeypatch, capsys):
    """Where the data have an extractor of their own."""
    monkeypatch.chdir(tmp_path)
    few = ["--model", "gan", "--steps", "6", "--val_every", "2"]
    fit.main([*few, "--name", "auto"])
    output = capsys.readouterr().out
    name = "val/fd_digits_v1@200"
    assert f"watched at each validation: {name}" in output and "stability:" in output
    folder = next((tmp_path / "tb_logs").rglob("version_0"))
    found = summary_of(folder)
    history = read_checkpoint(folder / "checkpoints/last.ckpt")["callbacks"]["Stability"]["history"]
    values = [row[name] for row in history]
    assert found["best"][name] == pytest.approx(min(values))
    assert found["stability"]["final_over_best"][name]["ratio"] == pytest.approx(values[-1] / min(values))
    assert "watch: null" in (folder / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["--model", "gan", "--watch", "none"], ["--model", "r3gan-toy"]])
def test_nothing_is_watched(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit.main([*options, "--steps", "2"])
    folder = next((tmp_path / "tb_logs").rglob("version_0"))
    assert not (folder / "checkpoints/best.ckpt").exists()
    assert summary_of(folder)["stability"]["final_over_best"] == {}


def test_fewer_validation_examples_than_usual():
    data = Digits()
    watch = Watch("fd", trained_extractor("digits", data), data, allow_fewer=True)
    watch.check()
    assert watch.names == ["val/fd_digits_v1@200"]
    data.size = lambda split: 99
    watch.check()
    assert watch.names == []


def test_a_model_without_a_discriminator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not isinstance(Duel(Toy().spec), Discriminates)
    with pytest.raises(UserError, match=r"--on_collapse stop: Duel has no discriminator"):
        fit.main(["--model", "helpers.Duel", *USUAL, "--on_collapse", "stop"])
    fit.main(["--model", "helpers.Duel", *USUAL])
    assert summary_of(next((tmp_path / "tb_logs").rglob("version_0")))["stability"] is None


def test_on_collapse_is_checked():
    with pytest.raises(UserError, match=r"--on_collapse 'stopp'.*did you mean 'stop'"):
        cli.resolve_config(*parse_short_options(["--model", "vae", "--on_collapse", "stopp"]))


class Packed(Judging):
    """Takes three examples at once, and has something to say."""

    def __init__(self, spec, **options):
        super().__init__(spec, **options)
        self.batch_multiple = 3 * self.accumulate

    def startup_messages(self, batch):
        return [f"a batch of {batch} is noted"]


def test_the_batch_and_notes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["--data", "toy", "--steps", "2"]
    with pytest.raises(UserError, match="batch_size 32: it must be a multiple of 3"):
        fit.main(["--model", "test_stability.Packed", *few, "--data.batch_size", "32"])
    fit.main(["--model", "test_stability.Packed", *few, "--data.batch_size", "33"])
    assert "a batch of 33 is noted" in capsys.readouterr().out
