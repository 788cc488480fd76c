"""Plain Lightning: Trainers with loaders of the user's own, odd Trainers, few examples, and mistakes in Python."""

import json

import lightning as L
import numpy as np
import pytest
import torch
from helpers import Duel
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch.utils.data import DataLoader, TensorDataset

from lightning_gen import GAN, VAE
from lightning_gen.cluster.launch import Launch
from lightning_gen.cluster.preflight import world_size
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.loader import EvalLoader
from lightning_gen.datamodules.order import Order
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.sources import Tensors
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import Toy
from lightning_gen.models.autoencoder import Autoencoder
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.models.hierarchical import HierarchicalVAE
from lightning_gen.models.vaegan import VAEGAN
from lightning_gen.models.vqvae import VQVAE
from lightning_gen.storage.checkpoints import load
from lightning_gen.training.lightning_use import read_batch
from lightning_gen.training.validation import Means

DIGITS = DataSpec((1, 8, 8), size=100, num_classes=10)
TEXTS = DataSpec((10,), "text", "tokens", vocab=tuple("abcde"))
X = torch.linspace(0, 1, 40 * 64).view(40, 1, 8, 8)
Y = torch.arange(40) % 10


def small(spec=DIGITS, **options):
    return VAE(spec, latent_dim=2, network_args={"hidden": [8]}, **options)


class Pictures(torch.utils.data.Dataset):
    """Dicts, as of Hugging Face."""

    def __len__(self):
        return len(X)

    def __getitem__(self, k):
        return {"pixel_values": X[k], "label": int(Y[k])}


# A loader without a datamodule


@pytest.mark.parametrize(
    "dataset",
    [TensorDataset(X), TensorDataset(X, Y), Pictures(), X, TensorDataset((X * 255).to(torch.uint8), Y)],
    ids=["tuple", "labels", "dict", "tensor", "uint8"],
)
def test_the_usual_forms_of_batches_train(dataset, trainer):
    model = small()
    run = trainer(max_steps=4)
    run.fit(model, DataLoader(dataset, batch_size=10), DataLoader(dataset, batch_size=10))
    assert model.iteration == 4 and torch.isfinite(run.callback_metrics["val/loss"])
    (first, *_) = run.predict(model, DataLoader(dataset, batch_size=10))
    assert first.shape == (10, 1, 8, 8)


def test_a_validation_does_not_depend_on_the_batches_of_a_loader(trainer):
    """The last, smaller batch took the noise of other examples."""
    model = small().eval()
    values = [trainer().validate(model, DataLoader(X, size), verbose=False)[0] for size in (40, 12)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_conditional_model_finds_the_labels(trainer):
    model = small(conditional=True)
    trainer(max_steps=2).fit(model, DataLoader(TensorDataset(X, Y), batch_size=10))
    with pytest.raises(UserError, match="this model is conditional"):
        trainer(max_steps=2).fit(model, DataLoader(TensorDataset(X), batch_size=10))


def test_values_of_a_loader_are_those_of_the_spec():
    """The spec says what floats are, and not the batch, so that a dark batch is no other than the rest."""
    dark = torch.full((2, 1, 8, 8), 0.25)
    for values in ("uint8", "unit", "binary"):
        assert read_batch(dark, DIGITS._replace(values=values))["x"].unique().tolist() == [-0.5]
    wide = DIGITS._replace(values="unit", range=(0.0, 0.5))
    assert read_batch((dark,), wide)["x"].unique().tolist() == [0.0]
    vectors = DataSpec((2,), "vector", "real", mean=(1.0, 2.0), scale=(2.0, 1.0))
    assert read_batch(torch.tensor([[3.0, 4.0]]), vectors)["x"].tolist() == [[1.0, 2.0]]
    batch = read_batch({"image": dark, "label": torch.tensor([1, 2], dtype=torch.int32)}, DIGITS)
    assert batch["y"].tolist() == [1, 2] and batch["y"].dtype == torch.int64
    assert set(read_batch((dark, torch.zeros(2, 3)), DIGITS)) == {"x"}  # no class ids
    assert set(read_batch((dark, Y[:2]), DIGITS._replace(num_classes=0))) == {"x"}
    sides = OutlineShapes().spec
    both = {side: torch.zeros(1, 3, 32, 32, dtype=torch.uint8) for side in "ab"}
    assert {side: x.unique().tolist() for side, x in read_batch(both, sides).items()} == {"a": [-1.0], "b": [-1.0]}


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (X * 2 - 1, r"floats of this loader lie in \[-1, 1\], and for 'uint8' values \[0, 1\] is expected.*Normalize"),
        (X[:, 0], r"batches of this loader are \(40, 8, 8\), and the model takes \(B, 1, 8, 8\)"),
        ({"picture": X}, "dicts with picture, without x"),
        ([["a.png"], Y], "list of list, Tensor, without x"),
    ],
)
def test_other_forms_are_one_line_that_names_custom(batch, match):
    with pytest.raises(UserError, match=rf"(?s){match}.*custom\.Custom") as error:
        read_batch(batch, DIGITS)
    assert "\n" not in str(error.value)


def test_a_loader_and_then_a_datamodule(trainer):
    """The way of reading batches is that of the Trainer, not of the first one that the model met."""
    model = small()
    trainer(max_steps=2).fit(model, DataLoader(TensorDataset(X), batch_size=10))
    trainer(max_steps=2).fit(model, Digits(batch_size=10))
    assert "on_after_batch_transfer" not in model.__dict__


def test_our_own_loader_without_its_datamodule(trainer):
    data = Digits(batch_size=10)
    data.setup()
    model = small(data.spec)
    trainer(max_steps=2, limit_val_batches=2).fit(model, data.train_dataloader(), data.val_dataloader())
    assert model.iteration == 2


# Trainers


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gradient_clip_val": 0.5}, r"gradient_clip_val=0.5\): give the model clip=\.\.\. instead"),
        ({"accumulate_grad_batches": 4}, r"accumulate_grad_batches=4\): give the model accumulate=N"),
        ({"callbacks": [StochasticWeightAveraging(1e-2)]}, "StochasticWeightAveraging does not work here.* ema="),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "(accumulate_grad_batches|Scheduler).* accumulate=N"),
    ],
)
def test_options_for_automatic_optimization_name_ours(options, match, trainer):
    with pytest.raises(UserError, match=match):
        trainer(max_steps=2, **options).fit(small(), Digits(batch_size=10))


class Seen(L.Callback):
    """Positions of the examples of each batch."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.train.append(batch["index"].tolist())

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.val.append((batch["x"].sum().item(), len(batch["x"])))


@pytest.mark.parametrize("workers", [0, 1])
def test_one_batch_is_overfitted_and_validated_on(workers, trainer):
    seen, model, data = Seen(), small(lr=1e-2), Digits(batch_size=32, num_workers=workers)
    trainer(max_steps=5, overfit_batches=1, callbacks=seen, check_val_every_n_epoch=1).fit(model, data)
    data.teardown("fit")
    assert len(seen.train) == 5 and all(batch == seen.train[0] for batch in seen.train)
    assert len(seen.val) == 5 and len({total for total, _ in seen.val}) == 1 and seen.val[0][1] == 32
    x = Digits().examples("train", torch.tensor(seen.train[0]))["x"]
    assert x.sum().item() == pytest.approx(seen.val[0][0], rel=1e-5)  # of the very examples of training


def test_an_overfitted_batch_is_binarised_for_validation_too(trainer):
    data = Digits(batch_size=8, binarize="dynamic")
    model = small(data.spec)
    trainer(max_steps=2, overfit_batches=1, check_val_every_n_epoch=1).fit(model, data)
    (batch,) = data.val_dataloader()
    assert len(batch["x"]) == 8 and set(batch["x"].unique().tolist()) == {0, 255}


@pytest.mark.parametrize(("limit", "period"), [(3, 3), (0.25, 3), (1, 1), (1.0, None), (100, None)])
def test_limit_train_batches_repeats_the_first_ones(limit, period, trainer):
    seen = Seen()
    run = trainer(max_steps=9, limit_train_batches=limit, limit_val_batches=0, callbacks=seen)
    run.fit(small(), Digits(batch_size=100))
    order = Order(Digits().spec.size, 100, 0)
    assert seen.train == [order.batch(n % period if period else n).tolist() for n in range(9)]


def test_a_share_of_batches_is_overfitted(trainer):
    seen = Seen()
    run = trainer(max_steps=6, overfit_batches=0.25, callbacks=seen, check_val_every_n_epoch=1)
    run.fit(small(), Digits(batch_size=100))
    assert seen.train == seen.train[:3] * 2 and len(seen.val) == 6
    assert {size for _, size in seen.val} == {100}


def test_both_sides_of_unpaired_data_are_limited(trainer):
    seen = Seen()
    model = CycleGAN(OutlineShapes().spec, network_args={"width": 4, "blocks": 1}, critic_args={"width": 4})
    run = trainer(max_steps=2, limit_train_batches=1, limit_val_batches=0, callbacks=seen)
    run.fit(model, OutlineShapes(batch_size=2))
    assert seen.train[0] == seen.train[1]


def test_fast_dev_run(trainer):
    model = small()
    trainer(fast_dev_run=True).fit(model, Digits(batch_size=32))
    assert model.iteration == 1


# Few examples


@pytest.mark.parametrize(("count", "world"), [(1, 2), (1, 4), (3, 4), (2, 2), (5, 2)])
def test_each_rank_has_a_batch_and_each_example_counts_once(count, world):
    source = Tensors(x=torch.arange(count))
    seen = []
    for rank in range(world):
        loader = EvalLoader(source, 4, rank, world, 0, lambda skipped: None)
        batches = list(loader)
        assert len(batches) == len(loader) >= 1
        seen += [n for batch in batches for n in batch["index"].tolist() if n >= 0]
    assert sorted(seen) == list(range(count))


def test_what_stands_in_is_not_validated(trainer):
    model = small().eval()
    rows = Digits().examples("val", torch.arange(10))
    model._means = Means()
    model.validation_step(rows | {"index": torch.full((10,), -1)}, 0)
    assert model._means.count == 0
    model.validation_step(rows, 0)
    assert model._means.count == 10


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_vectors_train(count, tmp_path, trainer):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(count, 3)))
    data = Arrays(str(tmp_path / "x.npy"), batch_size=8)
    run = trainer(max_steps=2)
    if count < 3:
        with pytest.warns(UserWarning, match="training examples stand in"):
            run.fit(small(data.spec), data)
    else:
        run.fit(small(data.spec), data)
    assert torch.isfinite(run.callback_metrics["val/loss"])


# Mistakes in Python


def test_a_data_set_stands_for_its_spec():
    data = Digits()
    model = small(data)
    assert model.spec == data.spec and model.hparams["spec"] == data.spec.to_dict()
    assert GAN(Toy()).spec == Toy().spec


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ((1, 28, 28), r"VAE\(\(1, 28, 28\)\): a shape does not say.*DataSpec\(\(1, 28, 28\), \"image\", \"uint8\"\)"),
        (torch.Size([2]), r"DataSpec\(\(2,\), \"vector\", \"real\"\)"),
        ([4, 4], r"DataSpec\(\(4, 4\), kind=\.\.\., values=\.\.\.\)"),
        (torch.zeros(3, 2), r"VAE\(Tensor\): expected the spec of the data, such as VAE\(data.spec\)"),
        (Digits, r"VAE\(Digits\): expected the spec"),
        (None, r"VAE\(NoneType\)"),
    ],
)
def test_what_is_no_spec_is_one_line(spec, match):
    with pytest.raises(UserError, match=match) as error:
        VAE(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "option", "near"),
    [
        (VAE, "latent", "latent_dim"),
        (VAE, "learning_rate", None),
        (GAN, "spectralnorm", "spectral_norm"),
        (Autoencoder, "los", "loss"),
        (CycleGAN, "optimizer", "optimizers"),
        (HierarchicalVAE, "block", "blocks"),
    ],
)
def test_an_unknown_option_names_the_nearest(model, option, near):
    spec = OutlineShapes().spec if model is CycleGAN else DIGITS
    with pytest.raises(UserError, match=f"unknown option of {model.__name__} '{option}'") as error:
        model(spec, **{option: 3})
    assert (f"did you mean {near!r}?" if near else "known: accumulate") in str(error.value)


def test_a_subclass_of_the_users_takes_its_own_options():
    class Mine(VAE):
        def __init__(self, spec, **options):
            self_made = options.pop("self_made")
            super().__init__(spec, **options)
            self.self_made = self_made

    assert Mine(DIGITS, self_made=3, latent_dim=2).self_made == 3
    assert Duel(Toy().spec, critic_moves=1).critic_moves == 1
    with pytest.raises((UserError, TypeError), match="moves"):
        Duel(Toy().spec, moves=1)


@pytest.mark.parametrize("model", [GAN, Autoencoder, VAEGAN, VQVAE])
def test_models_of_numbers_refuse_tokens_alike(model):
    with pytest.raises(UserError, match=f"^{model.__name__} takes numbers, not tokens: take data of values uint8"):
        model(TEXTS)


def test_translators_refuse_tokens():
    with pytest.raises(UserError, match="CycleGAN takes numbers, not tokens"):
        CycleGAN(TEXTS._replace(shape_b=(10,)))


@pytest.mark.parametrize("method", ["reconstruct", "encode", "posterior", "elbo", "log_likelihood"])
@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(1, 8, 8), r"takes examples \(B, 1, 8, 8\), not \(1, 8, 8\): add an axis for the batch"),
        (torch.zeros(2, 1, 9, 8), r"takes examples \(B, 1, 8, 8\), not \(2, 1, 9, 8\)"),
        (torch.zeros(2, 64), r"takes examples .* not \(2, 64\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "takes floats as they reach the model, not torch.uint8.*to_model"),
        (np.zeros((2, 1, 8, 8)), "takes a tensor .*, not ndarray"),
    ],
)
def test_examples_of_another_shape_are_one_line(method, x, match):
    more = (3,) if method == "log_likelihood" else ()
    with pytest.raises(UserError, match=f"VAE.{method} {match}") as error:
        getattr(small().eval(), method)(x, *more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (Autoencoder, "encode"),
        (VQVAE, "tokens"),
        (VQVAE, "reconstruct"),
        (VAEGAN, "reconstruct"),
        (GAN, "discriminate"),
    ],
)
def test_other_models_too(model, method):
    with pytest.raises(
        UserError, match=rf"{model.__name__}.{method} takes examples \(B, 1, 8, 8\), not \(2, 1, 4, 4\)"
    ):
        getattr(model(DIGITS).eval(), method)(torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(3, 32, 32), r"CycleGAN.translate takes pictures \(B, 3, H, W\), not \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), r"not \(1, 1, 32, 32\)"),
        (torch.zeros(1, 3, 30, 33), "multiples of 4"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floats in .-1, 1., not torch.uint8"),
    ],
)
def test_pictures_that_are_not_translated(x, match):
    model = CycleGAN(OutlineShapes().spec, network_args={"width": 4, "blocks": 1}, critic_args={"width": 4}).eval()
    assert model.translate(torch.zeros(1, 3, 64, 32)).shape == (1, 3, 64, 32)
    with pytest.raises(UserError, match=match):
        model.translate(x)


@pytest.mark.parametrize("model", [VAE, GAN, VQVAE, HierarchicalVAE])
@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ((-1,), r"sample\(n=-1\)"),
        ((2.5,), r"sample\(n=2.5\)"),
        (("3",), "n='3'"),
        ((True,), "n=True"),
        ((2, None, 0, -1), "start=-1"),
    ],
)
def test_numbers_of_samples(model, asked, match):
    made = model(DIGITS).eval()
    with pytest.raises(UserError, match=f"{match}.*whole number, at least 0"):
        made.sample(*asked)
    assert made.sample(np.int64(2)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (torch.tensor([1, 2, 3]), "3 class ids for 2 samples"),
        (torch.tensor([1, 10]), "class 1 to 10: possible are 2 ids from 0 to 9"),
        (torch.tensor([0.5, 1.0]), "as floats"),
        ([1.5, 2], "y is a list: give a tensor, or the names of classes"),
        (13, "unknown class '13'"),
    ],
)
def test_conditions_of_samples(y, match):
    with pytest.raises(UserError, match=match):
        small(conditional=True).eval().sample(2, y=y)
    with pytest.raises(UserError, match="knows no classes"):
        small().eval().sample(2, y=y)


def test_data_print_themselves(tmp_path):
    data = Digits(batch_size=32)
    text = f"Digits(image 1x8x8 of uint8 values, {data.spec.size:,} training examples, 10 classes, batch_size 32)"
    assert text == str(data) == repr(data) and not data._splits
    data.setup()
    assert f"{data.size('val'):,} val, {data.size('test'):,} test" in str(data)
    assert "image 3x32x32 and 3x32x32 of uint8" in str(OutlineShapes())
    assert str(Arrays(str(tmp_path / "no.npy"))).startswith("Arrays(cannot read")
    assert str(Custom(TensorDataset(X, Y))).startswith("Custom(image 1x8x8 of unit values")


def test_models_load_with_the_options_they_were_saved_with(trainer, tmp_path):
    model, run = small(), trainer(max_steps=1)
    run.fit(model, Digits(batch_size=10))
    run.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    assert load(tmp_path / "x.ckpt").spec == model.spec
    assert VAE.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).latent_dim == 2


def test_data_in_other_units_than_the_models_are_refused(tmp_path, trainer):
    rows = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", 5 * rows + 1)
    a, b = Arrays(str(tmp_path / "a.npy"), batch_size=10), Arrays(str(tmp_path / "b.npy"), batch_size=10)
    model = small(a.spec)
    trainer().validate(model, a, verbose=False)
    with pytest.raises(UserError, match=r"another mean and scale .*data\.in_units_of\(model\.spec\)"):
        trainer().validate(model, b, verbose=False)
    trainer().validate(model, b.in_units_of(model.spec), verbose=False)


def test_data_in_another_range_than_the_models_are_refused(trainer):
    """They would be taken for much darker ones."""
    deep = [np.full((8, 8), 50 * k, np.uint16) for k in range(40)]
    model = small(Custom(deep, batch_size=8).spec)
    with pytest.raises(UserError, match=r"values 0 to 65535, these data have values 0 to 4095: --data.range 0 65535"):
        trainer(max_steps=1).fit(model, datamodule=Custom(deep, range=[0, 4095], batch_size=8))


@pytest.mark.parametrize("devices", [0, -2, [], "0"])
def test_no_device_is_one_line(devices):
    with pytest.raises(UserError, match=r"--trainer\.devices .*: give at least 1, or auto"):
        world_size({"devices": devices, "accelerator": "cpu"}, Launch("alone"))


def test_epochs_are_of_the_batches_that_are_left(script, tmp_path):
    options = ["--model", "vae", "--data.batch_size", "100", "--epochs", "2", "--trainer.accelerator", "cpu"]
    said = script("fit", *options, "--trainer.limit_train_batches", "3").stdout
    assert "6 iterations, batch 100" in said
    said = script("fit", *options, "--trainer.overfit_batches", "1").stdout
    assert "2 iterations, batch 100" in said
    refused = script("fit", *options, "--trainer.limit_train_batches", "0", ok=False)
    assert refused.returncode == 2 and "limit_train_batches 0: nothing would be trained" in refused.stderr


def test_one_test_example_is_evaluated(script, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 3)))
    script("fit", "--model", "vae", "--data", "x.npy", "--data.batch_size", "2", "--steps", "2")
    (run,) = tmp_path.glob("tb_logs/*/version_0")
    script("evaluate", run, "--metrics", "elbo", "nll", "latents", "--k", "5")
    values = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["values"]
    assert values["elbo"]["n"] == 1 and values["elbo"]["std"] is None and np.isfinite(values["nll_is5"]["value"])
