"""The collapse doctor: what it says of a model that uses its latents, and of one that does not."""

import json

import pytest
import torch

from lightning_gen.commands import fit
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.digits import Digits
from lightning_gen.evaluation import posterior_collapse
from lightning_gen.models.layered import LayeredVAE
from lightning_gen.models.vae import VAE
from lightning_gen.training.evaluation_mode import evaluation_mode


def trained(trainer, **options):
    data = Digits()
    torch.manual_seed(0)
    model = VAE(data.spec, latent_dim=6, network="mlp", **options)
    trainer(max_steps=300, val_check_interval=300, check_val_every_n_epoch=None).fit(model, data)
    with evaluation_mode(model):
        return posterior_collapse.report(model, data)


def test_a_used_code_is_healthy(trainer):
    found = trained(trainer)
    assert found["healthy"] and found["active"] == 6 and found["collapsed"] == 0
    assert 2 < found["mutual_information"] <= torch.log(torch.tensor(200.0)) + 1e-6  # of 200 validation digits
    assert found["kl_sorted"] == sorted(found["kl_sorted"], reverse=True)


def test_a_collapsed_code_is_named_with_a_cure(trainer):
    found = trained(trainer, terms={"kl": 200.0})
    assert not found["healthy"] and found["verdict"].startswith(("collapsed", "nearly collapsed"))
    assert "--model.terms.kl" in found["verdict"] and "free_bits" in found["verdict"]
    assert found["mutual_information"] < 0.2


@pytest.mark.parametrize("weight, warned", [(1, False), (200, True)])
def test_fit_warns_and_notes_it_in_the_summary(weight, warned, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "vae", "--steps", "200", "--val_every", "200", "--model.terms.kl", str(weight)]
    folder = fit.train(cli.resolve_config(*parse_short_options(arguments)))
    assert ("warning:    latents" in capsys.readouterr().out) == warned
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["latents"]["healthy"] != warned


def test_a_model_without_latents_has_no_report():
    assert posterior_collapse.report(torch.nn.Linear(1, 1), None) is None


def test_layers_are_judged_by_layer_and_not_mixed_with_dimensions(trainer):
    data = Digits()
    torch.manual_seed(0)
    model = LayeredVAE(data.spec, latent_dims=[8, 4], network="mlp")
    trainer(max_steps=100, val_check_interval=100, check_val_every_n_epoch=None).fit(model, data)
    with evaluation_mode(model):
        found = posterior_collapse.report(model, data)
        assert found["latents"] == 2 and found["active"] <= 2
        model.kl_per_dimension.copy_(torch.tensor([12.0, 0.0]))
        assert posterior_collapse.report(model, data)["collapsed"] == 1
