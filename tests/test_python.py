"""The Python side: what a loaded model gives, gradients in its input, and the presets' models."""

import warnings
from importlib.metadata import version

import pytest
import torch

import lightning_gen
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.models.vae import VAE
from lightning_gen.presets import PRESETS
from lightning_gen.storage.checkpoints import AtomicCheckpointIO
from lightning_gen.storage.loaded import describe_device, resolve_device
from lightning_gen.training import NOT_OURS

SMALL = {"latent_dim": 3, "network": "mlp", "network_args": {"hidden": [8]}}


@pytest.fixture
def checkpoint(trainer, tmp_path):
    data = Digits()
    run = trainer(max_steps=2, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(VAE(data.spec, **SMALL), data)
    run.save_checkpoint(tmp_path / "vae.ckpt")
    return tmp_path / "vae.ckpt"


def test_a_loaded_model_gives_plain_numbers(checkpoint):
    model = lightning_gen.load(checkpoint)
    assert model.sample(2).numpy().shape == (2, 1, 8, 8)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    batch = Digits().examples("val", torch.arange(3))
    assert model.reconstruct(batch["x"]).numpy().shape == (3, 1, 8, 8)
    assert not model.requires_grad_(True).sample(2).requires_grad  # nor does a model in training keep a graph
    assert not model.predict_step(batch, 0).requires_grad


def test_a_code_is_optimised_through_the_decoder(checkpoint):
    """As in docs/your-own.md: the decoder's weights stay, the code moves."""
    model = lightning_gen.load(checkpoint)
    target, z = model.sample(1, seed=1), torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=0.1)
    errors = []
    for _ in range(50):
        error = (model.decode(z) - target).square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0] and all(p.grad is None for p in model.parameters())


def test_a_model_is_trained_further_where_that_is_asked_for(checkpoint, trainer):
    with pytest.raises(UserError, match=r"load\(..., train=True\)"):
        trainer(max_steps=1).fit(lightning_gen.load(checkpoint), Digits())
    model = lightning_gen.load(checkpoint, train=True)
    before = model.encoder.head.weight.clone()
    assert model.training
    trainer(max_steps=1, limit_val_batches=0).fit(model, Digits())
    assert not torch.equal(model.encoder.head.weight, before)


def test_a_presets_model():
    data = Digits()
    model = lightning_gen.make("beta-vae", data)
    own = PRESETS["beta-vae"].arguments
    assert {name: model.hparams[name] for name in own} == own
    other = lightning_gen.make("beta-vae", data.spec, terms={"kl": 7}, latent_dim=3)
    assert other.hparams["terms"] == own["terms"] | {"kl": 7} and other.latent_dim == 3
    assert own["terms"]["kl"] != 7  # the table stays as it is
    convolutions = lightning_gen.make("vae", data.spec._replace(shape=(1, 32, 32)), network="dcgan")
    assert convolutions.hparams["network_args"] == {}  # those of the preset's network do not fit


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("beta_vae", Digits, "did you mean 'beta-vae'"),
        ("vae", lambda: "digits", "give a data set, or a DataSpec"),
        ("vae", lambda: torch.zeros(3), "give a data set, or a DataSpec"),
    ],
)
def test_what_no_preset_can_be_made_of(name, data, said):
    with pytest.raises(UserError, match=said):
        lightning_gen.make(name, data())


def test_names_of_the_package():
    assert lightning_gen.__version__ == version("lightning-gen")
    assert {"make", "load"} <= set(lightning_gen.__all__)
    assert all(getattr(lightning_gen, name) for name in lightning_gen.__all__)


def test_a_plain_trainer_warns_of_nothing_that_does_not_apply(trainer):
    """Lightning's warnings about data loaders, logging intervals and averaged networks."""
    model = lightning_gen.make("vae", Digits().spec, ema={"vae": 500})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for message in NOT_OURS:  # as the package does when it is imported
            warnings.filterwarnings("ignore", message)
        trainer(max_epochs=2).fit(model, Digits())
    assert not [str(warning.message) for warning in caught]


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    assert resolve_device("cpu") == "cpu" and resolve_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu" and describe_device(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert resolve_device("auto") == "cuda" and describe_device(torch.device("cuda:0")) == "cuda:0 (some GPU)"
