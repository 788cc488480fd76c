"""Metrics of translators, for each direction, on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.pair_data import PairData
from lightning_gen.datamodules.pixels import to_float
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.value_range import check_same_range
from lightning_gen.drawing.render import to_uint8
from lightning_gen.evaluation.evaluation_run import EvaluationRun, check_finite, fixed_permutation
from lightning_gen.evaluation.quality import FRECHET_DIMS, Measured
from lightning_gen.evaluation.values import UNTRANSLATED, Value, mean_with_stderr
from lightning_gen.metrics import images, segmentation
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import RAW, Extractor, find_extractor
from lightning_gen.metrics.perceptual import lpips
from lightning_gen.names import resolve

SIDES = ("a", "b")
BASELINE = UNTRANSLATED.strip("_")  # what a report calls it where it does not apply
Network = Callable[[Tensor], Tensor]


@dataclass
class DirectionModel:
    """Adapter: one translation direction as a model with sample(); its sample k is the translation of test image k.

    Args:
        model: the translator.
        direction: such as "a2b".
        data: of both sides.
        source: the images to translate.
        spec: of the translations.
        translate: x (B, *shape of the source) -> (B, *shape of the target), both in [-1, 1].
        back: the reverse translator, where the model has one.
        segmenter: x (B, *shape of the target) -> class logits (B, K, H, W), where there is one.
    """

    model: Any
    direction: str
    data: PairData
    source: DataModule
    spec: DataSpec
    translate: Network
    back: Network | None
    segmenter: Network | None

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @property
    def source_and_target(self) -> list[str]:
        """The names of the source and of the target: "a" and "b"."""
        return self.direction.split("2")

    @property
    def keeps_shape(self) -> bool:
        """Whether an image may be compared with its translation."""
        return self.source.spec.shape == self.spec.shape

    def sample(self, n: int, y: Tensor | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """Translations (n, *shape) of the test pictures ``start`` to ``start + n - 1``, whatever the seed."""
        return self.translate(self.source_images(range(start, start + n)))

    def source_images(self, rows: range) -> Tensor:
        """The test images themselves, (n, *shape of the source) in [-1, 1]."""
        positions = fixed_permutation(self.source.size("test"))[rows.start : rows.stop]
        return self.source.examples("test", positions)["x"].to(self.device)


# Reference data


def translation_run(
    model: Any,
    data: DataModule,
    extractor: str,
    dataset: str,
    segmenters: Mapping[str, Network],
    *,
    n: int,
    **options: Any,
) -> EvaluationRun:
    """The evaluation run of a translator's first direction, with those of the others in ``other_directions``.

    Args:
        model: ``Translates``, in eval mode, on its device.
        data: with two sides.
        extractor: name of the feature extractor.
        dataset: name of the data.
        segmenters: of side "a", "b" or both, see ``DirectionModel``.
        n: number of pictures of each side, at most the smaller number of test pictures.
        options: further ones of ``EvaluationRun``.

    Raises:
        UserError: the data have one side, or pictures of another shape, or the extractor does not take them.
    """
    name = type(model).__name__
    if not isinstance(data, PairData):
        raise UserError(f"{name} translates between two sides: evaluate it on data that have them, not on {dataset}")
    sides = {side: data.side(side) for side in SIDES}
    known, shapes = _shapes(model.spec), _shapes(data.spec)
    if known != shapes:
        raise UserError(f"the model translates between pictures of shapes {known}, the data have {shapes}")
    check_same_range(model.spec, data.spec)
    n = min(n, *(side.size("test") for side in sides.values()))
    if n < 2:
        raise UserError("one side has a single test picture, of which nothing can be measured: hold out more")
    subjects = []
    for direction in model.directions:
        source, target = direction.split("2")
        features, why = _extractor(extractor, dataset, sides[target].spec)
        ways = {way: partial(model.translate, direction=way) for way in model.directions}
        route = DirectionModel(
            model,
            direction,
            data,
            sides[source],
            sides[target].spec,
            ways[direction],
            ways.get(f"{target}2{source}"),
            segmenters.get(target),
        )
        remark = f"; of translated test pictures of side {source} against those of side {target}{why}"
        subjects.append(
            EvaluationRun(
                route,
                sides[target],
                features,
                n=n,
                name=name,
                prefix=f"{direction}_",
                remark=remark,
                reference_data=list(sides.values()),
                **options,
            )
        )
    subjects[0].other_directions = subjects[1:]
    return subjects[0]


def _shapes(spec: DataSpec) -> tuple[tuple[int, ...], ...]:
    return spec.shape, spec.shape_b


def _extractor(name: str, dataset: str, spec: DataSpec) -> tuple[Extractor | str, str]:
    """The requested extractor, or the reason why there is none; and a remark on it."""
    try:
        return find_extractor(name, dataset, spec), ""
    except UserError as reason:
        if name != "auto":
            raise
        if math.prod(spec.shape) > FRECHET_DIMS:
            return str(reason), ""
        return RAW, f"; the features are the pixels, because no extractor of {dataset} is known"


def segmenters_of(given: Sequence[str], device: torch.device) -> dict[str, Network]:
    """The segmenter of each side, of import paths "my_module.Net" (of side b) or "a=my_module.Net".

    A class is made without arguments; a network is put into eval mode, on the device.

    Raises:
        UserError: an unknown side, a path that cannot be imported, or one that leads to nothing that can be called.
    """
    found: dict[str, Network] = {}
    for text in given:
        side, _, path = text.rpartition("=")
        if (side or "b") not in SIDES:
            raise unknown("side of --segmenter", side, SIDES)
        network: Any = resolve(path, {}, "segmenter")
        try:
            network = network() if isinstance(network, type) else network
        except TypeError as error:
            raise UserError(f"--segmenter {path} cannot be made without arguments: {error}") from None
        if not callable(network):
            raise UserError(f"--segmenter {path} cannot be called: it maps pictures (B, C, H, W) to (B, K, H, W)")
        found[side or "b"] = network.eval().to(device) if isinstance(network, nn.Module) else network
    return found


# Groups of values


def with_untranslated(measure: Callable[[EvaluationRun], Measured]) -> Callable[[EvaluationRun], Measured]:
    """A metric of samples, and for a translator also of the untranslated images, the identity-translation baseline."""

    def both(s: EvaluationRun) -> Measured:
        yield from measure(s)
        if isinstance(s.model, DirectionModel) and s.model.keeps_shape:
            kept = {name: s._described[name] for name in ("reference", "floor")}
            route, remark = replace(s.model, translate=lambda x: x), s.remark.replace("translated", "untranslated")
            nothing = replace(s, model=route, remark=remark, _described=kept)
            for name, value in measure(nothing):
                yield f"{name}{UNTRANSLATED}", replace(value, better=None, floor=None)

    return both


def missing_baseline(s: EvaluationRun) -> str | None:
    """Why there is no number of untranslated images beside those of translations; None where there is one."""
    if not isinstance(s.model, DirectionModel) or s.model.keeps_shape:
        return None
    channels = " and ".join(str(shape[0]) for shape in _shapes(s.model.data.spec))
    return f"a picture is no translation of itself where the sides have {channels} channels"


def cycle(s: EvaluationRun) -> Measured:
    """Cycle error: distance of an image to its translation there and back."""
    route = _route(s)
    there, back = route.translate, route.back
    if back is None:
        raise Inapplicable(f"{s.name} knows no way back")

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"cycle": _difference(back(there(batch["x"])), batch["x"])}

    values = s.map_test_set(["cycle"], s.n, "translations there and back", work, route.source)["cycle"]
    check_finite(values, "translations there and back")
    source, target = route.source_and_target
    how = f"mean |x - x'| of values in [-1, 1], x' a test picture of side {source} translated to {target} and back"
    yield "cycle", mean_with_stderr(values, f"{how}; std is the standard error", "lower")


def identity(s: EvaluationRun) -> Measured:
    """Identity error: distance of an image of the target to its translation."""
    route = _route(s)
    if not route.keeps_shape:
        raise Inapplicable("the sides have pictures of different shapes")

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"identity": _difference(route.translate(batch["x"]), batch["x"])}

    values = s.map_test_set(["identity"], s.n, "translations of the target", work)["identity"]
    check_finite(values, "translations of the target")
    target = route.source_and_target[1]
    how = f"mean |x - x'| of values in [-1, 1], x' the translation of a test picture that is of side {target}"
    yield "identity", mean_with_stderr(values, f"{how} already; std is the standard error", "lower")


def pairs(s: EvaluationRun) -> Measured:
    """Distance of translations to the paired targets."""

    def compare(x: Tensor, truth: Tensor) -> dict[str, Tensor]:
        grey = _difference(x, truth)
        x, truth = to_float(x, "uint8"), to_float(truth, "uint8")
        return {"psnr": images.psnr(x, truth), "ssim": images.ssim(x, truth), "l1": grey}

    about = {
        "psnr": ("PSNR in decibels", "higher"),
        "ssim": ("SSIM", "higher"),
        "l1": ("mean |difference| in grey levels 0 to 255", "lower"),
    }
    yield from _against_truth(s, about, compare)


def perceptual(s: EvaluationRun) -> Measured:
    """LPIPS of translations and the paired targets."""
    device, distance = _paired(s).device, lpips()

    def compare(x: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return {"lpips_alex": distance(*(to_float(picture.to(device), "uint8") for picture in (x, truth)))}

    yield from _against_truth(s, {"lpips_alex": ("LPIPS with AlexNet (Zhang et al. 2018)", "lower")}, compare)


def _against_truth(
    s: EvaluationRun,
    about: Mapping[str, tuple[str, str]],
    compare: Callable[[Tensor, Tensor], dict[str, Tensor]],
) -> Measured:
    """Values of each test pair's translation against its truth, and of its untranslated picture.

    Args:
        s: of a direction.
        about: name of a value -> what it is, and which way is better.
        compare: pictures (B, C, H, W) uint8 and their truth to columns (B,) of these names.
    """
    route = _paired(s)
    source, target = route.source_and_target

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        truth = _levels(batch[target])
        columns = compare(_levels(route.translate(batch[source])), truth)
        own = compare(_levels(batch[source]), truth) if route.keeps_shape else {}
        return columns | {f"{name}{UNTRANSLATED}": column for name, column in own.items()}

    names = [*about, *(f"{name}{UNTRANSLATED}" for name in about if route.keeps_shape)]
    values = s.map_test_set(names, s.n, "translations against the truth", work, route.data)
    error = "mean over test pairs; std is the standard error"
    for name in names:
        what, better = about[name.removesuffix(UNTRANSLATED)]
        if name in about:
            yield name, mean_with_stderr(values[name], f"{what} of translations against their truth; {error}", better)
        else:
            how = f"{what} of pictures as they are against the truth of their translations; {error}"
            yield name, mean_with_stderr(values[name], how, None)


def segments(s: EvaluationRun) -> Measured:
    """Agreement of a segmenter's predictions on translations and on the paired targets."""
    route = _paired(s)
    source, target = route.source_and_target
    if (network := route.segmenter) is None:
        raise Inapplicable(f"no --segmenter of side {target}: give {target}=my_module.Net")

    def labels(x: Tensor) -> tuple[Tensor, int]:
        logits = network(to_float(x.to(route.device), "uint8"))
        if logits.ndim != 4 or len(logits) != len(x):
            raise UserError(f"the segmenter of side {target} gives {tuple(logits.shape)}: (B, K, H, W) is needed")
        return logits.argmax(1).cpu(), logits.shape[1]

    def work(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        truth, classes = labels(_levels(batch[target]))
        seen = {"": labels(_levels(route.translate(batch[source])))[0]}
        if route.keeps_shape:
            seen[UNTRANSLATED] = labels(_levels(batch[source]))[0]
        return {f"counts{key}": segmentation.confusion(own, truth, classes)[None] for key, own in seen.items()}

    names = ["counts", *([f"counts{UNTRANSLATED}"] if route.keeps_shape else [])]
    counts = s.map_test_set(names, s.n, "segments of translations", work, route.data)  # a row for each batch
    about = {
        "pixel_accuracy": "share of pixels in which a segmenter sees the class",
        "class_accuracy": "mean over classes of the share of their pixels in which a segmenter sees the class",
        "mean_iou": "mean over classes of the intersection over union with the class",
    }
    for key in names:
        ending, found = key.removeprefix("counts"), segmentation.scores(counts[key].sum(0))
        for name, what in about.items():
            how = f"{what} that it sees in the truth (Long et al. 2015, section 5)"
            how += "; of pictures as they are" if ending else ""
            yield f"{name}{ending}", Value(found[name], s.n, how, None if ending else "higher")


def _route(s: EvaluationRun) -> DirectionModel:
    if not isinstance(s.model, DirectionModel):
        raise Inapplicable(f"{s.name} does not translate")
    return s.model


def _paired(s: EvaluationRun) -> DirectionModel:
    route = _route(s)
    if route.data.spec.pairs == "none":
        raise Inapplicable("the data hold no true pairs")
    return route


def _difference(x: Tensor, y: Tensor) -> Tensor:
    """Mean |x - y| of each example, (B,) float64 on the CPU, because some devices have no float64."""
    return (x.cpu().double() - y.cpu().double()).abs().flatten(1).mean(1)


def _levels(x: Tensor) -> Tensor:
    """Images in [-1, 1] as they would be stored, uint8."""
    check_finite(x, "translations")
    return to_uint8(x)
