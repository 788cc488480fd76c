"""The training loop with two players that take several moves, and what belongs to it."""

import io

import lightning as L
import pytest
import torch
from helpers import Duel

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import Toy
from lightning_gen.models.vae import VAE
from lightning_gen.models.vae_base import SMALLEST
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load
from lightning_gen.training.ema import decay
from lightning_gen.training.finite import NonFinite
from lightning_gen.training.noise import BatchNoise, indexed_noise
from lightning_gen.training.speed import choose_iterations_per_batch


@pytest.fixture
def toy():
    return Toy(batch_size=32)


def weights(model, player):
    return torch.cat([p.detach().flatten() for p in model.parameters_of(player)])


def test_players_take_turns(toy, trainer):
    model = Duel(toy.spec)
    run = trainer(max_steps=4, limit_val_batches=0)
    run.fit(model, toy)
    assert model.moves == ["critic", "critic", "generator"] * 4
    assert (model.iteration, model.images) == (4, 4 * 32)


def test_the_trainer_counts_iterations_not_optimizer_steps(toy, trainer):
    """Lightning counts the steps of all optimizers; ours must count once for each iteration, whatever moves."""
    model = Duel(toy.spec, critic_moves=5)
    run = trainer(max_steps=10, limit_val_batches=0)
    run.fit(model, toy)
    assert run.global_step == model.iteration == 10


def test_noise_differs_between_moves_and_iterations_but_not_between_runs():
    noise = BatchNoise(0)
    draws = []
    for iteration, move in ((0, 0), (0, 1), (1, 0), (0, 0)):
        noise.seek(iteration, move, 0, 1)
        draws.append(noise((4, 3), "z"))
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], noise((4, 3), "other"))


def test_noise_of_the_global_batch_is_sliced():
    noise = BatchNoise(7)
    noise.seek(3, 0, 0, 1)
    whole = noise((8, 5), "z")
    parts = []
    for part in range(4):
        noise.seek(3, 0, part, 4)
        parts.append(noise((2, 5), "z"))
    assert torch.equal(torch.cat(parts), whole)


def test_numbered_noise_is_bit_equal_for_any_batch():
    whole = indexed_noise(range(50), (20,), 0, "sample")
    assert torch.equal(whole[13:17], indexed_noise(range(13, 17), (20,), 0, "sample"))
    assert abs(whole.mean()) < 0.1 and abs(whole.std() - 1) < 0.05


def test_accumulation_gives_the_same_weights(toy, trainer):
    results = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = Duel(toy.spec, accumulate=accumulate)
        trainer(max_steps=3, limit_val_batches=0).fit(model, Toy(batch_size=32))
        results.append(weights(model, "generator"))
    assert torch.allclose(*results, atol=1e-6)


def test_accumulation_must_divide_the_batch(toy, trainer):
    with pytest.raises(UserError, match=r"batch of 32 .* 5 equal chunks"):
        trainer(max_steps=1, limit_val_batches=0).fit(Duel(toy.spec, accumulate=5), toy)


def test_clipping_bounds_the_gradient(toy, trainer):
    model = Duel(toy.spec, clip=1e-3)
    norms = []
    model.after_step = lambda player: norms.append(
        torch.cat([p.grad.flatten() for p in model.parameters_of(player)]).norm().item()
    )
    trainer(max_steps=2, limit_val_batches=0).fit(model, toy)
    assert max(norms) <= 1e-3 * 1.001
    assert max(norms) > 0.5e-3


def test_l1_and_weight_decay_shrink_the_weights(toy, trainer):
    sizes = {}
    for name, extra in {"none": {}, "l1": {"l1": 0.1}, "weight_decay": {"weight_decay": 5.0}}.items():
        torch.manual_seed(0)
        model = Duel(toy.spec, optimizers={"generator": {"lr": 1e-2, **extra}})
        trainer(max_steps=30, limit_val_batches=0).fit(model, Toy(batch_size=32))
        sizes[name] = weights(model, "generator").abs().sum()
    assert sizes["l1"] < sizes["none"] and sizes["weight_decay"] < sizes["none"]


def test_learning_rate_follows_its_ramp(toy, trainer):
    model = Duel(toy.spec, lr="1e-2..0@100%", log_every=1)
    rates = []
    model.log_to_loggers = lambda values: rates.append(values["train/lr_critic"])
    trainer(max_steps=4, limit_val_batches=0).fit(model, toy)
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_average_follows_the_weights(toy, trainer):
    """The average is the recursion written out, and what sampling and load use."""
    model = Duel(toy.spec, ema={"generator": 64.0, "critic": 64.0}, lr=1e-2)
    expected = {player: weights(model, player) for player in model.players}
    after_step = model.after_step

    def note(player):
        """Once for each iteration, however often a player moves in it; the generator moves last."""
        after_step(player)
        for name in model.players if player == "generator" else ():
            keep = decay(32, model.images, 64.0)
            expected[name] = keep * expected[name] + (1 - keep) * weights(model, name)

    model.after_step = note
    run = trainer(max_steps=5, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(model, toy)
    for player in model.players:
        average = torch.cat([p.flatten() for p in model.averages[player].parameters()])
        assert torch.allclose(average, expected[player], atol=1e-6)
    assert not torch.allclose(average, weights(model, "generator"), atol=1e-5)
    path = run.default_root_dir + "/ema.ckpt"
    run.save_checkpoint(path)
    loaded = load(path, model=Duel)
    assert torch.allclose(weights(loaded, "generator"), average)
    assert not hasattr(loaded, "averages")
    model.eval()
    assert torch.allclose(loaded.sample(4), model.sample(4))


def test_average_ramps_up():
    assert decay(10, 0, 1e6) < 1e-3  # at first it is the weights themselves
    assert decay(10, 10**9, 100.0) == pytest.approx(0.5**0.1)


@pytest.mark.parametrize("where", ["loss", "term"])
def test_nan_stops_with_player_and_term(toy, trainer, where):
    class Sick(Duel):
        def loss_critic(self, batch, shared):
            loss, _ = super().loss_critic(batch, shared)
            bad = torch.tensor(float("nan")) if self.iteration >= 3 else torch.tensor(0.0)
            return loss + bad, {"healthy": loss.detach() * 0, "sick": bad}

    with pytest.raises(NonFinite, match=r"'critic' became NaN or infinite at iteration 3, first in: sick"):
        trainer(max_steps=20, limit_val_batches=0).fit(Sick(toy.spec, log_every=5), toy)


def test_no_checkpoint_from_a_broken_state(toy, trainer, tmp_path):
    model = Duel(toy.spec)
    run = trainer(max_steps=2, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(model, toy)
    with torch.no_grad():
        model.generator[0].weight[0, 0] = float("inf")
    with pytest.raises(NonFinite, match="a weight became NaN or infinite"):
        run.save_checkpoint(tmp_path / "broken.ckpt")
    assert not (tmp_path / "broken.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizers": {"gen": {"lr": 1e-3}}}, "unknown player 'gen'.*generator"),
        ({"optimizers": {"critic": {"lrr": 1e-3}}}, "unknown option of optimizers.critic 'lrr': did you mean 'lr'"),
        ({"ema": {"gen": 100}}, "unknown player of ema 'gen'"),
        ({"lr": "fast"}, "'fast' is neither a number nor a ramp"),
    ],
)
def test_bad_options(toy, options, text):
    with pytest.raises(UserError, match=text):
        Duel(toy.spec, **options)


def test_validation_is_the_mean_over_all_examples_for_any_batch_size(data28, trainer):
    torch.manual_seed(0)
    data = data28(binarize="threshold")
    model = VAE(data.spec, latent_dim=4, network="mlp", terms={"kl": "0..2@10"})
    results = []
    for batch_size in (3, 20):
        data = data28(binarize="threshold")
        data.batch_size = batch_size
        results.append(trainer().validate(model, data, verbose=False)[0])
    for name, value in results[0].items():
        assert value == pytest.approx(results[1][name], rel=1e-5), name
    one = results[0]
    assert one["val/loss"] == pytest.approx(one["val/reconstruction"] + 2 * one["val/kl"], rel=1e-5)


def test_the_likelihood_bound_honours_k_and_not_the_chunks(data28, monkeypatch):
    data = data28(binarize="threshold")
    data.setup()
    x = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)["x"][:5]
    model = VAE(data.spec, latent_dim=4, network="mlp").eval()
    drawn = []
    draws = model.importance_samples
    model.importance_samples = lambda *a: drawn.append(len(a[-1])) or draws(*a)
    with torch.no_grad():
        whole = model.log_likelihood(x, 37)
        assert drawn == [37]
        monkeypatch.setattr("lightning_gen.models.vae_base.MAX_DECODED_NUMEL", 50 * SMALLEST)
        parts = model.log_likelihood(x, 37)
    assert sum(drawn[1:]) == 37 and len(drawn) == 5
    assert torch.allclose(whole, parts, atol=1e-3)


def test_vae_equals_its_definition(data28):
    """loss = -log p(x|z) + KL with the noise of this step, written out by hand."""
    data = data28(binarize="threshold")
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    model = VAE(data.spec, latent_dim=3, network="mlp", likelihood="bernoulli").eval()
    model.example_indices = batch["index"].tolist()
    loss, _ = model.loss_vae(batch, {})
    mean, log_var = model.encoder(batch["x"]).chunk(2, 1)
    q = torch.distributions.Normal(mean, (log_var / 2).exp())
    z = mean + q.scale * model.noise(tuple(mean.shape))
    p = torch.distributions.Bernoulli(logits=model.decoder(z))
    log_p = p.log_prob((batch["x"] + 1) / 2).flatten(1).sum(1)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert loss.item() == pytest.approx((kl - log_p).mean().item(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"binarize": "dynamic"}])
def test_iterations_in_blocks_are_the_same_iterations(data28, trainer, options):
    """Ten batches handed out at once train as ten batches, bit by bit."""
    results = []
    for block in (1, 2, 5):
        torch.manual_seed(0)
        data = data28(**options)
        data.position.batches_per_fetch = block
        model = VAE(data.spec, latent_dim=3, network="mlp", network_args={"hidden": [9], "dropout": 0.3})
        run = trainer(max_steps=20, max_epochs=-1, limit_val_batches=0)
        run.fit(model, data)
        assert model.iteration == run.global_step == data.position.batches == 20
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_block_size():
    spec = DataSpec(shape=(1, 28, 28))
    assert choose_iterations_per_batch(spec, 128, 5000, 250, 500) == 10
    assert choose_iterations_per_batch(spec, 256, 21500, 1075, 500) == 5
    assert choose_iterations_per_batch(spec, 128, 137, 6, 500) == 1
    assert choose_iterations_per_batch(DataSpec(shape=(3, 256, 256)), 128, 100, 100, 100) == 1


def test_a_callback_that_listens_is_heard_and_changes_nothing(toy, trainer):
    """The short way around Lightning's hooks gives the same weights as the long one."""

    class Listens(L.Callback):
        heard = 0

        def on_before_optimizer_step(self, *_):
            self.heard += 1

    results = []
    for callbacks in ([], [Listens()]):
        torch.manual_seed(0)
        model = Duel(toy.spec, clip=0.1)
        trainer(max_steps=4, limit_val_batches=0, callbacks=callbacks).fit(model, Toy(batch_size=32))
        assert model._direct == (not callbacks)
        results.append(weights(model, "generator"))
    assert callbacks[0].heard == 4 * 3
    assert torch.equal(*results)


def test_free_bits_steer_training_and_not_validation(data28, trainer):
    """Validation is a mean over examples, so it cannot hold a maximum over the means of a batch."""
    values = []
    for terms in ({"kl": 1.0}, {"kl": {"weight": 1.0, "free_bits": 0.5}}):
        torch.manual_seed(0)
        data = data28(binarize="threshold")
        model = VAE(data.spec, latent_dim=4, network="mlp", terms=terms)
        values.append(trainer().validate(model, data, verbose=False)[0]["val/loss"])
        first = []
        model.log_every, model.log_to_loggers = 1, lambda _, m=model, f=first: f.append(m.latest["train/kl"])
        trainer(max_steps=1, limit_val_batches=0).fit(model, data)
        values.append(first[0])
    assert values[0] == values[2]
    assert values[1] < 4 * 0.5 <= values[3]


def test_time_of_validation_is_no_training_time(trainer, data28, monkeypatch):
    """A clock that moves by a second in each validation and not at all in between."""
    from lightning_gen.callbacks import progress

    class Slow(VAE):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            clock[0] += 100.0

        def after_step(self, player):
            clock[0] += 1.0

    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    data, bar = data28(), progress.RunProgress()
    model = Slow(data.spec, latent_dim=2, network="mlp", log_every=2)
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None, "enable_progress_bar": True, "max_epochs": -1}
    trainer(max_steps=6, callbacks=[bar], **options).fit(model, data)
    assert bar.seconds == pytest.approx(206)
    assert bar.training_seconds == pytest.approx(6)
    assert bar.images_per_second == pytest.approx(32)


def test_a_line_every_ten_seconds_where_there_is_no_terminal(data28, trainer, monkeypatch, capsys):
    from lightning_gen.callbacks import progress

    class Steady(VAE):
        def after_step(self, player):
            clock[0] += 4.0

    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    data = data28()
    model = Steady(data.spec, latent_dim=2, network="mlp", log_every=2)
    options = {"enable_progress_bar": True, "max_epochs": -1, "limit_val_batches": 0}
    trainer(max_steps=7, callbacks=[progress.RunProgress()], **options).fit(model, data)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["iteration 3 of 7", "iteration 6 of 7"]  # at 12 and 24 s
    assert lines[0].startswith("iteration 3 of 7: 8 images/s  loss ")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_keeps_iterations_and_time_and_cuts_the_losses(width):
    from rich.console import Console

    from lightning_gen.callbacks.progress import run_bar

    console = Console(width=width, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    bar = run_bar(30_000, console)
    bar.add_task("19,500 images/s  loss_critic 0.6934  loss 1.2345", total=30_000, completed=1_234)
    console.print(bar.get_renderable())
    line = console.export_text().strip("\n")
    assert "1234/30000" in line and "-:--:--" in line and "19,500" in line and "\n" not in line
    assert ("loss 1.2345" in line) == (width > 60) and ("…" in line) == (width == 60)


def test_the_bar_names_the_losses_of_several_players_by_the_players_alone(toy):
    from lightning_gen.callbacks import progress

    model, shown = Duel(toy.spec), progress.RunProgress()
    model.latest = {"train/loss_critic": 0.5, "train/critic/gap": 3.0, "train/loss_generator": 0.25}
    shown._bar, shown._total = progress.run_bar(30), 30
    shown._task = shown._bar.add_task("")
    shown._show(model)
    assert shown._bar.tasks[0].description == "critic 0.5  generator 0.25"


def test_logged_names_of_several_players(toy, trainer):
    model = Duel(toy.spec, log_every=1)
    trainer(max_steps=1, limit_val_batches=0).fit(model, toy)
    assert set(model.latest) == {"train/loss_critic", "train/loss_generator", "train/critic/gap"}
