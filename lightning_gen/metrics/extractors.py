"""Feature extractors: frozen networks that map examples to features, and the names of metrics computed with them.

A distance depends on its extractor more than on the model, so a number carries the extractor's name: "fd_mnist_v1".
Only the published Inception network gives "fid", "kid" and "is".
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError, program, unknown
from lightning_gen.datamodules.files import check_regular
from lightning_gen.datamodules.pixels import to_float
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model
from lightning_gen.kinds import kind_of
from lightning_gen.networks.classifier import Classifier

FORMAT = 1
KEY = "lightning_gen_extractor"  # of the file's metadata; a single entry, because safetensors shuffles several
WEIGHTS = Path(__file__).parent / "weights"
TRAINED = Path("tb_logs") / "extractors"  # where train_extractor.py writes by default
PUBLISHED = {"fd": "fid", "kd": "kid", "cs": "is"}
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_SIZE = 95_628_359
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

Shape = tuple[int | None, ...]  # None: any size


class Extractor:
    """A frozen network that gives features, and class probabilities where it is a classifier.

    It is no ``nn.Module``, so a LightningModule or Metric that holds one registers nothing: no parameters, no entries
    in the checkpoint, no ``train()``. It works on a copy of the network, in eval mode, without gradients or autocast,
    on the input's device, and gives float64.

    Images are uint8 0..255, or floats in [-1, 1] that are first rounded to the 256 levels, so that samples and data are
    treated alike; the network sees float [-1, 1]. Vectors reach it as they are.

    Args:
        network: x (B, *shape) -> features (B, D), or (features, logits (B, C)); any module of your own will do.
        name: of the numbers made with it, such as "mnist_v1".
        shape: of one example, None for any size; None alone accepts every shape.
        num_classes: C, 0 to use the features only.
        sha256: of the weights' file.
        published: its numbers bear the published names.
        batch_size: examples in one pass.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        *,
        shape: Shape | None = None,
        num_classes: int = 0,
        sha256: str | None = None,
        published: bool = False,
        batch_size: int = 256,
    ) -> None:
        self._network = copy.deepcopy(network).requires_grad_(False)
        self.name, self.shape, self.num_classes = name, shape, num_classes
        self.sha256, self.published, self.batch_size = sha256, published, batch_size

    def __repr__(self) -> str:
        return f"Extractor({self.name!r}, shape={self.shape}, num_classes={self.num_classes})"

    def __call__(self, x: Tensor) -> Tensor:
        """Features of examples (N, *shape): (N, D) float64."""
        return self.features_and_log_probs(x)[0]

    def log_probs(self, x: Tensor) -> Tensor:
        """Log-probabilities of the classes, (N, C) float64.

        Raises:
            UserError: the extractor has no classes.
        """
        log_probs = self.features_and_log_probs(x)[1]
        if log_probs is None:
            raise UserError(f"extractor {self.name!r} has no classes: take one that is a classifier, such as mnist_v1")
        return log_probs

    def features_and_log_probs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and log-probabilities in one pass.

        Args:
            x: (N, *shape); images uint8, or floats in [-1, 1].

        Returns:
            (N, D) and, of a classifier, (N, C), both float64 on the device of x.

        Raises:
            UserError: for another shape, for integers other than uint8, and for values that are not finite.
        """
        self.check_shape(tuple(x.shape[1:]))
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise UserError(f"extractor {self.name!r} takes uint8 or floats in [-1, 1], not {x.dtype}")
        if x.is_floating_point() and not x.isfinite().all():
            raise UserError(f"the examples for extractor {self.name!r} hold nan or inf: has the model diverged?")
        # out of inference mode, so that a network moved to another device keeps ordinary weights
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            self._network.to(x.device).eval()
            parts = [self._pass(part) for part in x.contiguous().split(self.batch_size)]
            features, logits = (torch.cat(kind) for kind in zip(*parts, strict=True))
            return features, logits.log_softmax(1) if self.num_classes else None

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse examples that the network does not take.

        Args:
            shape: of one example.

        Raises:
            UserError: that names both shapes.
        """
        if self.shape is None:
            return
        same = len(shape) == len(self.shape) and all(b in (a, None) for a, b in zip(shape, self.shape, strict=True))
        if not same:
            wanted = str(self.shape).replace("None", "any")
            raise UserError(f"extractor {self.name!r} takes examples of shape {wanted}, these are {shape}")

    def label(self, metric: str) -> str:
        """The name of a number made with this extractor: "fd" gives "fd_mnist_v1", and of the published network "fid".

        Args:
            metric: "fd" Frechet distance, "kd" kernel distance, "cs" classifier score, or any other.
        """
        own = f"{metric}_{self.name}"
        return PUBLISHED.get(metric, own) if self.published else own

    def _pass(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> float64 (B, D) and (B, C), with C = 0 where there are no classes."""
        x = to_float(_levels(x), "uint8") if x.ndim == 4 else x
        weight = next(self._network.parameters(), None)
        out = self._network(x if weight is None else x.to(weight.dtype))
        features, logits = out if isinstance(out, tuple) else (out, None)
        features = features.double().flatten(1)  # (B, D)
        if not self.num_classes:
            return features, features[:, :0]
        if logits is None or logits.shape[1:] != (self.num_classes,):
            given = "features only" if logits is None else f"logits of shape {tuple(logits.shape)}"
            raise UserError(
                f"extractor {self.name!r} has num_classes={self.num_classes}, but its network gives {given}: "
                "it must return (features, logits)"
            )
        return features, logits.double()


def _levels(x: Tensor) -> Tensor:
    """Images as uint8: floats in [-1, 1], clamped, go to the nearest of the 256 levels."""
    return x if x.dtype == torch.uint8 else ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


RAW = Extractor(nn.Flatten(), "raw")  # the values themselves


class _Standardize(nn.Module):
    """Vectors (B, D) in the units of the data -> standardized: else the column of the largest numbers counts alone.

    Args:
        spec: with the mean and the scale.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return to_model(x, self.spec)


def _raw(spec: DataSpec) -> Extractor:
    """The values themselves; of standardized data, as a model sees them, under a hash of the mean and the scale."""
    if not spec.scale:
        return RAW
    digest = hashlib.sha256(repr((spec.mean, spec.scale)).encode()).hexdigest()
    return Extractor(_Standardize(spec), "raw", sha256=digest)


class _Inception(nn.Module):
    """The published network as an extractor's: it takes uint8, and resizes to 299x299 itself.

    Args:
        network: gives (features (B, 2048), logits without bias (B, 1008)).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(_levels(x))


def inception() -> Extractor:
    """The Inception network of the published FID, KID and IS (Heusel et al. 2017), for RGB images of any size.

    Raises:
        UserError: torch-fidelity or the file of the weights is missing, or the file is another one.
    """
    path = inception_path()
    if problem := _missing_inception():
        raise UserError(f"extractor 'inception' {problem}")
    check_regular(path)
    size = path.stat().st_size
    content = path.read_bytes() if size == INCEPTION_SIZE else b""
    if hashlib.sha256(content).hexdigest() != INCEPTION_SHA256:
        raise UserError(
            f"{path} ({size:,} bytes) is damaged or another file: {INCEPTION_SIZE:,} bytes with sha256 "
            f"{INCEPTION_SHA256} are expected; delete it and download it anew from {INCEPTION_URL}"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # here: it takes seconds

    # The file is a pickle, which could run any code: safe only because the very bytes checked above are opened.
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], io.BytesIO(content))
    return Extractor(
        _Inception(network),
        "inception",
        shape=(3, None, None),
        num_classes=1008,
        sha256=INCEPTION_SHA256,
        published=True,
        batch_size=32,
    )


def inception_path() -> Path:
    """The path of Inception's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION


def _missing_inception() -> str:
    """The missing dependencies of Inception, or ""."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return 'needs the package torch-fidelity: pip install -e ".[eval]"'
    if not inception_path().is_file():
        return (
            f"needs its weights at {inception_path()}: {INCEPTION_SIZE:,} bytes, sha256 {INCEPTION_SHA256}; "
            f"download them from {INCEPTION_URL}"
        )
    return ""


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_extractor(path: str | Path) -> Extractor:
    """The extractor in a file that ``scripts/train_extractor.py`` wrote, named "<data>_<first 8 digits of sha256>".

    Raises:
        UserError: there is no such file, it is damaged, or another program wrote it.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if facts["format"] != FORMAT:
            raise ValueError(f"it is of format {facts['format']}, this version reads format {FORMAT}")
        data, shape, num_classes = facts["data"], tuple(int(n) for n in facts["shape"]), facts["num_classes"]
        with torch.device("meta"):  # weights that are about to be replaced: draw and allocate none
            network = Classifier(shape, num_classes, facts["width"])
        network.load_state_dict(weights, assign=True)
    except FileNotFoundError:
        raise UserError(f"no extractor at {path}: train one with {program('train-extractor')}") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged, or no file of train-extractor ({type(error).__name__}: {reason})"
        ) from None
    sha256 = sha256_of(path)
    return Extractor(network, f"{data}_{sha256[:8]}", shape=shape, num_classes=num_classes, sha256=sha256)


def _shipped(name: str, sha256: str) -> Extractor:
    """One of the extractors that come with the project.

    Raises:
        UserError: its file is missing or not the one that was shipped.
    """
    path = WEIGHTS / f"{name}.safetensors"
    found = sha256_of(path) if path.is_file() else "no file"
    if found != sha256:
        raise UserError(f"{path} is damaged: sha256 {sha256} is expected, found {found}; install the project anew")
    extractor = load_extractor(path)
    extractor.name = name
    return extractor


EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    # train_extractor.py --data mnist: 99.53 % of the test images recognised
    "mnist_v1": partial(_shipped, "mnist_v1", "4ea790ca92e6855ad0449e609b14c366fbd46c080972dd7c1381b8ae6f44a8f6"),
    # train_extractor.py --data digits --steps 200: 99.33 %
    "digits_v1": partial(_shipped, "digits_v1", "42cd64892385f4a99904d1b756f9a7938fdf34124e94f69ebbaf944347ea882e"),
    "inception": inception,
    "raw": lambda: RAW,
}


def find_extractor(name: str, dataset: str, spec: DataSpec) -> Extractor:
    """The extractor for a data set.

    "auto" takes, in this order: the shipped one of digits and of MNIST, the values themselves for vectors, one that was
    trained on the data set (in tb_logs/extractors), and for RGB images Inception, where it is installed.

    Args:
        name: "auto", a name of ``EXTRACTORS``, or a file of scripts/train_extractor.py.
        dataset: as given to ``--data``.
        spec: of that data.

    Raises:
        UserError: there is none, or it does not take these examples.
    """
    if name == "auto":
        extractor = _auto(dataset, spec)
    elif name == "raw":
        extractor = _raw(spec)
    elif name in EXTRACTORS:
        extractor = EXTRACTORS[name]()
    elif Path(name).is_file() or re.search(r"[/\\]|\.safetensors$", name):
        extractor = load_extractor(name)
    else:
        raise unknown("extractor", name, ["auto", *EXTRACTORS, "FILE.safetensors"])
    extractor.check_shape(spec.shape)
    return extractor


def trained_path(dataset: str) -> Path:
    """Where train_extractor.py keeps the extractor of a data set, by default."""
    return TRAINED / f"{short_name(dataset)}.safetensors"


def short_name(dataset: str) -> str:
    """A data set's name in file names and numbers; of a path only its last part."""
    last = Path(dataset).resolve().name.removesuffix(".npz").removesuffix(".npy")
    return re.sub(r"[^\w-]+", "_", last).lower() or "data"


def _auto(dataset: str, spec: DataSpec) -> Extractor:
    if dataset == "mnist" and spec.shape == (1, 28, 28):
        return EXTRACTORS["mnist_v1"]()
    if dataset == "digits":
        return EXTRACTORS["digits_v1"]()
    usual = kind_of(spec).extractor(spec)
    if usual == "raw":
        return _raw(spec)
    if trained_path(dataset).is_file():
        return load_extractor(trained_path(dataset))
    missing = _missing_inception() if usual == "inception" else "is for RGB images"
    if not missing:
        return inception()
    train = f"train one with {program('train-extractor')} --data {dataset}, or " if spec.num_classes else ""
    raise UserError(
        f"no extractor for {dataset!r}: there is no {trained_path(dataset)}, and inception {missing}. "
        f"Try: {train}--extractor raw"
    )
