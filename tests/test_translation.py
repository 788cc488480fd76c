"""The family of translators: moves, terms, switches, resume, devices, precision, pictures and mistakes."""

import json

import pytest
import torch
from processes import ROOT
from test_resume import StopAt, same

from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.exits import Stopped
from lightning_gen.models.cut import CUT
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.models.pix2pix import Pix2Pix
from lightning_gen.names import resolve
from lightning_gen.pictures import views
from lightning_gen.presets.translation import ROWS
from lightning_gen.protocols import Translates
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load, load_weights, read_checkpoint
from lightning_gen.training.evaluation_mode import evaluation_mode

SMALL = {
    "network": "resnet",
    "network_args": {"width": 4, "blocks": 1},
    "critic_args": {"width": 4, "layers": 2},
    "lr": "1e-3..0@50%..100%",
}
TINY = {"resnet": SMALL["network_args"], "unet": {"width": 4}}


def small(name, **options):
    """A preset's model with tiny networks, and data for it."""
    row = ROWS[name]
    data = OutlineShapes(batch_size=4, size=16, paired=row.data_arguments.get("paired", False))
    chosen = options.get("network", row.arguments["network"])
    arguments = {**row.arguments, "critic_args": SMALL["critic_args"], "network_args": TINY[chosen]} | options
    torch.manual_seed(0)
    return resolve(row.model, {}, "model class")(data.spec, **arguments), data


def losses(model, data, trainer, steps=3, **options):
    """What each iteration logs."""
    seen = []
    model.log_every = 1
    model.log_to_loggers = seen.append
    trainer(max_steps=steps, limit_val_batches=0, **options).fit(model, data)
    return seen


# Moves


def test_the_discriminators_see_translations_that_were_computed_once(trainer):
    model, data = small("cyclegan")
    calls, forward = [], model.generator_ab.forward
    model.generator_ab.forward = lambda x: calls.append(len(x)) or forward(x)
    trainer(max_steps=1, limit_val_batches=0).fit(model, data)
    assert calls == [8, 4]  # translations with what stays the same, and one way of the cycle


def test_without_identity_nothing_is_computed_for_it(trainer):
    model, data = small("cyclegan", terms={"cycle": 10})
    calls, forward = [], model.generator_ba.forward
    model.generator_ba.forward = lambda x: calls.append(len(x)) or forward(x)
    (values,) = losses(model, data, trainer, 1)
    assert calls == [4, 4] and "train/generator/identity" not in values


def test_the_loss_of_the_generators_is_the_sum_of_its_parts(trainer):
    model, data = small("cyclegan", adversarial_weight=3, terms={"cycle": 7, "identity": 2})
    (values,) = losses(model, data, trainer, 1)
    parts = [values[f"train/generator/{name}"] for name in ("adversarial", "cycle", "identity")]
    assert values["train/loss_generator"] == pytest.approx(3 * parts[0] + 7 * parts[1] + 2 * parts[2], rel=1e-5)


def test_pix2pix_shows_its_discriminator_the_source_as_well():
    model, _ = small("pix2pix")
    assert model.discriminator.body[0].in_channels == 6


def test_cut_recognises_the_places_of_an_untouched_picture(trainer):
    """A translation that is its source has the lowest contrastive loss of all."""
    model, data = small("cut", patches=8)
    trainer(max_steps=1, limit_val_batches=0).fit(model, data)
    model.train()
    model._noise.seek(0, 0, 0, 1)
    x, other = torch.randn(2, 4, 3, 16, 16)
    assert (model.contrast(x, x, "t") < model.contrast(x, other, "t")).all()


def test_fastcut_compares_a_mirrored_source_with_its_original(trainer):
    """Of a translator that maps a mirrored picture to the mirrored result, mirroring changes nothing."""
    model, data = small("fastcut", patches=16)
    trainer(max_steps=1, limit_val_batches=0).fit(model, data)
    model._noise.seek(0, 0, 0, 1)
    x, mirrored = torch.randn(4, 3, 16, 16), torch.tensor([True, False, True, False])
    model.generator.features = lambda x: [x, x, x, x, x]
    model.projector = torch.nn.ModuleList(model.projector[0] for _ in range(5))
    made = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    assert torch.allclose(model.contrast(x, made, "t", mirrored), model.contrast(x, x, "t"), atol=1e-5)


def test_the_learning_rate_stays_and_then_falls_to_zero(trainer):
    model, data = small("cyclegan", lr="1e-3..0@50%..100%")
    rates = [values["train/lr_generator"] for values in losses(model, data, trainer, 8)]
    assert rates[:5] == [1e-3] * 5 and rates[-1] < 3e-4
    assert rates == sorted(rates, reverse=True)


# Switches of the GAN family


@pytest.mark.parametrize(
    "options",
    [
        {"penalties": {"r1": 0.1}},
        {"penalties": {"gp": 1, "lecam": 0.1}, "adversarial": "wasserstein"},
        {"adversarial": "relativistic", "penalties": {"r2": {"weight": "auto", "every": 2}}},
        {"adversarial": "hinge", "spectral_norm": "both"},
        {"augment": {"color": 1, "translation": 0.5}},
        {"critic": "dcgan", "critic_args": {"width": 4, "norm": "none"}},
        {"accumulate": 2},
        {"network": "unet"},
    ],
)
@pytest.mark.parametrize("name", ["cyclegan", "pix2pix"])
def test_losses_penalties_and_networks_combine(name, options, trainer):
    model, data = small(name, **options)
    for values in losses(model, data, trainer, 2):
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())


def test_a_penalty_is_of_each_discriminator(trainer):
    model, data = small("cyclegan", penalties={"r1": 0.1})
    (values,) = losses(model, data, trainer, 1)
    assert values["train/discriminator/r1_a"] > 0 and values["train/discriminator/r1_b"] > 0


def test_averaged_weights_translate_outside_of_training(trainer):
    model, data = small("cyclegan", ema={"generators": 100.0})
    trainer(max_steps=3, limit_val_batches=0).fit(model, data)
    x = torch.randn(1, 3, 16, 16)
    with evaluation_mode(model):
        averaged = model.translate(x)
        assert torch.equal(averaged, model.averages["generator_ab"](x).tanh())
        assert not torch.equal(averaged, model.generator_ab(x).tanh())


@pytest.mark.parametrize("name", ROWS)
def test_bfloat16_trains_every_preset(name, trainer):
    model, data = small(name, penalties={"r1": 0.1})
    for values in losses(model, data, trainer, 2, precision="bf16-mixed"):
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())


# Capabilities


@pytest.mark.parametrize("name", ROWS)
def test_translations_lie_in_range_and_keep_any_size(name):
    model, _ = small(name)
    assert isinstance(model, Translates)
    with evaluation_mode(model):
        for direction in model.directions:
            out = model.translate(3 * torch.randn(2, 3, 2 * model.stride, 3 * model.stride), direction)
            assert out.shape == (2, 3, 2 * model.stride, 3 * model.stride) and out.abs().max() <= 1


def test_validation_knows_cycle_identity_and_truth(trainer):
    model, data = small("cyclegan")
    values = trainer().validate(model, data, verbose=False)[0]
    sides = {f"val/{name}" for name in ("cycle_a", "cycle_b", "identity_a", "identity_b")}
    assert sides | {"val/psnr_ab", "val/psnr_ba", "val/l1_ab", "val/l1_ba"} == set(values)


def test_prediction_gives_every_direction(trainer):
    model, data = small("cyclegan")
    (first, *_) = trainer().predict(model, datamodule=data)
    assert set(first) == {"a2b", "b2a"} and first["b2a"].shape == (4, 3, 16, 16)


def test_pictures_show_the_way_there_and_back():
    model, data = small("cyclegan")
    data.setup()
    batch = data.transform(data._splits["val"].fetch(torch.arange(8)))
    with evaluation_mode(model):
        shown = dict(views.draw_all(model, batch, 0))
    assert set(shown) == {"a2b", "b2a", "identity"}
    rows = {name: (picture.shape[1] - 2) / (picture.shape[2] - 2) * 8 for name, picture in shown.items()}
    assert rows == {"a2b": 4, "b2a": 4, "identity": 4}  # source, translation, back, truth; both sides twice


# Resume and devices


def run(folder, trainer, at=None, resume=False):
    model, data = small("cyclegan", pool=6, ema={"generators": 50.0})
    checkpoints = StopAt(folder, at, every=4)
    fit = trainer(
        max_steps=12,
        max_epochs=-1,
        enable_checkpointing=True,
        callbacks=[checkpoints],
        plugins=AtomicCheckpointIO(),
        val_check_interval=5,
        limit_val_batches=1,
        check_val_every_n_epoch=None,
    )
    fit.fit(model, data, ckpt_path=folder / "last.ckpt" if resume else None, weights_only=True)
    return read_checkpoint(folder / "last.ckpt")


@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_resumed_run_has_the_pools_and_schedules_of_an_uninterrupted_one(at, tmp_path, trainer):
    whole = run(tmp_path / "whole", trainer)
    assert whole["state_dict"]["pool_a.images"].any() and whole["state_dict"]["pool_b.images"].any()
    with pytest.raises(Stopped):
        run(tmp_path / "parts", trainer, at=at)
    same(whole, run(tmp_path / "parts", trainer, resume=True))


def test_a_checkpoint_translates_as_its_model(tmp_path, trainer):
    model, data = small("cut")
    fit = trainer(max_steps=2, limit_val_batches=0, plugins=AtomicCheckpointIO())
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "model.ckpt")
    x = torch.randn(2, 3, 16, 16)
    again = load(tmp_path / "model.ckpt")
    with evaluation_mode(model):
        assert torch.equal(again.translate(x), model.translate(x)) and again.spec == model.spec


def test_fine_tuning_starts_with_pools_of_its_own(tmp_path, trainer):
    """From the weights of a run on smaller pictures, with another pool."""
    model, data = small("cyclegan", pool=6)
    fit = trainer(max_steps=2, limit_val_batches=0, plugins=AtomicCheckpointIO())
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "model.ckpt")
    larger = CycleGAN(
        OutlineShapes(size=32).spec, pool=3, network_args=TINY["resnet"], critic_args=SMALL["critic_args"]
    )
    load_weights(larger, tmp_path / "model.ckpt", read_checkpoint(tmp_path / "model.ckpt"), memory=False)
    assert torch.equal(larger.generator_ab.head[1].weight, model.averages["generator_ab"].head[1].weight)
    assert not larger.pool_a.images.any()


TWO = """
import sys, json, torch
import lightning as L
sys.path[:0] = [{tests!r}]
from lightning_gen.cluster.flat import FlatStrategy
from test_translation import ROWS, small

differences = {{}}
for name in ROWS:
    options = {{"network": "resnet"}} if name == "pix2pix" else {{}}
    model, data = small(name, **({{"pool": 6}} if name == "cyclegan" else options))
    model.log_every = 1000
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    run = L.Trainer(max_steps=5, limit_val_batches=0, accelerator="cpu", devices=2, use_distributed_sampler=False,
                    strategy=FlatStrategy(), **quiet)
    run.fit(model, data)
    mine = torch.cat([p.detach().flatten() for p in model.state_dict().values()])
    both = model.all_gather(mine)
    differences[name] = (both[0] - both[1]).abs().max().item()
    if run.is_global_zero:
        torch.save(model.state_dict(), {folder!r} + f"/{{name}}.pt")
if run.is_global_zero:
    json.dump(differences, open({folder!r} + "/result.json", "w"))
"""


def test_two_processes_train_every_preset_as_one_does(tmp_path, trainer, nursery):
    """Weights and pools: equal on both ranks, and those of one process up to rounding."""
    (tmp_path / "two.py").write_text(TWO.format(tests=str(ROOT / "tests"), folder=str(tmp_path)))
    nursery.run(tmp_path / "two.py", cwd=tmp_path, ranks=2)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == dict.fromkeys(ROWS, 0.0)
    for name in ROWS:
        options = {"network": "resnet"} if name == "pix2pix" else {"pool": 6} if name == "cyclegan" else {}
        model, data = small(name, **options)
        trainer(max_steps=5, limit_val_batches=0).fit(model, data)
        two = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, value in model.state_dict().items():  # five translators' steps magnify the rounding of a picture
            assert torch.allclose(value, two[key], atol=2e-2 if "pool" in key else 2e-3), f"{name}: {key}"


# Mistakes: one clear line each, before training starts

PAIRS = OutlineShapes(size=16).spec
GREY = PAIRS._replace(shape=(1, 16, 16))
MISTAKES = [
    (lambda: CycleGAN(Digits().spec, **SMALL), "translates between two sides.*--data unpaired"),
    (lambda: Pix2Pix(PAIRS, **SMALL), "learns from pairs.*--data.paired true"),
    (lambda: CycleGAN(PAIRS, **SMALL, terms={"cyle": 1}), "did you mean 'cycle'"),
    (lambda: CUT(PAIRS, **SMALL, terms={"cycle": 1}), "needs a way back"),
    (lambda: CycleGAN(PAIRS, **SMALL, terms={"l1": 1}), "no pairs"),
    (lambda: CycleGAN(PAIRS, **SMALL, adversarial="hing"), "did you mean 'hinge'"),
    (lambda: CycleGAN(PAIRS, **SMALL, penalties={"r3": 1}), "unknown"),
    (lambda: CycleGAN(PAIRS, **SMALL, spectral_norm="all"), "known: both, discriminator, none"),
    (lambda: CycleGAN(PAIRS, **SMALL, pool=-1), "pool -1"),
    (lambda: CycleGAN(PAIRS, network_args={"width": 4}), "at least 24 pixels"),
    (lambda: CUT(PAIRS, **{**SMALL, "network": "unet", "network_args": {}}), r"needs a translator with .features"),
    (lambda: CUT(PAIRS, **SMALL, temperature=0.0), "temperature 0"),
    (
        lambda: CUT(GREY, **SMALL),
        r"by one network, and these sides have 1 and 3 channels: .*--data\.channels, or take pix",
    ),
    (
        lambda: CycleGAN(GREY, **SMALL, terms={"identity": 1}),
        r"have 1 and 3 channels: give --model\.terms\.identity null",
    ),
    (lambda: CycleGAN(PAIRS._replace(shape_b=(3, 16, 32)), **SMALL), "keeps the size"),
    (
        lambda: CycleGAN(PAIRS, penalties={"r1": 1}, critic_args={"width": 4, "layers": 2, "norm": "batch"}),
        "without batch norm",
    ),
    (lambda: CycleGAN(PAIRS, **SMALL).translate(torch.zeros(1, 3, 16, 16), "a2c"), "direction of CycleGAN"),
    (lambda: small("pix2pix")[0].translate(torch.zeros(1, 3, 16, 16), "b2a"), "known: a2b"),
]


@pytest.mark.parametrize(("make", "text"), MISTAKES)
def test_mistakes_are_one_line(make, text):
    with pytest.raises(UserError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)
