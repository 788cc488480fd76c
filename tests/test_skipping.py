"""Steps of exceptional gradients are left out; what stays exceptional becomes the rule."""

import math
import random

import pytest
import torch
from helpers import Duel
from test_resume import same

from lightning_gen.commands import fit as fitting
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import Toy
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load, read_checkpoint
from lightning_gen.training.finite import NonFinite
from lightning_gen.training.skipping import MAX_CONSECUTIVE_SKIPS, WARMUP_STEPS, Norms, Skipping, gradient_norm

LIMIT = math.log(5)


def after(count, norm=1.0):
    """The memory after a number of norms that scatter by a factor 2 around one."""
    draws, norms = random.Random(0), Norms()
    for _ in range(count):
        assert norms.update(math.log(norm) + draws.uniform(-0.7, 0.7), LIMIT)
    return norms


@pytest.mark.parametrize("level", [1e-8, 1.0, 1e8])
def test_a_spike_is_left_out_and_hardly_moves_the_rule(level):
    norms = after(300, level)
    before = norms.log_typical
    assert before == pytest.approx(math.log(level), abs=0.2)
    assert not norms.update(math.log(level) + 50, LIMIT)
    assert norms.log_typical - before == pytest.approx(0.01 * LIMIT)
    assert norms.update(math.log(level), LIMIT)
    assert (norms.skipped, norms.in_row) == (1, 0)


def test_the_limit_is_a_factor_of_the_geometric_mean():
    for factor, taken in ((4.9, True), (5.1, False)):
        norms = Norms(seen=200)
        assert norms.update(math.log(factor), LIMIT) == taken


def test_the_first_steps_are_taken():
    norms = Norms()
    assert all(norms.update(40.0 * (n % 2), LIMIT) for n in range(WARMUP_STEPS))
    assert norms.log_typical == pytest.approx(20)
    assert not norms.update(40.0, LIMIT)


@pytest.mark.parametrize("factor", [6.0, 1e3, 1e30])
def test_a_lasting_rise_is_followed(factor):
    norms = after(1000)
    taken = [norms.update(math.log(factor), LIMIT) for _ in range(MAX_CONSECUTIVE_SKIPS + 100)]
    assert taken.index(True) <= MAX_CONSECUTIVE_SKIPS and all(taken[MAX_CONSECUTIVE_SKIPS:])
    assert norms.skipped <= MAX_CONSECUTIVE_SKIPS


def test_a_slow_rise_and_a_fall_cost_no_step():
    norms = after(200)
    assert all(norms.update(0.01 * n, LIMIT) for n in range(2000))
    assert all(norms.update(-5.0, LIMIT) for _ in range(4000))
    assert norms.log_typical == pytest.approx(-5, abs=0.1)


def test_after_a_row_of_spikes_the_rule_finds_back():
    norms = after(200)
    for _ in range(MAX_CONSECUTIVE_SKIPS):
        assert not norms.update(30.0, LIMIT)
    assert norms.update(30.0, LIMIT)  # the last of them
    for _ in range(WARMUP_STEPS + 200):
        norms.update(0.0, LIMIT)
    assert abs(norms.log_typical) < 0.5
    assert not norms.update(30.0, LIMIT)


def parameter(*values):
    p = torch.nn.Parameter(torch.zeros(len(values)))
    p.grad = torch.tensor(values)
    return p


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_norm_that_says_nothing_is_taken_and_not_counted(value):
    rule = Skipping(["all"], 5.0)
    for _ in range(WARMUP_STEPS):
        assert rule.should_step("all", [parameter(1.0)])
    before = rule.get_extra_state()
    assert rule.should_step("all", [parameter(value, 0.0)])
    assert rule.get_extra_state() == before
    assert not rule.should_step("all", [parameter(1e30, 0.0)])  # whose square is infinite


def test_the_norm_is_that_of_all_gradients_together():
    without = torch.nn.Parameter(torch.zeros(2))
    assert gradient_norm([parameter(3.0, 0.0), without, parameter(4.0)]) == 5
    assert gradient_norm([without]) == 0


@pytest.mark.parametrize("skip", [1, 0.0, -3.0, math.nan])
def test_a_factor_that_would_skip_the_typical_is_refused(skip):
    with pytest.raises(UserError, match=r"skip .*above 1"):
        Duel(Toy(batch_size=32).spec, skip=skip)


class Poisoned(Duel):
    """One batch has a huge loss."""

    poison = (25, 1e6)  # iteration and factor

    def on_fit_start(self):
        self.spoilt = []

    def loss_critic(self, batch, shared):
        loss, logs = super().loss_critic(batch, shared)
        iteration, factor = self.poison
        return (loss * factor if self.iteration == iteration else loss), logs

    def _step(self, player):
        before = weights(self, player)
        logs = super()._step(player)
        if torch.equal(before, weights(self, player)):
            self.spoilt.append((self.iteration, player))
        return logs


def weights(model, player):
    return torch.cat([p.detach().flatten() for p in model.parameters_of(player)])


def fit(trainer, steps=30, path=None, resume=None, callbacks=(), **options):
    torch.manual_seed(0)
    data = Toy(batch_size=32)
    model = Poisoned(data.spec, log_every=1, **options)
    run = trainer(
        max_steps=steps, max_epochs=-1, limit_val_batches=0, plugins=AtomicCheckpointIO(), callbacks=list(callbacks)
    )
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    if path is not None:
        run.save_checkpoint(path)
    return model


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_step_of_a_poisoned_batch_is_left_out(trainer, clip):
    """Both moves of the critic in that iteration, and no other; the generator goes on."""
    model = fit(trainer, skip=50.0, clip=clip)
    assert model.spoilt == [(25, "critic")] * 2
    assert model.iteration == 30
    assert model.latest["train/skipped_critic"] == 2
    assert "train/skipped_generator" not in model.latest
    assert not fit(trainer).spoilt


def test_without_a_spike_nothing_changes(trainer, monkeypatch):
    monkeypatch.setattr(Poisoned, "poison", (None, 1.0))
    with_rule, without = fit(trainer, skip=1e6), fit(trainer)
    assert torch.equal(weights(with_rule, "critic"), weights(without, "critic"))
    assert with_rule.latest == without.latest
    assert set(with_rule.state_dict()) - set(without.state_dict()) == {"skipping._extra_state"}
    assert not list(with_rule.skipping.parameters())


@pytest.mark.parametrize("at", [7, 23, 26])
def test_resumed_it_ends_bit_equal(trainer, tmp_path, at):
    """Stopped before the first steps are over, before the spike, and after it."""
    options = {"skip": 50.0, "ema": {"generator": 500.0}}
    fit(trainer, path=tmp_path / "whole.ckpt", **options)
    fit(trainer, steps=at, path=tmp_path / "part.ckpt", **options)
    fit(trainer, path=tmp_path / "parts.ckpt", resume=tmp_path / "part.ckpt", **options)
    whole, parts = read_checkpoint(tmp_path / "whole.ckpt"), read_checkpoint(tmp_path / "parts.ckpt")
    assert whole["state_dict"]["skipping._extra_state"]["critic"]["skipped"] == 2
    assert whole["state_dict"]["skipping._extra_state"]["critic"]["seen"] == 60
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(whole[part], parts[part], part)
    assert load(tmp_path / "whole.ckpt", model=Poisoned).skipping.count("critic") == {"skipped": 2}


def test_nan_is_found_and_not_skipped(trainer, monkeypatch):
    monkeypatch.setattr(Poisoned, "poison", (25, math.nan))
    with pytest.raises(NonFinite, match="'critic' became NaN or infinite at iteration 25"):
        fit(trainer, skip=50.0)


def test_scaled_gradients_are_refused(trainer):
    data = Toy(batch_size=32)
    run = trainer(max_steps=1, limit_val_batches=0)
    run.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(UserError, match=r"skip does not go with .* 16-mixed"):
        run.fit(Duel(data.spec, skip=50.0), data)


def test_init_takes_weights_and_not_the_norms_of_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--model", "vae", "--steps", "30", "--val_every", "30"]
    first = fitting.train(cli.resolve_config(*parse_short_options([*common, "--model.skip", "10"])))
    for options in ([], ["--model.skip", "10"]):
        again = fitting.train(cli.resolve_config(*parse_short_options([*common, "--init", str(first), *options])))
        assert load(again).iteration == 30
    assert load(again, which="last").skipping.norms["vae"].seen == 30
