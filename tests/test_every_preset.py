"""The conformance test: a preset is tested by being in the table."""

from pathlib import Path

import pytest
import torch
from test_tags import is_known

from lightning_gen.callbacks.progress import RunProgress
from lightning_gen.callbacks.stability import Stability
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.toy import Toy
from lightning_gen.models.gan import GAN
from lightning_gen.names import resolve
from lightning_gen.pictures.views import draw_all
from lightning_gen.presets import PRESETS
from lightning_gen.protocols import (
    Encodes,
    Inverts,
    Likelihood,
    Posterior,
    Reconstructs,
    Samples,
    SamplesClasses,
    Solves,
    Tokenises,
    Translates,
)
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load, read_checkpoint
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.scalar_tags import current_tag, scalar_tag

GOLDEN = Path(__file__).parent / "golden" / "losses.txt"
GOLDEN_STEPS = 5
STEPS_OF_ALL = 5  # in which each player of each preset has a turn
SIGNIFICANT = (7, 12)  # of the columns: the first loss in float32, all in float64
EMBEDDED = {"digits": Digits, "toy": Toy, "outline-shapes": OutlineShapes}


@pytest.fixture(params=PRESETS)
def preset(request):
    return PRESETS[request.param]


@pytest.fixture
def data(preset, data28):
    options = {name: value for name, value in preset.data_arguments.items() if name != "batch_size"}
    if preset.data in EMBEDDED:
        return EMBEDDED[preset.data](batch_size=2 if preset.data == "outline-shapes" else 32, **options)
    return data28(**options)


def made(model, data):
    """What a model makes, of a fixed seed or of fixed examples."""
    if isinstance(model, Samples):
        return [model.sample(4, seed=3)]
    batch = data.examples("val", torch.arange(4))
    return [model.translate(batch[direction[0]], direction) for direction in model.directions]


@pytest.fixture
def model(preset, data):
    torch.manual_seed(0)
    return resolve(preset.model, {}, "model class")(data.spec, **preset.arguments)


def test_every_parameter_belongs_to_one_player(model):
    owned = [id(p) for player in model.players for p in model.parameters_of(player)]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in model.parameters()}


def no_shift_matters(model):
    """Whether the game is about differences of logits alone, so that the discriminator's last bias has no effect."""
    pair, (real, fake) = getattr(model, "pair", None), 5 * torch.randn(2, 50)
    return pair is not None and torch.allclose(pair.discriminator(real, fake), pair.discriminator(real + 1, fake + 1))


def test_a_loss_moves_its_player_and_nobody_else(model, data, trainer):
    """After each move only the mover's parameters have changed, by finite amounts; after three, all of them have."""
    seen, still = {}, {player: set(map(id, model.parameters_of(player))) for player in model.players}

    def after_step(player):
        for name in model.players:
            now = torch.cat([p.detach().flatten() for p in model.parameters_of(name)])
            if name in seen:
                assert now.isfinite().all()
                assert (now != seen[name]).any() == (name == player)
            seen[name] = now
        for parameter in model.parameters_of(player):
            assert parameter.grad is not None and parameter.grad.isfinite().all()
            if parameter.grad.any():
                still[player].discard(id(parameter))

    for name in model.players:
        seen[name] = torch.cat([p.detach().flatten() for p in model.parameters_of(name)])
    model.after_step = after_step
    rounds = next(n for n in range(1, 10) if len(set(model.update_order(n - 1))) == len(model.players))
    trainer(max_steps=3 * rounds, limit_val_batches=0).fit(model, data)
    assert model.iteration == 3 * rounds
    # a branch that starts at 0 has its first gradient in a later move
    if no_shift_matters(model):
        still["discriminator"].discard(id(model.discriminator.head.bias))
    assert still == {player: set() for player in model.players}, "parameters without gradient"


def test_checkpoint_round_trip(model, data, trainer, tmp_path):
    run = trainer(max_steps=2, plugins=AtomicCheckpointIO())
    run.fit(model, data)
    path = tmp_path / "model.ckpt"
    run.save_checkpoint(path)
    assert read_checkpoint(path)["lightning_gen"]["iteration"] == 2
    again = load(path)
    same = type(model).load_from_checkpoint(path, weights_only=True).eval()
    assert again.iteration == 2
    assert again.spec == model.spec
    with evaluation_mode(model):
        for other in (again, same):
            assert all(map(torch.equal, made(other, data), made(model, data)))


def test_samples_or_translations(model, data):
    assert isinstance(model, Samples | Translates)
    if isinstance(model, Translates):
        with evaluation_mode(model):
            pictures = made(model, data)
        assert [x.shape[1:] for x in pictures] == [data.spec.shape] * len(pictures)  # both sides have one shape here
        assert all(x.min() >= -1 and x.max() <= 1 for x in pictures)
        return
    with evaluation_mode(model):
        whole = model.sample(9, seed=1)
        parts = torch.cat([model.sample(2, seed=1), model.sample(7, seed=1, start=2)])
    assert whole.shape == (9, *data.spec.shape)
    assert data.spec.values == "real" or (whole.min() >= -1 and whole.max() <= 1)
    assert (whole - parts).abs().max() <= 2 / 255  # within one grey level
    with evaluation_mode(model):
        assert (model.sample(9, seed=2) - whole).abs().max() > 1e-3


def leave_zero(model):
    """Layers that start at 0, as the last one of a denoiser, hide what is before them."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)


def test_capabilities(model, data):
    data.setup()
    leave_zero(model)
    batch = data.examples("val", torch.arange(6))
    with evaluation_mode(model):
        for name, picture in draw_all(model, batch, seed=0):
            assert picture.dtype == torch.uint8 and picture.shape[0] == 3, name
        if isinstance(model, Translates):
            return
        x, y = batch["x"], batch["y"]
        if isinstance(model, Reconstructs):
            assert model.reconstruct(x, y).shape == x.shape
        if isinstance(model, Encodes):
            assert model.decode(model.encode(x, y), y).shape == x.shape
        if isinstance(model, Likelihood):
            few, many = model.log_likelihood(x, 1, y), model.log_likelihood(x, 50, y)
            assert few.shape == (6,) and many.mean() > few.mean()
        if isinstance(model, SamplesClasses) and model.classes:
            assert not torch.equal(model.sample(6, y=y), model.sample(6, y=(y + 1) % model.classes))


def test_gradients_in_the_input(model, data):
    """Of all but tokens: a code, or a picture, can be optimised through a model."""
    batch = data.examples("val", torch.arange(6))
    x, y = batch.get("x"), batch.get("y") if isinstance(model, SamplesClasses) and model.classes else None
    maps = {}
    leave_zero(model)
    if isinstance(model, Solves) and model.sampling.solver == "ddpm":  # whose first step forgets z where alpha is 0
        model.sampling = model.sampling._replace(solver="ddim")
    if isinstance(model, Translates):
        maps["translate"] = (lambda a: model.translate(a, "a2b"), batch["a"])
    elif not isinstance(model, Tokenises):
        maps["decode"] = (lambda z: model.decode(model.draw(z), y), torch.randn(6, model.draw_dim))
    if isinstance(model, Encodes):
        maps |= {"encode": (lambda x: model.encode(x, y), x), "reconstruct": (lambda x: model.reconstruct(x, y), x)}
    model.eval()
    for name, (use, given) in maps.items():
        seen = given.clone().requires_grad_()
        slope = torch.autograd.grad(use(seen).square().sum(), seen)[0]
        assert slope.isfinite().all() and slope.any(), name


def test_validation_names_what_it_reports(model, data, trainer):
    values = trainer().validate(model, data, verbose=False)[0]
    trained_for = isinstance(model, Reconstructs) and not isinstance(model, Inverts)
    assert trained_for == ("val/reconstruction" in values)
    if isinstance(model, Likelihood):
        assert values["val/nll_is8"] <= -values["val/elbo"] + 1e-3
    if isinstance(model, Posterior) and "val/active_units" in values:
        assert 0 <= values["val/active_units"] <= model.latent_dim


def test_tags_are_known_words(model, data, trainer):
    """In all that a run logs: of the model, its progress, and of a GAN its stability."""
    tags = set()
    model.log_every, model.log_to_loggers = 1, tags.update
    callbacks = [RunProgress(), *([Stability(data)] if isinstance(model, GAN) else [])]
    run = {"max_steps": STEPS_OF_ALL, "check_val_every_n_epoch": None, "val_check_interval": STEPS_OF_ALL}
    trainer(callbacks=callbacks, enable_progress_bar=True, limit_val_batches=1, **run).fit(model, data)
    assert {f"train/{scalar_tag(model, player, 'loss')}" for player in model.players} < tags
    assert "train/images_per_second" in tags and any(tag.startswith("val/") for tag in tags)
    assert sorted(tag for tag in tags if not is_known(tag)) == []
    assert sorted(tag for tag in tags if current_tag(model, tag) != tag) == []


def losses_of(model, data, trainer, steps):
    """Of each iteration; where there are several players, of each in turn."""
    keys, losses = [f"train/{scalar_tag(model, player, 'loss')}" for player in model.players], []
    model.log_every = 1
    model.log_to_loggers = lambda values: losses.extend(values[key] for key in keys if key in values)
    trainer(max_steps=steps, limit_val_batches=0).fit(model, data)
    return losses


@pytest.fixture
def golden(preset, request):
    """Compares losses with those of the preset's row in a column of the file, or writes them there."""
    name = next(name for name, row in PRESETS.items() if row is preset)

    def compare(column, losses, **tolerances):
        rows = {key: columns for key, *columns in (line.split(" | ") for line in GOLDEN.read_text().splitlines())}
        if request.config.getoption("--update-golden"):
            rows.setdefault(name, ["", ""])[column] = " ".join(f"{loss:.{SIGNIFICANT[column]}g}" for loss in losses)
            GOLDEN.write_text("".join(f"{' | '.join([key, *rows[key]])}\n" for key in sorted(rows)))
        assert losses == pytest.approx([float(loss) for loss in rows[name][column].split()], **tolerances)

    return compare


@pytest.fixture
def double(monkeypatch):
    """Float64 for all that is drawn, stored or computed.

    Processors differ in float32 from the first noise on: one with AVX-512 draws normal numbers by other code than one
    without, and Adam makes of a gradient's last digit a whole step.
    """
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what asks for full precision gets more
    yield
    torch.set_default_dtype(torch.float32)


def test_golden_losses(double, model, data, trainer, golden, monkeypatch):
    """5 iterations on the CPU. A changed value is explained in CHANGELOG.md under "Results may change"."""
    transform = data.transform
    monkeypatch.setattr(data, "transform", lambda *given, **options: in_double(transform(*given, **options)))
    losses = losses_of(model, data, trainer, GOLDEN_STEPS)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    golden(1, losses, rel=1e-6, abs=1e-9)


def in_double(batch):
    """And no two pixels alike: of wgan's clipped weights and a constant ground sums are 0, at the kink of a ReLU."""
    drawn = torch.Generator().manual_seed(0)
    return {
        name: x.double() + 1e-4 * torch.rand(x.shape, generator=drawn) if x.is_floating_point() else x
        for name, x in batch.items()
    }


def test_golden_first_loss_in_float32(model, data, trainer, golden):
    """What users compute in; later iterations depend on the processor."""
    golden(0, losses_of(model, data, trainer, 1), rel=1e-4, abs=1e-5)
