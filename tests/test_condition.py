"""The condition of networks: vectors and sequences of classes and texts, models of texts, and checkpoints of 0.1."""

import gzip
import re
from pathlib import Path

import pytest
import torch
from helpers import tiny
from torch import nn
from toy_tokens import WORDS, Captioned

from lightning_gen import networks
from lightning_gen.callbacks.stability import Stability
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.evaluation.evaluation_run import EvaluationRun
from lightning_gen.models.gan import GAN
from lightning_gen.models.vae import VAE
from lightning_gen.models.vaegan import VAEGAN
from lightning_gen.models.vqvae import VQVAE
from lightning_gen.names import resolve
from lightning_gen.networks.condition import (
    Condition,
    ConditionSpec,
    condition_of,
    condition_spec,
    labels_of,
    repeat,
)
from lightning_gen.networks.layers import ClassNorm
from lightning_gen.networks.projection import Projection
from lightning_gen.networks.spectral import spectral_norm_
from lightning_gen.pictures import views
from lightning_gen.presets import PRESETS
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load
from lightning_gen.training.evaluation_mode import evaluation_mode

HERE = Path(__file__).parent
CLASSES, TEXTS = ConditionSpec("class", 3), ConditionSpec("text", 7, 4)
ROWS = torch.tensor([[6, 1, 3, 0], [6, 2, 3, 0], [1, 6, 3, 0], [0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# The modules ----------------------------------------------------------------------------------------------------------


def test_a_class_is_one_hot():
    condition, c = Condition(CLASSES), torch.tensor([2, 0])
    assert not condition.state_dict() and condition.dim == 3
    assert condition(c).tolist() == [[0, 0, 1], [1, 0, 0]]
    maps = condition.concat(torch.zeros(2, 5, 4, 6), c)
    assert maps.shape == (2, 8, 4, 6) and torch.equal(maps[:, 5:, 2, 3], condition(c)) and not maps[:, :5].any()
    vectors, counts = condition.sequence(c)
    assert vectors.shape == (2, 1, 3) and counts.all() and condition.key(c) is c


@torch.no_grad()
def test_a_text_is_a_vector_and_a_sequence_that_see_no_padding():
    condition = Condition(TEXTS).eval()
    vector, (vectors, counts) = condition(ROWS), condition.sequence(ROWS)
    assert vector.shape == (4, condition.dim) and vectors.shape == (4, 5, condition.dim)
    assert counts.tolist() == [[True, True, True, True, False]] * 3 + [[True, False, False, False, False]]
    assert torch.equal(vectors[:, 0], vector) and vector.isfinite().all()
    assert torch.cdist(vector, vector)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3  # the order counts, too
    condition.text.token.weight[0] += 100.0
    torch.testing.assert_close(condition(ROWS), vector)
    assert torch.allclose(condition(ROWS[:1]), vector[:1], atol=1e-6)


def test_no_condition_is_none():
    condition = Condition(None)
    x = torch.zeros(2, 3)
    assert condition.dim == 0 and condition(None) is None and condition.concat(x, None) is x
    for built, given in ((None, torch.tensor([0, 1])), (CLASSES, None), (TEXTS, None)):
        for method in (Condition(built), Condition(built).key):
            with pytest.raises(ValueError, match="was called with"):
                method(given)


def test_hidden_conditions():
    where = torch.tensor([False, True])
    assert CLASSES.hide(torch.tensor([1, 2]), where).tolist() == [1, 3]
    assert TEXTS.hide(ROWS[:2], where).tolist() == [[6, 1, 3, 0], [0, 0, 0, 0]]
    assert repeat(ROWS, 2).tolist() == [*ROWS.tolist(), *ROWS.tolist()] and repeat(None, 2) is None


@torch.no_grad()
def test_a_norm_of_texts_is_its_formula_and_starts_near_that_without():
    layer, h, v = ClassNorm("batch", 3, TEXTS), torch.randn(4, 3, 5, 5), torch.randn(4, TEXTS.dim)
    plain = nn.functional.batch_norm(h, None, None, training=True)
    assert (layer(h, v) - plain).abs().max() < 0.5
    layer.bias.normal_()
    expected = (1 + v @ layer.gain)[..., None, None] * plain + (v @ layer.bias)[..., None, None]
    torch.testing.assert_close(layer(h, v), expected)


@torch.no_grad()
def test_a_projection_of_texts_is_its_formula():
    plain = networks.encoder("mlp", DataSpec((5,), "vector", "real"), 1, hidden=[6])
    projection, x = Projection(plain, TEXTS), torch.randn(4, 5)
    inner = (projection.embed(projection.condition(ROWS)) * plain.features(x)).sum(1, keepdim=True)
    torch.testing.assert_close(projection(x, ROWS), plain(x) + inner)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "r3gan"])
def test_every_network_takes_a_text_and_learns_its_encoder(name):
    spec, options = DataSpec((1, 16, 16)), {} if name == "mlp" else {"width": 16}
    encoder = networks.encoder(name, spec, 2, condition=TEXTS, **options)
    decoder = networks.decoder(name, spec, 3, (1, 16, 16), condition=TEXTS, **options)
    for network, given in ((encoder, torch.randn(4, 1, 16, 16)), (decoder, torch.randn(4, 3))):
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(3):  # some branches begin at 0
            optimiser.zero_grad()
            out = network(given, ROWS)
            (out * torch.randn_like(out)).sum().backward()
            optimiser.step()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key
        network.eval()
        out = network(given[:1].expand(4, *given.shape[1:]), ROWS).flatten(1)
        assert torch.cdist(out, out)[~torch.eye(4, dtype=torch.bool)].min() > 1e-4


def test_a_text_encoder_starts_as_it_is_meant_to():
    """He's weights and spectral norm are for what lies behind it."""
    network = spectral_norm_(networks.encoder("mlp", DataSpec((2,), "vector", "real"), 1, condition=TEXTS))
    assert not any("parametrizations" in key for key in network.condition.state_dict())
    assert "parametrizations.weight.original" in dict(network.head.named_parameters())
    assert network.condition.text.layer.join.weight.detach().std() == pytest.approx(0.02 / 2**0.5, rel=0.1)


def test_what_is_told_of_a_spec():
    assert condition_spec(DataSpec((2,), num_classes=3), False) is None
    assert condition_spec(DataSpec((2,), num_classes=3), True) == CLASSES
    assert condition_spec(Captioned().spec, True) == TEXTS
    batch = {"y": torch.tensor([1]), "x": torch.zeros(1, 2)}
    assert condition_of(batch) is labels_of(batch) is batch["y"]
    batch["text"] = ROWS[:1]
    assert torch.equal(condition_of(batch), ROWS[:1])
    assert labels_of(batch) is batch["y"] and condition_of({"x": batch["x"]}) is None
    with pytest.raises(UserError, match=r"the spec needs condition_shape=\(L,\) and condition_vocab"):
        condition_spec(DataSpec((2,), condition="text"), True)


# Models of texts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data():
    return Captioned(batch_size=50)


SLOW = {player: {"lr": 1e-3, "betas": [0.0, 0.99]} for player in ("discriminator", "generator")}


def vae(spec):
    return VAE(spec, latent_dim=2, network="mlp", network_args={"hidden": [64]}, conditional=True, lr=3e-3)


def gan(how):
    args = {"hidden": [64, 64]}
    stable = {"adversarial": "relativistic", "penalties": {"r1": 0.1, "r2": 0.1}, "optimizers": SLOW}
    nets = {"network": "mlp", "network_args": args, "critic_args": args}
    return lambda spec: GAN(spec, latent_dim=2, condition=how, **nets, **stable)


@pytest.mark.parametrize("make", [vae, gan("concat"), gan("projection")])
def test_samples_lie_where_their_text_says(make, data, trainer, tmp_path):
    model = make(data.spec)
    run = trainer(max_steps=300, limit_val_batches=0, plugins=AtomicCheckpointIO())
    run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt")
    assert again.spec.condition_vocab == WORDS and again.condition_length == 4 and again.classes == 0
    texts = torch.tensor([[6, side, height, 0] for side in (1, 2) for height in (3, 4)])
    with evaluation_mode(again):
        x = again.sample(80, y=texts.repeat(20, 1), seed=1)
        assert torch.allclose(again.sample(8, y=texts.repeat(2, 1), seed=1, start=8), x[8:16], atol=1e-5)
    signs = torch.tensor([[-1, 1], [-1, -1], [1, 1], [1, -1]]).repeat(20, 1)
    assert (x.sign() == signs).all(1).double().mean() > 0.7  # by chance 0.25


def test_a_vae_of_texts_validates_and_predicts(data, trainer):
    model = vae(data.spec)
    values = trainer().validate(model, data, verbose=False)[0]
    assert values["val/nll_is8"] <= -values["val/elbo"] + 1e-3
    assert sum(len(part) for part in trainer().predict(model, data)) == 50


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_pictures_of_texts_train_in_every_family(network, trainer):
    data = Captioned(batch_size=20, shape=(1, 16, 16), count=200)
    args = {"width": 4, "norm": "layer"}
    common = {"network": network, "network_args": args}
    models = [
        VAE(data.spec, latent_dim=2, conditional=True, **common),
        VAEGAN(data.spec, latent_dim=2, critic=network, critic_args=args, conditional=True, **common),
        GAN(data.spec, latent_dim=2, critic_args=args, condition="projection", penalties={"r1": 1.0}, **common),
        VQVAE(data.spec, quantizer_args={"codes": 8, "dim": 4}, prior_args={"width": 16, "depth": 1}, prior_from="50%"),
    ]
    for model in models:
        trainer(max_steps=4, limit_val_batches=0).fit(model, data)
        with evaluation_mode(model):
            texts = torch.tensor([[6, 1, 3, 0], [6, 2, 4, 5]])
            x = model.sample(2, y=texts)
            assert x.shape == (2, 1, 16, 16) and x.isfinite().all() and not torch.equal(x[0], x[1])
            shown = dict(views.draw_all(model, data.examples("val", torch.arange(8)), seed=0))
            assert shown["samples"].dtype == torch.uint8


def test_a_prior_of_texts_knows_rows_without_one(trainer):
    data = Captioned(batch_size=20, shape=(1, 16, 16), count=200)
    model = VQVAE(data.spec, quantizer_args={"codes": 8, "dim": 4}, prior_args={"width": 16, "depth": 1}).eval()
    tokens = torch.randint(8, (2, model.draw_dim))
    empty = torch.zeros(2, 4, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(model.code_length(tokens), model.code_length(tokens, empty))
        assert not torch.equal(model.code_length(tokens), model.code_length(tokens, ROWS[:2]))


def test_evaluation_and_stability_take_the_texts_of_examples(data, trainer):
    model = gan("projection")(data.spec).eval()
    data.setup()
    subject = EvaluationRun(model, data, extractor="", n=20)
    with torch.no_grad():
        assert subject.samples(range(20)).x.shape == (20, 2) and subject.samples(range(20)).y is None
        values = Stability(data)._measure(model)
    assert {"val/logit_real", "val/diversity"} <= set(values)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m: m.sample(2), "give the text of each example, a row of 4 tokens from 0 to 6, as y"),
        (
            lambda m: m.sample(2, y=torch.tensor([1, 2])),
            r"text of shape \(2,\) for 2 samples: possible are 2 rows of 4",
        ),
        (lambda m: m.sample(3, y=ROWS[:2]), r"text of shape \(2, 4\) for 3 samples: possible are 3 rows of 4 tokens"),
        (lambda m: m.sample(1, y=ROWS[:1] + 1), "tokens 1 to 7: possible are tokens from 0 to 6"),
        (lambda m: m.sample(1, y=ROWS[:1].float()), "as floats: possible are tokens from 0 to 6"),
        (lambda m: m.encode(torch.zeros(1, 2)), "conditional: give the text of each example, a row of 4 tokens"),
    ],
)
def test_impossible_texts(ask, said, data):
    with pytest.raises(UserError, match=said) as error:
        ask(vae(data.spec).eval())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"condition": "classifier"}, "names a class, and these data come with texts: take concat or projection"),
        (
            {"condition": "concat", "network": "dcgan", "ema": {"generator": 100}},
            "of texts none are at hand: add --model.network_args.norm layer",
        ),
    ],
)
def test_what_texts_do_not_go_with(options, said):
    with pytest.raises(UserError, match=said) as error:
        GAN(Captioned(shape=(1, 16, 16)).spec, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": tiny, "conditional": True}, "has no option 'condition'"),
        (
            {"network": "mlp", "network_args": {"condition": "text"}},
            "follows from the model: leave it out",
        ),
    ],
)
def test_a_builder_gets_the_condition_from_the_model(options, said):
    with pytest.raises(UserError, match=said):
        VAE(Digits().spec, **options)


def test_a_class_of_another_shape_is_refused():
    model = VAE(Digits().spec, network="mlp", conditional=True).eval()
    with pytest.raises(UserError, match=r"class ids of shape \(2, 4\) for 2 samples: possible are 2 ids from 0 to 9"):
        model.sample(2, y=ROWS[:2])


# What version 0.1 wrote -----------------------------------------------------------------------------------------------


def known_weights():
    rows = [line.split() for line in (HERE / "golden" / "conditional_weights.txt").read_text().splitlines()]
    return {name: [row[1:] for row in rows if row[0] == name] for name in dict.fromkeys(row[0] for row in rows)}


@pytest.mark.parametrize("name", known_weights())
def test_conditional_networks_keep_the_names_shapes_and_initial_weights_of_0_1(name):
    """The sums of absolute values are those of seed 0 at commit 57e34f8."""
    preset = PRESETS[name]
    also = {"r3gan": {"condition": "concat"}, "sagan": {"condition": "projection"}}.get(name, {})
    torch.manual_seed(0)
    model = resolve(preset.model, {}, "model class")(Digits().spec, **{**preset.arguments, **also})
    now = model.state_dict()
    assert [(key, "x".join(map(str, v.shape)) or "-") for key, v in now.items()] == [
        (key, shape) for key, shape, _ in known_weights()[name]
    ]
    for key, _, total in known_weights()[name]:
        assert now[key].double().abs().sum().item() == pytest.approx(float(total), rel=1e-5, abs=1e-9), key


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("cvae", [0.476533, -0.124367, -0.268325, -0.374713]),
        ("projection-gan", [-0.129865, -0.048612, -0.08844, -0.118632]),
    ],
)
def test_conditional_checkpoints_of_0_1_load_and_make_the_same_samples(name, row, tmp_path):
    path = tmp_path / f"{name}.ckpt"
    path.write_bytes(gzip.decompress((HERE / "data" / f"{name}-0.1.ckpt.gz").read_bytes()))
    model = load(path)
    with evaluation_mode(model):
        samples = model.sample(3, y=torch.tensor([1, 4, 9]), seed=5)
    assert samples[0, 0, 2:6, 3].tolist() == pytest.approx(row, abs=1e-4)
    assert model.spec.condition == "none" and model.classes == 10


ADAPTERS = {"lightning_use.py", "threads.py"}  # which make batches, of loaders that are not ours and of random numbers


def test_one_file_alone_reads_the_condition_of_a_batch():
    reads = re.compile(r"""(\[|\.get\()["'](y|text)["']""")
    found = [
        path.name
        for path in sorted((HERE.parent / "lightning_gen").rglob("*.py"))
        if "datamodules" not in path.parts and reads.search(path.read_text())
    ]
    assert set(found) <= {"condition.py", *ADAPTERS}
