"""Networks for every size and kind of data, and the names by which they are found."""

from __future__ import annotations

import collections
import functools
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen import networks
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import resolve, to_serializable, trusted_imports
from lightning_gen.networks import NETWORKS, Network, layers
from lightning_gen.networks.condition import ConditionSpec
from lightning_gen.networks.dcgan import downsampled_sizes

SMALL = {"mlp": {"hidden": [12, 8]}, "dcgan": {"width": 2}}
MLP_SHAPES = [(1,), (2,), (1, 4, 4), (3, 5, 7), (1, 28, 28), (2, 9), (1, 2, 3, 4)]
DCGAN_SHAPES = [(1, 8, 8), (3, 9, 15), (1, 28, 28), (3, 32, 32), (2, 31, 17), (3, 8, 256), (1, 100, 64), (3, 256, 256)]
SHAPES = [("mlp", s) for s in MLP_SHAPES] + [("dcgan", s) for s in DCGAN_SHAPES]
ONE_EACH = [("mlp", (1, 5, 7)), ("dcgan", (3, 21, 18))]

FOUR = ConditionSpec("class", 4)


def pair(name: str, shape: tuple[int, ...], **options) -> tuple[nn.Module, nn.Module]:
    options = {**SMALL[name], **options}
    params = (2 * shape[0], *shape[1:])
    encoder = networks.encoder(name, DataSpec(shape), 6, **options)
    return encoder, networks.decoder(name, DataSpec(shape), 3, params, **options)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Shapes and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shape", SHAPES)
def test_shapes(name: str, shape: tuple[int, ...]):
    encoder, decoder = pair(name, shape)
    x = torch.randn(2, *shape)
    assert encoder(x).shape == (2, 6)
    assert encoder.features(x).shape == (2, encoder.num_features)
    assert torch.equal(encoder.eval()(x), encoder.head(encoder.features(x)))
    assert decoder(torch.randn(2, 3)).shape == (2, 2 * shape[0], *shape[1:])


def test_halvings_end_at_4_to_7():
    assert downsampled_sizes(DataSpec((1, 28, 28))) == [(28, 28), (14, 14), (7, 7)]
    for side in range(8, 257):
        assert 4 <= min(downsampled_sizes(DataSpec((1, side, 256)))[-1]) <= 7


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("name, shape", ONE_EACH)
def test_a_gradient_reaches_every_parameter(name: str, shape: tuple[int, ...], norm: str):
    for network, given in zip(pair(name, shape, norm=norm, condition=FOUR), (shape, (3,)), strict=True):
        out = network(torch.randn(8, *given), torch.arange(8) % 4)
        (out * torch.randn_like(out)).sum().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 1e-4, key  # rounding alone, as at a bias before a norm, gives less


@pytest.mark.parametrize("name, shape", ONE_EACH)
def test_eval_is_deterministic_and_free_of_the_rest_of_the_batch(name: str, shape: tuple[int, ...]):
    for network, given in zip(pair(name, shape, norm="batch", dropout=0.5), (shape, (3,)), strict=True):
        x = torch.randn(6, *given)
        one, two = network(x), network(x)
        assert not torch.equal(one, two)  # dropout is at work
        network.eval()
        torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, shape", ONE_EACH)
def test_a_condition_changes_the_output_and_is_asked_for(name: str, shape: tuple[int, ...]):
    for network, given in zip(pair(name, shape, condition=FOUR), (shape, (3,)), strict=True):
        x = torch.randn(1, *given).expand(4, *given)
        out = network.eval()(x, torch.tensor([0, 1, 3, 3]))
        assert torch.allclose(out[2], out[3], atol=1e-6) and (out[0] - out[1]).abs().max() > 1e-3
        with pytest.raises(ValueError, match=r"for ConditionSpec.*was called without one"):
            network(x)
    plain, _ = pair(name, shape)
    assert pair(name, shape, condition=FOUR)[0].num_features == plain.num_features
    with pytest.raises(ValueError, match="without a condition was called with one"):
        plain(x.new_zeros(4, *shape), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("name, shape", [("mlp", (1, 16, 16)), ("dcgan", (3, 128, 128))])
def test_activations_keep_their_size_without_a_norm(name: str, shape: tuple[int, ...]):
    options = {"hidden": [200] * 8} if name == "mlp" else {"width": 16}
    encoder, decoder = pair(name, shape, norm="none", activation="relu", **options)
    x, z = torch.randn(4, *shape), torch.randn(64, 3)
    assert 0.2 < encoder.features(x).square().mean() < 5
    assert encoder.head.weight.var().item() * encoder.num_features == pytest.approx(1 / 3, rel=0.3)
    hidden = decoder.body(z) if name == "mlp" else decoder.body[:-1](z)
    assert 0.1 < hidden.square().mean() < 10


def test_options_reach_the_network():
    encoder, decoder = pair("mlp", (5,), hidden=(9, 4), activation="tanh", norm="layer", dropout=0.25)
    assert [m.out_features for m in encoder.modules() if isinstance(m, nn.Linear)] == [9, 4, 6]
    assert [m.out_features for m in decoder.modules() if isinstance(m, nn.Linear)] == [4, 9, 10]
    kinds = [type(m) for m in decoder.modules()]
    assert all(kinds.count(kind) == 2 for kind in (nn.Tanh, nn.LayerNorm, nn.Dropout))
    encoder, decoder = pair("dcgan", (3, 256, 256), width=2, norm="layer", dropout=0.25, extra=2)
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == [2, 4, 8, 16, 16, 16, 16, 16]
    assert [m.out_channels for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)] == [16, 16, 8, 4, 2, 6]
    assert [sum(isinstance(m, nn.GroupNorm) for m in n.modules()) for n in (encoder, decoder)] == [7, 8]
    assert sum(isinstance(m, nn.Dropout) for m in pair("dcgan", (3, 32, 32))[0].modules()) == 0


def test_scale_is_the_size_of_the_values():
    torch.manual_seed(0)
    plain = pair("mlp", (2,))
    torch.manual_seed(0)
    scaled = pair("mlp", (2,), scale=4.0)
    x = torch.randn(5, 2)
    torch.testing.assert_close(scaled[0](4 * x), plain[0](x))
    z = torch.randn(5, 3)
    torch.testing.assert_close(scaled[1](z), 4 * plain[1](z))


@pytest.mark.parametrize("activation", layers.ACTIVATIONS)
def test_every_activation_is_its_function(activation: str):
    module = layers.ACTIVATIONS[activation]()
    x = torch.linspace(-3, 3, 7)
    slope = {"negative_slope": 0.2} if activation == "leaky_relu" else {}
    function = torch.tanh if activation == "tanh" else getattr(nn.functional, activation)
    torch.testing.assert_close(module(x), function(x, **slope))


# What is chosen, and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, name",
    [
        ((2,), "mlp"),
        ((1, 8, 8), "mlp"),
        ((3, 16, 16), "mlp"),
        ((1, 17, 16), "dcgan"),
        ((1, 28, 28), "dcgan"),
        ((3, 4, 100), "mlp"),
        ((1, 400), "mlp"),
    ],
)
def test_auto_suits_the_data(shape: tuple[int, ...], name: str):
    spec = DataSpec(shape, {1: "vector", 2: "audio", 3: "image"}[len(shape)])
    assert networks.auto(spec) == name
    assert type(networks.encoder("auto", spec, 1)) is NETWORKS[name].encoder
    assert type(networks.decoder("auto", spec, 1, shape)) is NETWORKS[name].decoder


@pytest.mark.parametrize(
    "name, shape, options, said",
    [
        ("dcgan", (1, 7, 20), {}, "8 to 256 pixels, not 7x20: .*--data.size, or try --model.network mlp"),
        ("dcgan", (1, 20, 257), {}, "not 20x257"),
        ("auto", (3, 512, 512), {}, "not 512x512"),
        ("dcgan", (2,), {}, "not 2"),
        ("mpl", (2,), {}, "did you mean 'mlp'"),
        ("auto", (2,), {"width": 3}, "network 'mlp' has no option 'width'"),
        ("mlp", (2,), {"hiden": [3]}, r"network 'mlp' has no option 'hiden': its options are hidden=\(400,\), act"),
        ("dcgan", (1, 8, 8), {"hidden": [3]}, "has no option 'hidden': its options are width=32"),
        ("mlp", (2,), {"hidden": 3}, r"hidden=3 is not of the type of its default \(400,\)"),
        ("mlp", (2,), {"hidden": [0, 0]}, "hidden 0, 0: possible are whole numbers above 0"),
        ("dcgan", (1, 8, 8), {"width": 0}, "width 0"),
        ("mlp", (2,), {"dropout": "much"}, "dropout='much' is not of the type"),
        ("mlp", (2,), {"dropout": True}, "dropout=True is not of the type"),
        ("mlp", (2,), {"dropout": 1}, "dropout 1: possible are 0 <= dropout < 1"),
        ("mlp", (2,), {"scale": 0.0}, "scale 0.0: the size"),
        ("mlp", (2,), {"activation": "rleu"}, "did you mean 'relu'"),
        ("dcgan", (1, 8, 8), {"activation": "rleu"}, "did you mean 'relu'"),
        ("mlp", (2,), {"norm": "bach"}, "did you mean 'batch'"),
        ("math.pi", (2,), {}, r"'math.pi' has no \..*coder\(\): it needs"),
    ],
)
def test_wrong_networks_are_refused(name: str, shape: tuple[int, ...], options, said: str):
    for build in (
        lambda: networks.encoder(name, DataSpec(shape), 1, **options),
        lambda: networks.decoder(name, DataSpec(shape), 1, shape, **options),
    ):
        with pytest.raises(UserError, match=said):
            build()


MINE = """
from torch import nn

class Net:
    @staticmethod
    def encoder(spec, out, depth=1):
        return nn.Linear(spec.shape[0], out)

    @staticmethod
    def decoder(spec, latent_dim, params, depth=1):
        return nn.Linear(latent_dim, params[0])

    class Inner(nn.ReLU):
        pass
"""


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(MINE)
    (tmp_path / "my_broken.py").write_text("import no_such_module\n")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "deep.py").write_text("import os\n" + MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [n for n in sys.modules if n.startswith(("my_nets", "my_package"))]:
        del sys.modules[name]


def test_a_network_of_ones_own_by_path_or_object(my_nets):
    import my_nets

    mine = [my_nets.Net, Network(my_nets.Net.encoder, my_nets.Net.decoder), "my_nets.Net"]
    for name in mine:
        assert networks.encoder(name, DataSpec((5,)), 2, depth=3).out_features == 2
        assert networks.decoder(name, DataSpec((5,)), 2, (7,)).out_features == 7
        with pytest.raises(UserError, match="its options are depth=1"):
            networks.encoder(name, DataSpec((5,)), 2, hidden=[3])
    for activation in ("my_nets.Net.Inner", my_nets.Net.Inner):
        encoder = networks.encoder("mlp", DataSpec((5,)), 2, activation=activation)
        assert any(isinstance(m, my_nets.Net.Inner) for m in encoder.modules())


# Names ----------------------------------------------------------------------------------------------------------------

TABLE = {"one": 1, "dotted.name": 2}


def test_resolve_takes_a_row_a_path_or_the_object(my_nets):
    assert resolve("one", TABLE, "number") == 1
    assert resolve("dotted.name", TABLE, "number") == 2
    assert resolve(math.pi, TABLE, "number") == math.pi
    assert resolve("math.pi", TABLE, "number") == math.pi
    assert resolve("my_package.deep.Net.Inner", TABLE, "net").__qualname__ == "Net.Inner"
    assert resolve("my_package.deep", TABLE, "net").__name__ == "my_package.deep"


@pytest.mark.parametrize(
    "name, said",
    [
        ("on", "unknown number 'on': did you mean 'one'"),
        ("no_such.Net", "cannot import number 'no_such.Net': No module named 'no_such'.*one of: dotted.name, one"),
        ("my_nets.Nte", "No module named 'my_nets.Nte'"),
        ("my_nets.Net.enc", "no attribute 'enc'"),
        ("my_broken.Net", "No module named 'no_such_module'"),
        ("my_package.shallow.Net", "No module named 'my_package.shallow'"),
        ("..one", "cannot import"),
    ],
)
def test_resolve_says_what_was_tried(name: str, said: str, my_nets):
    with pytest.raises(UserError, match=said):
        resolve(name, TABLE, "number")


def test_trust_opens_only_what_is_named(my_nets):
    with (
        trusted_imports([]),
        pytest.raises(UserError, match=r"^checkpoint asks.*pass trust=\['my_nets'\] to load\(\), or --trust my_nets"),
    ):
        resolve("my_nets.Net", TABLE, "net")
    assert "my_nets" not in sys.modules  # refused before it ran
    with trusted_imports(["my_nets", "my_package.deep"]):
        assert resolve("my_nets.Net", TABLE, "net").__module__ == "my_nets"
        assert resolve("my_package.deep.Net", TABLE, "net").__module__ == "my_package.deep"
        with pytest.raises(UserError, match=r"my_package\.other"):
            resolve("my_package.other.Net", TABLE, "net")
    with trusted_imports(["my_net"]), pytest.raises(UserError, match="asks to import"):
        resolve("my_nets.Net", TABLE, "net")
    for inner in (None, ["math"]):  # what is opened inside cannot widen it
        with trusted_imports(["my_nets"]), trusted_imports(inner), pytest.raises(UserError, match="asks to import"):
            resolve("math.pi", TABLE, "number")
    assert resolve("math.pi", TABLE, "number") == math.pi  # and afterwards everything is open again


@pytest.mark.parametrize(
    "path",
    [
        "lightning_gen.names.import_module",
        "lightning_gen.names.ModuleType",
        "lightning_gen.networks.layers.torch.hub.load",
        "lightning_gen.networks.NETWORKS.clear",
        "my_package.deep.os.system",
    ],
)
def test_trust_does_not_reach_through_a_modules_own_imports(path: str, my_nets):
    with trusted_imports(["my_package"]), pytest.raises(UserError, match="asks to import"):
        resolve(path, TABLE, "net")


def test_our_own_names_are_always_trusted():
    with trusted_imports([]):
        assert resolve("lightning_gen.networks.mlp.MLPEncoder", TABLE, "net") is networks.mlp.MLPEncoder
        assert resolve("one", TABLE, "number") == 1


def test_plain_values_pass_weights_only(tmp_path):
    value = {
        "numbers": (1, 2.5, True, None, np.float32(0.5), np.int64(3), np.bool_(True)),
        "nested": collections.OrderedDict({3: ["a", {"b": ()}]}),
        "function": downsampled_sizes,
        "class": nn.ReLU,
        "instance": nn.ReLU(),
        "partial": functools.partial(downsampled_sizes),
        "network": NETWORKS["mlp"],
    }
    expected = {
        "numbers": [1, 2.5, True, None, 0.5, 3, True],
        "nested": {"3": ["a", {"b": []}]},
        "function": "lightning_gen.networks.dcgan.downsampled_sizes",
        "class": "torch.nn.modules.activation.ReLU",
        "instance": "<instance of torch.nn.modules.activation.ReLU>",
        "partial": "<instance of functools.partial>",
        "network": "<instance of lightning_gen.networks.Network>",
    }
    assert to_serializable(value) == expected
    assert [type(v) for v in to_serializable(value["numbers"])] == [int, float, bool, type(None), float, int, bool]
    torch.save(to_serializable(value), tmp_path / "plain.pt")
    assert torch.load(tmp_path / "plain.pt", weights_only=True) == expected
    assert resolve(expected["function"], TABLE, "function") is downsampled_sizes
    with pytest.raises(UserError):
        resolve(expected["instance"], TABLE, "net")
