"""The GAN family: turns, penalties, conditions, codes, packing, averages, precision, devices, and mistakes."""

import json

import pytest
import torch
from processes import ROOT

from lightning_gen.adversarial import batch_norm_statistics
from lightning_gen.commands import fit
from lightning_gen.config import cli
from lightning_gen.config.arguments import parse_short_options
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import Toy
from lightning_gen.models.gan import GAN
from lightning_gen.names import resolve
from lightning_gen.objectives.adversarial import ADVERSARIAL
from lightning_gen.objectives.penalties import r1
from lightning_gen.presets import PRESETS
from lightning_gen.storage.checkpoints import AtomicCheckpointIO, load, read_checkpoint
from lightning_gen.training.evaluation_mode import evaluation_mode

DIGITS = Digits().spec
SMALL = {"latent_dim": 4, "network": "mlp", "network_args": {"hidden": [16]}, "critic_args": {"hidden": [16]}}
CONV = {"latent_dim": 4, "network": "dcgan", "network_args": {"width": 4}, "critic_args": {"width": 4, "norm": "none"}}
ROWS = {name: row for name, row in PRESETS.items() if row.model.endswith(".GAN")}


def of(row):
    torch.manual_seed(0)
    data = Toy(batch_size=32) if row.data == "toy" else Digits(batch_size=32)
    return resolve(row.model, {}, "model")(data.spec, **row.arguments), data


def losses(model, data, trainer, steps=3, **options):
    """Logged values of each iteration."""
    seen = []
    model.log_every = 1
    model.log_to_loggers = lambda values: seen.append(dict(values))
    trainer(max_steps=steps, limit_val_batches=0, **options).fit(model, data)
    return seen


# Turns


def test_the_generator_moves_with_each_nth_iteration():
    model = GAN(DIGITS, n_critic=3, **SMALL)
    turns = [model.update_order(iteration) for iteration in range(6)]
    assert turns == [("discriminator",)] * 2 + [("discriminator", "generator")] + turns[:3]


def test_the_loss_of_the_discriminator_does_not_reach_the_generator(trainer):
    """Not even where all weights may have gradients, whatever is penalised."""
    penalties = {"r1": 1, "r2": 1, "gp": 1, "dragan": 1, "lecam": 1}
    model = GAN(DIGITS, **SMALL, penalties=penalties, adversarial="relativistic")
    losses(model, Digits(batch_size=32), trainer, 1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    model.train().loss_discriminator({"x": torch.rand(8, *DIGITS.shape)}, {})[0].backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is not None for parameter in model.discriminator.parameters())


@pytest.mark.parametrize("pair", ADVERSARIAL)
def test_every_pair_trains_every_network(pair, trainer):
    for network in ("mlp", "dcgan", "resnet", "r3gan"):
        args = {"hidden": [8]} if network == "mlp" else {"width": 8}
        norm = {} if network == "r3gan" else {"norm": "none"}
        model = GAN(
            DIGITS,
            latent_dim=4,
            network=network,
            network_args=args,
            critic_args=args | norm,
            adversarial=pair,
            penalties={"r1": 0.1},
            ema={"generator": 100},
        )
        for values in losses(model, Digits(batch_size=16), trainer, 2):
            assert all(torch.isfinite(torch.tensor(value)) for value in values.values()), (network, values)


# Penalties


def test_a_lazy_penalty_is_as_large_in_the_mean(trainer):
    seen = losses(
        GAN(DIGITS, **SMALL, penalties={"r1": {"weight": 0.5, "every": 3}}), Digits(batch_size=32), trainer, 6
    )
    key = "train/discriminator/r1"
    assert [key in values for values in seen] == [False, False, True, False, False, True]
    third = seen[2]
    weighted = third["train/loss_discriminator"] - third["train/discriminator/adversarial"]
    assert weighted == pytest.approx(3 * 0.5 * third[key], rel=1e-4)


def test_gamma_by_the_rule_is_said_and_used(trainer):
    model = GAN(DIGITS, **SMALL, penalties={"r1": "auto"})
    gamma = 0.0002 * 8 * 8 / 32
    assert model.startup_messages(32) == [
        f"penalty r1: weight {gamma / 2:.4g} = gamma / 2, gamma = 0.0002 x 8 x 8 / 32 (auto)"
    ]
    first = losses(model, Digits(batch_size=32), trainer, 1)[0]
    weighted = first["train/loss_discriminator"] - first["train/discriminator/adversarial"]
    assert weighted == pytest.approx(gamma / 2 * first["train/discriminator/r1"], rel=2e-2, abs=2e-7)


def test_a_ramp_of_smoothed_labels_begins_with_its_first_value(trainer):
    def logged(**options):
        torch.manual_seed(0)  # equal weights
        return losses(GAN(DIGITS, **SMALL, **options), Digits(batch_size=32), trainer, 3)

    plain, seen = logged(), logged(label_smoothing="0.4..0@2")
    key, mean = "train/discriminator/adversarial", "train/discriminator/logit_real"
    added = seen[0][key] - plain[0][key]
    assert added == pytest.approx(0.4 * plain[0][mean], rel=1e-3, abs=1e-6) and added != 0
    assert seen[1][mean] != plain[1][mean]


def test_clipped_weights_stay_clipped(trainer):
    model = GAN(DIGITS, **SMALL, adversarial="wasserstein", weight_clip=0.01, lr=0.1)
    losses(model, Digits(batch_size=32), trainer, 3)
    assert max(p.abs().max() for p in model.discriminator.parameters()) <= 0.01
    assert max(p.abs().max() for p in model.generator.parameters()) > 0.01


def test_the_anchors_follow_the_logits(trainer):
    model = GAN(DIGITS, **SMALL, penalties={"lecam": 0.1})
    first, second = losses(model, Digits(batch_size=32), trainer, 2)
    sides = [[values[f"train/discriminator/logit_{side}"] for side in ("real", "fake")] for values in (first, second)]
    assert model.anchors.tolist() == pytest.approx([0.99 * a + 0.01 * b for a, b in zip(*sides, strict=True)], rel=1e-4)


# Conditions, codes, packing


@pytest.mark.parametrize("condition", ["concat", "projection", "classifier"])
def test_conditions_train_and_reach_the_samples(condition, trainer):
    for base in (SMALL, CONV):
        model = GAN(DIGITS, **base, condition=condition, penalties={"r1": 0.1}, spectral_norm="both")
        losses(model, Digits(batch_size=32), trainer, 2)
        z = torch.zeros(2, 4)
        with evaluation_mode(model):
            a, b = model.decode(z, torch.tensor([0, 1]))
            assert not torch.equal(a, b)
            judged = model.discriminate(torch.zeros(2, *DIGITS.shape), torch.tensor([0, 1]))
        assert (judged[0] == judged[1]) == (condition == "classifier")


def test_a_classifying_discriminator_learns_the_classes(trainer):
    model = GAN(DIGITS, **SMALL, condition="classifier", lr=1e-2)
    seen = losses(model, Digits(batch_size=64), trainer, 60)
    assert seen[-1]["train/discriminator/classes_real"] < 0.5 * seen[0]["train/discriminator/classes_real"]


def test_codes_are_read_off_the_samples(trainer):
    model = GAN(DIGITS, **SMALL, codes={"categorical": [3], "continuous": 1, "weight": 1.0}, lr=3e-3)
    z = model.draw(torch.randn(100, model.draw_dim))
    assert z.shape == (100, 4 + 3 + 1)
    assert (z[:, 4:7].sum(1) == 1).all() and (z[:, 7].abs() <= 1).all()
    seen = losses(model, Digits(batch_size=64), trainer, 60)
    assert seen[-1]["train/generator/codes"] < seen[0]["train/generator/codes"] - 0.5


def test_a_packed_discriminator_sees_its_examples_side_by_side():
    model = GAN(DIGITS, **CONV, pack=4)
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, *DIGITS.shape)
    assert model.augment_and_pack(x, "real")[:, :, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert model.discriminator_outputs(model.augment_and_pack(x, "real"), None)[0].shape == (2,)
    with pytest.raises(UserError, match="4 examples together"):
        model.discriminate(x)


def test_augmentation_is_of_what_the_discriminator_sees(trainer):
    model = GAN(DIGITS, **CONV, augment={"translation": 1.0}, penalties={"r1": 1})
    losses(model, Digits(batch_size=32), trainer, 2)
    x = torch.rand(32, *DIGITS.shape)
    model.train()
    assert not torch.equal(model.augment_and_pack(x, "real"), x)
    with evaluation_mode(model):
        assert torch.equal(model.discriminate(x), model.discriminator_outputs(x, None)[0])


def test_a_term_of_the_generator_is_added(trainer):
    model = GAN(DIGITS, **SMALL, terms={"feature_matching": 2.0})
    first = losses(model, Digits(batch_size=32), trainer, 1)[0]
    added = first["train/loss_generator"] - first["train/generator/adversarial"]
    assert added == pytest.approx(2 * first["train/generator/feature_matching"], rel=1e-4)


def test_prediction_is_samples_in_the_classes_of_the_data(trainer):
    model, data = GAN(DIGITS, **SMALL, condition="concat"), Digits(batch_size=50)
    data.setup("test")
    batches = trainer().predict(model, data.test_dataloader())
    y = torch.cat([batch["y"] for batch in data.test_dataloader()])
    with evaluation_mode(model):
        assert torch.allclose(torch.cat(batches), model.sample(297, y=y), atol=1e-5)


# Averages


def test_statistics_of_an_averaged_generator_are_its_own(trainer):
    """What a batch norm remembers is the mean of what it sees, and the training's own copy is untouched."""
    model = GAN(DIGITS, latent_dim=4, network="dcgan", network_args={"width": 4}, ema={"generator": 300})
    trainer(max_steps=10, limit_val_batches=0).fit(model, Digits(batch_size=32))
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    with evaluation_mode(model):
        model.sample(3)
        averaged = model.network("generator")
        norm = next(m for m in averaged.modules() if isinstance(m, torch.nn.BatchNorm2d))
        seen = []
        handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for batch in range(batch_norm_statistics.BATCHES):
            model._pass(averaged, batch)
        handle.remove()
    assert torch.allclose(norm.running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())


def test_a_checkpoint_holds_the_statistics_of_its_weights(trainer, tmp_path):
    """Whether a validation came just before or long before."""
    saved = []
    for every in (2, 5):
        torch.manual_seed(0)
        model = GAN(DIGITS, latent_dim=4, network="dcgan", network_args={"width": 4}, ema={"generator": 300})
        run = trainer(max_steps=6, limit_val_batches=1, val_check_interval=every, plugins=AtomicCheckpointIO())
        run.fit(model, Digits(batch_size=32))
        with evaluation_mode(model):
            model.sample(1)
        run.save_checkpoint(tmp_path / f"{every}.ckpt")
        saved.append(read_checkpoint(tmp_path / f"{every}.ckpt")["state_dict"])
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())
    again = load(tmp_path / "5.ckpt")
    with evaluation_mode(model):
        assert torch.equal(again.sample(3), model.sample(3))


# Precision and devices


@pytest.mark.parametrize("name", ROWS)
def test_bfloat16_trains_every_preset(name, trainer):
    model, data = of(ROWS[name])
    for values in losses(model, data, trainer, max(2, model.n_critic), precision="bf16-mixed"):
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())


def test_penalties_are_as_in_float32(trainer):
    """Of the same weights and the same batch, to 1 %."""
    penalties, key = {"r1": 1, "r2": 1, "gp": 1, "dragan": 1}, "train/discriminator/"
    both = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = GAN(DIGITS, **CONV, penalties=penalties)
        both.append(losses(model, Digits(batch_size=32), trainer, 1, precision=precision)[0])
    for name in penalties:
        assert both[1][key + name] == pytest.approx(both[0][key + name], rel=0.01), name


TWO = """
import sys, json, torch
import lightning as L
sys.path[:0] = [{tests!r}]
from lightning_gen.cluster.flat import FlatStrategy
from test_gan import ROWS, of

def weights(name, devices):
    model, data = of(ROWS[name])
    model.log_every = 1000
    strategy = FlatStrategy() if devices > 1 else "auto"
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    run = L.Trainer(max_steps=6, limit_val_batches=0, accelerator="cpu", devices=devices, strategy=strategy,
                    use_distributed_sampler=False, **quiet)
    run.fit(model, data)
    return run, torch.cat([p.detach().flatten() for p in model.parameters()]), model

differences = {{}}
for name in ROWS:
    run, mine, model = weights(name, 2)
    both = model.all_gather(mine)
    differences[name] = [(both[0] - both[1]).abs().max().item(), mine.double().sum().item()]
    if run.is_global_zero:
        torch.save(mine, {folder!r} + f"/{{name}}.pt")
if run.is_global_zero:
    json.dump(differences, open({folder!r} + "/result.json", "w"))
"""


def test_two_processes_train_every_preset_alike(tmp_path, trainer, nursery):
    """Both ranks hold the same weights; where nothing couples the batch, they are those of one process."""
    (tmp_path / "two.py").write_text(TWO.format(tests=str(ROOT / "tests"), folder=str(tmp_path)))
    nursery.run(tmp_path / "two.py", cwd=tmp_path, ranks=2)
    found = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {name: value[0] for name, value in found.items()} == dict.fromkeys(ROWS, 0.0)
    for name in ("r3gan-toy", "r3gan"):
        model, data = of(ROWS[name])
        trainer(max_steps=6, limit_val_batches=0).fit(model, data)
        one = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert torch.allclose(one, torch.load(tmp_path / f"{name}.pt", weights_only=True), atol=2e-4), name


# Mistakes: one clear line each, before training starts

UNLABELLED = DIGITS._replace(num_classes=0)
MISTAKES = [
    ({"adversarial": "hing"}, DIGITS, "did you mean 'hinge'"),
    ({"label_smoothing": 1.0}, DIGITS, r"share in \[0, 1\)"),
    ({"label_smoothing": "-0.1..0@5"}, DIGITS, r"share in \[0, 1\)"),
    ({"label_smoothing": 0.1, "adversarial": "hinge"}, DIGITS, "no labels to smooth: take adversarial non_saturating"),
    ({"penalties": {"r3": 1}}, DIGITS, "unknown term 'r3'|unknown penalty 'r3'"),
    ({"penalties": {"gp": "auto"}}, DIGITS, "a rule is known for r1 and r2"),
    ({"penalties": {"r1": {"weight": 1, "every": 0}}}, DIGITS, "every 0"),
    ({"penalties": {"gp": 10}, "critic_args": {"norm": "batch"}}, DIGITS, "without batch norm"),
    ({"condition": "concat"}, UNLABELLED, "no class labels"),
    ({"condition": "class"}, DIGITS, "unknown condition 'class'"),
    ({"spectral_norm": "all"}, DIGITS, "unknown spectral_norm 'all'"),
    ({"network": "dcgan", "penalties": {"r1": 1}}, DIGITS._replace(shape=(1, 16, 16)), "without batch norm"),
    ({"penalties": {"r1": float("nan")}}, DIGITS, "must not be negative"),
    ({"pack": 2, "condition": "concat"}, DIGITS, "no one class"),
    ({"pack": 2, "codes": {"continuous": 1}}, DIGITS, "no one code"),
    ({"pack": 0}, DIGITS, "pack 0"),
    ({"codes": {"weight": 2}}, DIGITS, "codes without any"),
    ({"codes": {"continuous": 1, "start": 3}}, DIGITS, "codes.start"),
    ({"penalties": {"r1": -1}}, DIGITS, "must not be negative"),
    ({"penalties": {"mine": {"weight": 1, "function": r1}}, "critic_args": {"norm": "batch"}}, DIGITS, "batch norm"),
    ({"codes": {"categories": [10]}}, DIGITS, "no option 'categories'"),
    ({"weight_clip": -1.0}, DIGITS, "weight_clip -1"),
    ({"codes": {"categorical": [1]}}, DIGITS, "categorical"),
    ({"augment": {"blur": 1}}, DIGITS, "unknown"),
    ({"augment": {"color": 1}}, DataSpec((2,), "vector", "real"), "image"),
    ({"network": "dcgan"}, DataSpec((1, 5, 5)), "8 to 256"),
    ({"network": "r3gan", "network_args": {"group_size": 7}}, DIGITS, "group_size 7"),
    ({}, DataSpec((12,), "text", "tokens", vocab=tuple("abcde")), "tokens"),
    ({"ema": {"critic": 100}}, DIGITS, "unknown player of ema"),
]


@pytest.mark.parametrize(("options", "spec", "text"), MISTAKES)
def test_mistakes_are_one_line(options, spec, text):
    with pytest.raises(UserError, match=text) as caught:
        GAN(spec, **options)
    assert "\n" not in str(caught.value)


def test_wasserstein_without_a_constraint_is_warned_of():
    with pytest.warns(UserWarning, match="diverges"):
        GAN(DIGITS, **SMALL, adversarial="wasserstein")
    GAN(DIGITS, **SMALL, adversarial="wasserstein", spectral_norm="discriminator")


def test_a_batch_that_does_not_fit_the_packing_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = cli.resolve_config(*parse_short_options(["--model", "pacgan", "--data.batch_size", "33", "--steps", "2"]))
    with pytest.raises(UserError, match="33"):
        fit.train(plan)
    assert not (tmp_path / "tb_logs").exists()


def test_a_penalty_of_no_weight_is_none(trainer):
    """Not even its gradient is looked for, which batch norm would not give."""
    model = GAN(DIGITS, latent_dim=4, network="dcgan", critic_args={"width": 4, "extra": 1}, penalties={"r1": 0})
    seen = losses(model, Digits(batch_size=32), trainer, 1)
    assert "train/discriminator/r1" not in seen[0]


def test_standing_statistics_see_all_classes(trainer):
    model = GAN(DIGITS._replace(num_classes=100), **SMALL, condition="concat").eval()
    seen = []
    model.generator.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[1].tolist()))
    for batch in range(batch_norm_statistics.BATCHES):
        model._pass(model.generator, batch)
    assert set(seen) == set(range(100))


def test_naming_the_critic_in_use_keeps_its_options():
    arguments = ["--model", "wgan-gp", "--model.critic", "dcgan"]
    named = cli.resolve_config(*parse_short_options(arguments)).config["model"]["init_args"]["critic_args"]
    assert named == PRESETS["wgan-gp"].arguments["critic_args"]


def test_a_batch_that_does_not_fit_the_packing_is_refused_from_python(trainer):
    with pytest.raises(UserError, match="batch of 33 is no multiple of pack 2"):
        trainer(max_steps=1, limit_val_batches=0).fit(GAN(DIGITS, **SMALL, pack=2), Digits(batch_size=33))


@pytest.mark.parametrize(
    ("arguments", "r1_now"),
    [
        (["--model", "r3gan", "--model.penalties.r1.every", "4"], {"weight": "0.5..0.05@80% cos", "every": 4}),
        (["--model", "r3gan", "--model.penalties.r1", "0.1", "--model.penalties.r1.every", "4"], None),
        (["--model", "r3gan", "--model.penalties.r1", "0.2"], 0.2),
    ],
)
def test_arguments_of_a_penalty_leave_its_weight(arguments, r1_now):
    penalties = cli.resolve_config(*parse_short_options(arguments)).config["model"]["init_args"]["penalties"]
    assert penalties["r1"] == (r1_now or {"weight": 0.1, "every": 4})
    assert penalties["r2"] == "0.5..0.05@80% cos"


def test_a_penalty_by_its_import_path_has_an_interval_too():
    nested = {"lightning_gen": {"objectives": {"penalties": {"r1": {"weight": 1, "every": 4}}}}}
    model = GAN(DIGITS, **SMALL, penalties=nested)
    assert model.penalties.every == {"lightning_gen.objectives.penalties.r1": 4}


@pytest.mark.parametrize("y", [[10], [-1]])
def test_a_class_out_of_range_is_refused(y):
    model = GAN(DIGITS, **SMALL, condition="concat").eval()
    with pytest.raises(UserError, match="0 to 9"):
        model.sample(1, y=torch.tensor(y))
