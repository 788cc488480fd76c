"""Feature extractors: the shipped files, the frozen wrapper, the way to one's own, and the names of numbers."""

import hashlib
import shutil

import lightning as L
import pytest
import torch
from processes import ROOT
from torch import nn
from torchmetrics import Metric

from lightning_gen.commands import train_extractor
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.mnist import MNIST
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.metrics import extractors
from lightning_gen.metrics.extractors import EXTRACTORS, RAW, Extractor, find_extractor, load_extractor, sha256_of
from lightning_gen.networks.classifier import Classifier

DIGIT, RGB = DataSpec(shape=(1, 8, 8), num_classes=10), DataSpec(shape=(3, 32, 32))
SHIPPED = {"mnist_v1": (1, 28, 28), "digits_v1": (1, 8, 8)}


def images(count, *shape, seed=0):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def classifier(shape=(1, 8, 8), classes=10):
    """With batch statistics that any pass in train mode would move."""
    network = Classifier(shape, classes)
    network.train()(torch.randn(32, *shape) + 1)
    return network


def recognised(extractor, data):
    data.setup("test")
    return train_extractor.accuracy(extractor, data, data.test_dataloader())


@pytest.fixture
def mine():
    return Extractor(classifier(), "mine", shape=(1, 8, 8), num_classes=10)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, and an empty cache of torch.hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_extractors_load_and_match_their_pins(name):
    extractor = EXTRACTORS[name]()
    path = extractors.WEIGHTS / f"{name}.safetensors"
    assert extractor.name == name and extractor.shape == SHIPPED[name] and extractor.num_classes == 10
    assert extractor.sha256 == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert b"/" not in path.read_bytes()[: 8 + int.from_bytes(path.read_bytes()[:8], "little")], "a path in the header"
    features, log_probs = extractor.features_and_log_probs(images(5, *SHIPPED[name]))
    assert features.shape == (5, 64) and features.dtype == log_probs.dtype == torch.float64
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(5, dtype=torch.float64))


def test_digits_v1_recognises_the_test_digits():
    assert recognised(EXTRACTORS["digits_v1"](), Digits()) >= 0.97


def test_mnist_v1_recognises_the_test_digits():
    data = MNIST(root=str(ROOT.parent / "shared/data/mnist"), batch_size=256)
    if not data.raw.is_dir():
        pytest.skip(f"no MNIST at {data.raw}")
    assert recognised(EXTRACTORS["mnist_v1"](), data) >= 0.988


def test_features_of_the_training_images_have_mean_0_and_variance_1():
    data = Digits(batch_size=1300)
    features = EXTRACTORS["digits_v1"]()(next(iter(data.train_dataloader()))["x"])
    assert features.mean(0).abs().max() < 0.25
    assert features.var(0).min() > 0.6 and features.var(0).max() < 1.6


def test_a_module_or_metric_that_holds_an_extractor_registers_nothing(mine):
    class Holder(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.extractor = mine

    class Held(Metric):
        def __init__(self):
            super().__init__()
            self.extractor = mine
            self.add_state("total", torch.zeros(()))

        def update(self, x):
            self.total += mine(x).sum()

        def compute(self):
            return self.total

    for holder in (Holder(), Held()):
        assert not list(holder.parameters()) and not list(holder.buffers()) and not holder.state_dict()
        assert not list(holder.children())


def test_training_neither_holder_nor_network_changes_the_features(mine):
    network = classifier()
    extractor = Extractor(network, "mine")
    x = images(40, 1, 8, 8)
    before = extractor(x)
    buffers = {name: value.clone() for name, value in extractor._network.state_dict().items()}
    network.train()(torch.randn(32, 1, 8, 8))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    extractor._network.train()
    assert torch.equal(extractor(x), before)
    assert not extractor._network.training
    assert all(torch.equal(value, buffers[name]) for name, value in extractor._network.state_dict().items())
    assert all(weight.requires_grad for weight in network.parameters()), "the user's own network was frozen"


def test_gradients_and_inference_mode_do_not_reach_the_network(mine):
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    assert not mine(x).requires_grad
    with torch.inference_mode():
        inside = mine(torch.zeros(2, 1, 8, 8))
    assert torch.equal(inside, mine(x)) and not inside.is_inference()


def test_autocast_outside_changes_nothing(mine):
    x = images(20, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mine.features_and_log_probs(x)
    outside = mine.features_and_log_probs(x)
    assert torch.equal(inside[0], outside[0]) and torch.equal(inside[1], outside[1])


def test_a_network_in_half_precision_gives_finite_float64():
    network = classifier()
    x = images(20, 1, 8, 8)
    half = Extractor(network.half(), "half", num_classes=10)
    features, log_probs = half.features_and_log_probs(x)
    assert features.dtype == log_probs.dtype == torch.float64
    assert features.isfinite().all() and log_probs.isfinite().all()
    assert (features * 1e4).square().sum(0).isfinite().all()


def test_bytes_and_floats_give_the_same_features(mine):
    x = images(64, 1, 8, 8)
    floats = x.float() / 127.5 - 1
    noise = (torch.rand(floats.shape, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.9 / 127.5
    for extractor in (mine, RAW):
        assert torch.equal(extractor(floats), extractor(x))
        assert torch.equal(extractor(floats.double() + noise), extractor(x))
    assert torch.equal(RAW(torch.full((1, 1, 8, 8), 7.0)), torch.ones(1, 64, dtype=torch.float64))


def test_the_size_of_a_pass_does_not_matter(mine):
    x = images(50, 1, 8, 8)
    whole = mine.features_and_log_probs(x)
    mine.batch_size = 7
    parts = mine.features_and_log_probs(x)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)


def test_both_is_the_two_calls(mine):
    x = images(9, 1, 8, 8)
    features, log_probs = mine.features_and_log_probs(x)
    assert torch.equal(features, mine(x)) and torch.equal(log_probs, mine.log_probs(x))


def test_no_examples_give_no_features(mine):
    features, log_probs = mine.features_and_log_probs(images(0, 1, 8, 8))
    assert features.shape == (0, 64) and log_probs.shape == (0, 10)


def test_wrong_examples_are_refused(mine):
    with pytest.raises(UserError, match=r"'mine' takes examples of shape \(1, 8, 8\), these are \(3, 8, 8\)"):
        mine(images(2, 3, 8, 8))
    with pytest.raises(UserError, match="int64"):
        mine(torch.zeros(2, 1, 8, 8, dtype=torch.int64))
    with pytest.raises(UserError, match="nan or inf"):
        mine(torch.full((2, 1, 8, 8), float("nan")))
    any_size = Extractor(nn.Flatten(), "any", shape=(3, None, None))
    any_size(images(2, 3, 9, 5))
    with pytest.raises(UserError, match=r"\(3, any, any\), these are \(1, 9, 5\)"):
        any_size(images(2, 1, 9, 5))


def test_networks_of_ones_own():
    features_only = Extractor(nn.Conv2d(1, 4, 8), "conv")
    assert features_only(images(3, 1, 8, 8)).shape == (3, 4)
    assert features_only.features_and_log_probs(images(3, 1, 8, 8))[1] is None
    with pytest.raises(UserError, match="no classes"):
        features_only.log_probs(images(3, 1, 8, 8))
    with pytest.raises(UserError, match="num_classes=5, but its network gives features only"):
        Extractor(nn.Flatten(), "flat", num_classes=5)(images(3, 1, 8, 8))
    with pytest.raises(UserError, match=r"num_classes=5, but its network gives logits of shape \(3, 10\)"):
        Extractor(classifier(), "mine", num_classes=5)(images(3, 1, 8, 8))


def test_raw_gives_the_values_themselves():
    points = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(RAW(points), points)
    assert RAW(points.float()).dtype == torch.float64
    pictures = images(5, 3, 4, 4)
    expected = (pictures.double() / 127.5 - 1).flatten(1)
    torch.testing.assert_close(RAW(pictures), expected, atol=1e-7, rtol=0)


def test_only_the_published_network_gives_published_names(mine):
    published = Extractor(nn.Flatten(), "inception", published=True)
    assert [mine.label(m) for m in ("fd", "kd", "cs", "precision")] == [
        "fd_mine",
        "kd_mine",
        "cs_mine",
        "precision_mine",
    ]
    assert [published.label(m) for m in ("fd", "kd", "cs")] == ["fid", "kid", "is"]
    assert RAW.label("fd") == "fd_raw" and EXTRACTORS["digits_v1"]().label("fd") == "fd_digits_v1"


def test_a_shipped_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    content = bytearray((extractors.WEIGHTS / "digits_v1.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits_v1.safetensors").write_bytes(content)
    monkeypatch.setattr(extractors, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="is damaged: sha256"):
        EXTRACTORS["digits_v1"]()
    with pytest.raises(UserError, match="found no file"):
        EXTRACTORS["mnist_v1"]()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    content = (extractors.WEIGHTS / "digits_v1.safetensors").read_bytes()
    cases = {"empty": b"", "truncated": content[:-100], "header": content[:40], "other": b"hello, I am no weights file"}
    cases["architecture"] = content.replace(b'\\"width\\": 16', b'\\"width\\": 17')
    cases["shape"] = content.replace(b"[1, 8, 8]", b"[1, 8, 0]")
    cases["format"] = content.replace(b'\\"format\\": 1', b'\\"format\\": 2')
    assert content not in cases.values()
    for name, damaged in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name}\.safetensors is damaged, or no file of"):
            load_extractor(path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"foreign\.safetensors is damaged, or no file of"):
        load_extractor(tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no extractor at"):
        load_extractor(tmp_path / "missing.safetensors")


def test_loading_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    EXTRACTORS["digits_v1"]()
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_finds_what_suits_the_data(here):
    assert find_extractor("auto", "digits", DIGIT).name == "digits_v1"
    assert find_extractor("auto", "mnist", DataSpec(shape=(1, 28, 28))).name == "mnist_v1"
    assert find_extractor("auto", "toy", DataSpec(shape=(2,), kind="vector", values="real")) is RAW
    assert find_extractor("raw", "digits", DIGIT) is RAW
    with pytest.raises(UserError, match=r"'fashion-mnist'.*train-extractor --data fashion-mnist.*--extractor raw"):
        find_extractor("auto", "fashion-mnist", DataSpec(shape=(1, 28, 28), num_classes=10))
    with pytest.raises(UserError, match=r"'pictures'.*inception needs.*Try: --extractor raw"):
        find_extractor("auto", "pictures", RGB)
    with pytest.raises(UserError, match="did you mean 'mnist_v1'"):
        find_extractor("mnist_v2", "mnist", DIGIT)
    with pytest.raises(UserError, match=r"no extractor at .*gone\.safetensors"):
        find_extractor("gone.safetensors", "mnist", DIGIT)
    with pytest.raises(UserError, match=r"\(1, 28, 28\), these are \(1, 8, 8\)"):
        find_extractor("mnist_v1", "digits", DIGIT)


def test_missing_inception_says_what_belongs_where(here):
    pytest.importorskip("torch_fidelity", reason="needs the extra 'eval'")
    with pytest.raises(UserError) as error:
        find_extractor("inception", "cifar10", RGB)
    path = here / "hub" / "checkpoints" / extractors.INCEPTION
    for part in (str(path), "95,628,359 bytes", extractors.INCEPTION_SHA256, extractors.INCEPTION_URL):
        assert part in str(error.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"\(14 bytes\) is damaged or another file"):
        find_extractor("inception", "cifar10", RGB)


def test_inception_with_random_weights(here, monkeypatch):
    """All but the published values, for which the real file would be needed."""
    pytest.importorskip("torch_fidelity", reason="needs the extra 'eval'")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = here / "hub" / "checkpoints" / extractors.INCEPTION
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"], str(path))
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match="damaged or another file"):
        find_extractor("auto", "cifar10", RGB)
    monkeypatch.setattr(extractors, "INCEPTION_SIZE", path.stat().st_size)
    with pytest.raises(UserError, match="damaged or another file"):
        find_extractor("auto", "cifar10", RGB)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256_of(path))
    extractor = find_extractor("auto", "cifar10", RGB)
    assert extractor.published and extractor.label("fd") == "fid" and extractor.sha256 == sha256_of(path)
    x = images(4, 3, 32, 32)
    features, log_probs = extractor.features_and_log_probs(x)
    direct = network(x)
    assert features.shape == (4, 2048) and log_probs.shape == (4, 1008) and features.dtype == torch.float64
    torch.testing.assert_close(features, direct[0].double())
    torch.testing.assert_close(log_probs, direct[1].double().log_softmax(1))
    assert torch.equal(extractor(x.float() / 127.5 - 1), features)
    with pytest.raises(UserError, match=r"\(3, any, any\), these are \(1, 28, 28\)"):
        extractor(images(4, 1, 28, 28))


def test_training_below_the_gate_writes_nothing(here, script):
    result = script("train_extractor", "--data", "digits", "--steps", 2, ok=False)
    assert result.returncode == 2
    assert "error: " in result.stderr and "nothing was written" in result.stderr and "90.00%" in result.stderr
    assert not list(here.iterdir())


def test_a_trained_extractor_is_found_again(here, images28, capsys):
    shutil.copy(images28, here / "My Digits.npz")
    arguments = ["--data", "My Digits.npz", "--steps", "3", "--min_accuracy", "0", "--data.batch_size", "16"]
    train_extractor.main(arguments)
    output = capsys.readouterr().out
    path = here / "tb_logs/extractors/my_digits.safetensors"
    extractor = load_extractor(path)
    assert extractor.name == f"my_digits_{sha256_of(path)[:8]}" and extractor.sha256 == sha256_of(path)
    assert extractor.name in output and sha256_of(path) in output and "--extractor tb_logs" in output
    assert str(here).encode() not in path.read_bytes()
    spec = DataSpec(shape=(1, 28, 28), num_classes=10)
    x = images(3, 1, 28, 28)
    for name in ("auto", str(path)):
        assert torch.equal(find_extractor(name, "My Digits.npz", spec)(x), extractor(x))
    train_extractor.main([*arguments, "--out", "again.safetensors"])
    again = load_extractor("again.safetensors")
    assert torch.equal(again(x), extractor(x)), "the same seed gave other weights"
    train_extractor.main([*arguments, "--out", "other.safetensors", "--seed", "1"])
    assert not torch.equal(load_extractor("other.safetensors")(x), extractor(x))


def test_training_leaves_the_global_generator_alone(here):
    state = torch.get_rng_state()
    train_extractor.main(["--data", "digits", "--steps", "1", "--min_accuracy", "0"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "toy"], "holds vectors"),
        (["--data", "shapes"], "no class labels"),
        (["--data", "digits", "--step", "5"], "did you mean '--steps'"),
        (["--data", "digits", "--model.width", "5"], "unknown option '--model.width'"),
        (["--data", "digits", "--data.root", "x"], "root"),
        (["--data", "digits", "--steps", "0"], "steps 0"),
        (["--data", "digits", "--min_accuracy", "90"], "between 0 and 1"),
        (["--data", "digits", "--out", "."], "is a folder"),
        (["--data", "digits", "--data.batch_size", "1"], "at least 2"),
    ],
)
def test_mistakes_are_refused_before_training(here, arguments, text):
    with pytest.raises(UserError, match=text):
        train_extractor.main(arguments)
    assert not list(here.iterdir())


def test_shifts_move_pictures_as_a_whole():
    picture = torch.zeros(1, 1, 28, 28)
    picture[0, 0, 14, 14] = 1
    moved = train_extractor.shifted(picture.expand(500, -1, -1, -1), torch.Generator().manual_seed(0))
    assert (moved.sum((1, 2, 3)) == 1).all()
    places = {tuple(place) for place in moved.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in range(12, 17) for column in range(12, 17)}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 200), (1, 9, 15), (3, 256, 256), (1, 31, 64)])
def test_the_classifier_takes_images_of_any_size(shape):
    features, logits = Classifier(shape, 3, width=4).eval()(torch.zeros(2, *shape))
    assert features.shape == (2, 16) and logits.shape == (2, 3)


def test_the_classifier_refuses_other_examples():
    for shape in [(1, 7, 8), (2, 8, 8), (3, 257, 300), (5,)]:
        with pytest.raises(UserError, match="8 to 256 pixels"):
            Classifier(shape, 10)
    with pytest.raises(UserError, match="at least 2 classes"):
        Classifier((1, 8, 8), 1)
