"""Evaluation of translators: identities, what a direction lacks, shares of two processes, tables."""

import json

import numpy as np
import pytest
import torch
from helpers import Painter
from PIL import Image
from processes import MEASURE
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from translators import (
    SPEC,
    BothMixing,
    Diverged,
    GreyAndColour,
    Mixing,
    Perfect,
    Unchanged,
    brightness,
    saved,
)

from lightning_gen.benchmarking import cells
from lightning_gen.benchmarking.page import markdown
from lightning_gen.commands import compare, evaluate
from lightning_gen.datamodules.digits import Digits
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.outline_shapes import OutlineShapes
from lightning_gen.datamodules.unpaired import Unpaired
from lightning_gen.evaluation import pictures
from lightning_gen.evaluation.report import FILE, Report
from lightning_gen.evaluation.translation import segmenters_of, translation_run
from lightning_gen.metrics import distances, extractors, perceptual
from lightning_gen.metrics.errors import Inapplicable
from lightning_gen.metrics.extractors import find_extractor
from lightning_gen.metrics.segmentation import confusion, scores
from lightning_gen.storage.checkpoints import find_checkpoint

ALL = [name for name, metric in evaluate.METRICS.items() if metric.category != evaluate.CODES]


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """As on a machine without any downloaded weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(extractors, "_missing_inception", lambda: "needs its weights")


def subject(model, data=None, extractor="auto", segmenters=None, n=10_000, **options):
    data = OutlineShapes(size=16) if data is None else data
    return translation_run(model.eval(), data, extractor, "some-pairs", segmenters or {}, n=n, **options)


def measured(s, tmp_path, *names):
    """The content of a report of these groups."""
    report = Report(tmp_path / FILE, {}, {}, fresh=names)
    with torch.inference_mode():
        evaluate.measure(s, report, list(names))
    return report.content


# Identities


@pytest.mark.filterwarnings("ignore:The variance of predictions or target")
def test_a_translator_that_changes_nothing(tmp_path):
    content = measured(subject(Unchanged(SPEC), segmenters={"b": brightness}), tmp_path, *ALL)
    values = {name: value["value"] for name, value in content["values"].items()}
    assert not content["failed"] and set(content["inapplicable"]) == {"modes", "cs", "classes", "lpips"}
    for way in ("a2b", "b2a"):
        assert values[f"{way}_cycle"] == values[f"{way}_identity"] == 0
        for name in ("fd_raw", "kd_raw", "psnr", "ssim", "l1"):
            assert values[f"{way}_{name}"] == values[f"{way}_{name}_untranslated"] != 0, name
        assert content["values"][f"{way}_fd_raw_untranslated"]["better"] is None
    assert values["a2b_fd_raw"] > 2 * content["values"]["a2b_fd_raw"]["floor"] > 0
    for name in ("pixel_accuracy", "class_accuracy", "mean_iou"):
        assert values[f"a2b_{name}"] == values[f"a2b_{name}_untranslated"] < 1 and f"b2a_{name}" not in values


def test_the_truth_itself_is_perfect(tmp_path):
    content = measured(subject(Perfect(SPEC), segmenters={"b": brightness}), tmp_path, *ALL)
    values = {name: value["value"] for name, value in content["values"].items()}
    assert not content["failed"]
    assert values["a2b_psnr"] == "inf" and values["a2b_l1"] == 0 and values["a2b_ssim"] == pytest.approx(1, abs=1e-5)
    assert 0 <= values["a2b_fd_raw"] < 1e-6 < values["a2b_fd_raw_untranslated"]
    assert values["a2b_precision_raw"] == values["a2b_coverage_raw"] == 1
    assert values["a2b_pixel_accuracy"] == values["a2b_mean_iou"] == values["a2b_class_accuracy"] == 1
    assert values["a2b_l1_untranslated"] > 1 and not any(name.startswith("b2a") for name in values)


def test_l1_is_exact_and_in_grey_levels(tmp_path):
    class Brighter(Unchanged):
        def translate(self, x, direction="a2b"):
            return (x - 3 / 127.5).clamp(-1, 1)

    data = OutlineShapes(size=16, paired=True)
    content = measured(subject(Brighter(data.spec), data), tmp_path, "pairs", "identity")
    a, b = (data.examples("test", torch.arange(200))[side] for side in "ab")
    a, b = (((x + 1) * 127.5).round().to(torch.int64) for x in (a, b))
    expected = ((a - 3).clamp(min=0) - b).abs().double().mean()
    assert content["values"]["a2b_l1"]["value"] == pytest.approx(float(expected), abs=1e-12)
    assert content["values"]["a2b_identity"]["value"] == pytest.approx(3 / 127.5, rel=0.05)


def test_values_say_what_they_are_of(tmp_path):
    content = measured(subject(BothMixing(SPEC), n=50), tmp_path, "fd", "cycle", "pairs")
    values = content["values"]
    assert "translated test pictures of side b against those of side a" in values["b2a_fd_raw"]["how"]
    assert "untranslated test pictures of side a against" in values["a2b_fd_raw_untranslated"]["how"]
    assert "the pixels, because no extractor of some-pairs is known" in values["a2b_fd_raw"]["how"]
    assert "side b translated to a and back" in values["b2a_cycle"]["how"]
    assert {value["n"] for value in values.values()} == {50}


# What a direction, a model or data lack


def test_one_way_only(tmp_path):
    content = measured(subject(Mixing(SPEC)), tmp_path, "cycle", "identity", "segmentation", "elbo", "lpips", "latents")
    assert set(content["values"]) == {"a2b_identity"}
    assert content["inapplicable"]["cycle"] == "Mixing knows no way back"
    assert "give b=my_module.Net" in content["inapplicable"]["segmentation"]
    assert "AlexNet" in content["inapplicable"]["lpips"]
    assert content["inapplicable"]["elbo"] == "Mixing knows no likelihood"
    assert content["inapplicable"]["latents"] == "Mixing has no Gaussian posterior"


def test_the_reference_is_the_same_for_one_way_and_both():
    one, both = subject(Mixing(SPEC)), subject(BothMixing(SPEC))
    assert one.reference_hash() == both.reference_hash() and one.reference_hash()[1] == 200
    assert both.reference_hash() == both.other_directions[0].reference_hash()
    assert one.reference_hash() != subject(Mixing(SPEC), OutlineShapes(size=16, direction="b2a")).reference_hash()


def test_sides_of_different_shapes(tmp_path):
    data = GreyAndColour()
    content = measured(subject(Unchanged(data.spec), data), tmp_path, "fd", "pairs", "identity", "cycle")
    assert not content["failed"] and "different shapes" in content["inapplicable"]["identity"]
    assert not any(name.endswith("untranslated") for name in content["values"])
    assert content["inapplicable"]["untranslated"].endswith("where the sides have 1 and 3 channels")
    assert content["values"]["a2b_cycle"]["value"] == 0
    shown = dict(pictures.draw_all(subject(Unchanged(data.spec), data)))
    assert shown["translations"].shape[0] == 3


@pytest.fixture
def two_folders(tmp_path):
    """Unpaired pictures, 6 of side a and 9 of side b in the test split."""
    generator = np.random.default_rng(0)
    for folder, count in {"trainA": 12, "trainB": 12, "testA": 6, "testB": 9}.items():
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        for k in range(count):
            image = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "pictures" / folder / f"{k}.png")
    return tmp_path / "pictures"


def test_unpaired_sides_of_different_numbers(tmp_path, two_folders):
    data = Unpaired(root=str(two_folders), size=16)
    s = subject(BothMixing(data.spec), data)
    content = measured(s, tmp_path, "fd", "memorisation", "cycle", "identity", "pairs", "segmentation")
    assert not content["failed"] and {value["n"] for value in content["values"].values()} == {6}
    assert content["inapplicable"]["pairs"] == content["inapplicable"]["segmentation"] == "the data hold no true pairs"
    assert {"translations", "neighbours"} == set(dict(pictures.draw_all(s)))


def test_large_pictures_need_an_extractor(tmp_path):
    data = OutlineShapes(size=40)  # 4,800 values
    spec = data.spec
    content = measured(subject(BothMixing(spec), data), tmp_path, "fd", "cycle")
    assert "inception needs its weights" in content["inapplicable"]["fd"] and "a2b_cycle" in content["values"]
    content = measured(subject(BothMixing(spec), data, extractor="raw", n=20), tmp_path, "kd")
    assert "a2b_kd_raw" in content["values"]


def test_what_diverged_is_not_scored(tmp_path):
    content = measured(subject(Diverged(SPEC)), tmp_path, "fd", "cycle", "identity", "pairs")
    assert not content["values"]
    for name in ("fd", "cycle", "identity", "pairs"):
        assert "not finite: has the model diverged?" in content["failed"][name]


def test_other_models_do_not_translate(tmp_path):
    data = Digits()
    s = evaluate.EvaluationRun(Painter(data), data, find_extractor("auto", "digits", data.spec), n=20)
    content = measured(s, tmp_path, "cycle", "identity", "pairs", "lpips", "segmentation")
    assert set(content["inapplicable"].values()) == {"Painter does not translate"}
    names = evaluate._names(None, Painter(data))
    assert "cycle" not in names and "elbo" in names
    assert "cycle" in evaluate._names(["cycle"], Painter(data))
    with pytest.raises(UserError, match="Painter does not translate, and these data have two sides"):
        evaluate.EvaluationRun(Painter(data), OutlineShapes(size=16), "", n=20)


def test_a_translator_needs_its_own_kind_of_data():
    with pytest.raises(UserError, match=r"Unchanged translates between two sides.*not on some-pairs"):
        subject(Unchanged(SPEC), Digits())
    with pytest.raises(UserError, match=r"\(3, 16, 16\).*\(3, 20, 20\)"):
        subject(Unchanged(SPEC), OutlineShapes(size=20))


# Segmenters


def test_scores_of_a_segmentation_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    truth, seen = (torch.randint(0, 4, (5, 7, 9), generator=generator) for _ in range(2))
    found = scores(confusion(seen, truth, 4))
    for name, metric in {
        "pixel_accuracy": MulticlassAccuracy(4, average="micro"),
        "class_accuracy": MulticlassAccuracy(4, average="macro"),
        "mean_iou": MulticlassJaccardIndex(4, average="macro"),
    }.items():
        assert float(found[name]) == pytest.approx(float(metric(seen, truth)), abs=1e-6)
    assert torch.equal(confusion(seen, truth, 4).sum(1), torch.bincount(truth.flatten(), minlength=4))


def test_classes_that_are_nowhere_do_not_count():
    truth, seen = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    found = scores(confusion(seen, truth, 9))
    assert float(found["pixel_accuracy"]) == 0.75 and float(found["class_accuracy"]) == 0.75
    assert float(found["mean_iou"]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_segmenters_are_named_by_side():
    device = torch.device("cpu")
    assert segmenters_of(["translators.brightness"], device) == {"b": brightness}
    found = segmenters_of(["a=translators.brightness", "b=torch.nn.Identity"], device)
    assert found["a"] is brightness and isinstance(found["b"], nn.Identity) and not found["b"].training
    for given, words in {
        "c=translators.brightness": "unknown side of --segmenter 'c'.*a, b",
        "translators.nothing": "cannot import segmenter 'translators.nothing'",
        "translators.SPEC": "cannot be called",
    }.items():
        with pytest.raises(UserError, match=words):
            segmenters_of([given], device)


def test_what_is_no_segmenter_is_said(tmp_path):
    s = subject(Unchanged(SPEC), segmenters={"b": lambda x: x.flatten(1)})
    content = measured(s, tmp_path, "segmentation")
    assert "(200, 768): (B, K, H, W) is needed" in content["failed"]["segmentation"]


# LPIPS


def test_lpips_is_used_only_where_its_weights_are(tmp_path, monkeypatch):
    with pytest.raises(Inapplicable, match=r"AlexNet's weights at .*alexnet.*: download them from https://"):
        perceptual.lpips()
    path = perceptual.weights_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(UserError, match="damaged or another file"):
        perceptual.lpips()

    class Network(nn.Module):
        def forward(self, x, y):
            assert x.shape[1] == y.shape[1] == 3
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

    class Metric(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.net = Network()

    monkeypatch.setattr(perceptual, "sha256_of", lambda path: "7be5be79" + 56 * "0")
    monkeypatch.setattr(perceptual, "LearnedPerceptualImagePatchSimilarity", Metric)
    distance = perceptual.lpips()
    assert distance(torch.zeros(2, 1, 32, 40), torch.ones(2, 1, 32, 40)).tolist() == [1, 1]
    with pytest.raises(Inapplicable, match="at least 32 x 32"):
        distance(torch.zeros(2, 3, 16, 40), torch.ones(2, 3, 16, 40))
    data = OutlineShapes(size=32)
    values = measured(subject(Unchanged(data.spec), data, n=20), tmp_path, "lpips")["values"]
    assert values["a2b_lpips_alex"]["value"] == values["a2b_lpips_alex_untranslated"]["value"] > 0


# Frechet distance of few samples


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_a_root_of_low_rank_is_a_root(rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(rank, 100, generator=generator, dtype=torch.float64) * torch.logspace(0, -4, rank).double()[:, None]
    covariance = x.T @ x
    root = distances._root(covariance, rank)
    assert root.shape[1] < 100
    torch.testing.assert_close(root @ root.T, covariance, rtol=0, atol=1e-12 * float(covariance.max()))


# The script


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a translator whose weights were never trained, and pairs of pictures, 300 of them for tests."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    for split, count in {"train": 20, "val": 20, "test": 300}.items():
        (folder / "pairs" / split).mkdir(parents=True)
        for k in range(count):
            image = generator.integers(0, 256, (8, 16, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "pairs" / split / f"{k}.png")
    spec = SPEC._replace(shape=(3, 8, 8), shape_b=(3, 8, 8), size=20, pairs="all")
    return saved(BothMixing(spec), folder / "run"), folder / "pairs"


def arguments(run, pairs, *more):
    data = ["--data", "paired", "--data.root", str(pairs), "--data.size", "8"]
    return [run, *data, "--extractor", "raw", "--trust", "translators", "--segmenter", "translators.brightness", *more]


def read_report(run):
    return json.loads((find_checkpoint(run).parent.parent / FILE).read_text(encoding="utf-8"))


def test_two_processes_give_the_values_of_one(run, nursery, tmp_path):
    evaluate.main(arguments(*run, "--fresh"))
    one = read_report(run[0])
    assert one["complete"] and one["setting"]["n"] == 300 and one["setting"]["extractor"] == "raw"
    assert one["setting"]["reference"] == "test split, 300 examples of each side"
    assert {f"evaluation/{way}_{name}.png" for way in ("a2b", "b2a") for name in ("translations", "neighbours")} == set(
        one["pictures"]
    )
    nursery.run(MEASURE, *arguments(*run, "--devices", "2", "--fresh"), cwd=tmp_path, ranks=2)
    two = read_report(run[0])
    assert set(one["values"]) == set(two["values"]) and one["setting"] == two["setting"]
    for name, value in one["values"].items():
        for key in ("value", "floor", "std"):
            same = two["values"][name][key] == value[key]  # also None
            assert same or two["values"][name][key] == pytest.approx(value[key], rel=1e-6, abs=1e-9), name


def test_another_segmenter_measures_only_its_own_group(run, monkeypatch, capsys):
    evaluate.main(arguments(*run, "--metrics", "identity", "segmentation", "--fresh"))
    monkeypatch.setitem(evaluate.METRICS, "identity", evaluate.Metric(None, ""))  # would fail if it were measured
    evaluate.main([*arguments(*run)[:-1], "a=translators.brightness", "--metrics", "identity", "segmentation"])
    values = read_report(run[0])["values"]
    assert "a2b_identity" in values and "b2a_mean_iou" in values and "a2b_mean_iou" not in values
    assert "b2a_mean_iou" in capsys.readouterr().out


# Tables


def entry(value, better="lower", **more):
    return {"value": value, "n": 2000, "k": None, "std": None, "floor": None, "better": better, **more}


def cell(model, values):
    setting = {"n": 200, "extractor": "raw", "extractor_sha256": None, "reference_sha256": "a" * 64}
    shared = {"data": "outline-shapes", "budget": "20it", "options": {}, "seed": 0, "iterations": 20, "images": 160}
    about = {"seconds": 3.0, "images_per_second": 50.0, "environment": {}, "commit": None, "date": "2026-01-01"}
    evaluation = {"setting": {**setting, "reference": "test", "checkpoint": "best.ckpt"}, "values": values}
    return {**shared, **about, "model": model, "evaluation": evaluation}


def test_results_have_a_table_for_each_direction():
    names = ("a2b_fd_raw", "a2b_psnr", "a2b_cycle", "a2b_l1", "a2b_identity", "a2b_ssim")
    values = {name: entry(2.0, "higher" if name == "a2b_psnr" else "lower") for name in names}
    baselines = {"a2b_fd_raw_untranslated": entry(9.0, None), "a2b_psnr_untranslated": entry(1.5, None)}
    back = {name.replace("a2b", "b2a"): value for name, value in values.items()}
    other = {name: {**value, "value": 3.0} for name, value in values.items()}
    page = markdown([cell("cyclegan", values | back | baselines), cell("cut", other | baselines)])
    assert page.index("**Translations a2b**") < page.index("**Translations b2a**") and "**Samples**" not in page
    head, _, *rows = page[page.index("| model") :].replace("\u00a0", " ").splitlines()
    words = [word.strip() for word in head.strip("|").split(" | ")]
    assert words[3:9] == [
        "a2b_fd ↓<br>raw, N 2,000",
        "a2b_psnr ↑<br>N 2,000",
        "a2b_ssim ↓<br>N 2,000",
        "a2b_l1 ↓<br>N 2,000",
        "a2b_cycle ↓<br>N 2,000",
        "a2b_identity ↓<br>N 2,000",
    ]
    assert rows[0].startswith("| cyclegan | 1 (0) | best | **2** | 2 |")
    assert rows[1].startswith("| cut | 1 (0) | best | 3 | **3** |")
    assert rows[2].startswith("| untranslated pictures |  |  | 9 | 1.5 | - |")
    assert "_untranslated" not in page


def test_a_comparison_marks_the_best_of_a_direction(tmp_path):
    values = {"a2b_fd_raw": entry(2.0), "a2b_fd_raw_untranslated": entry(9.0, None), "a2b_psnr": entry(20.0, "higher")}
    other = {**values, "a2b_fd_raw": entry(3.0), "a2b_psnr": entry(21.0, "higher"), "b2a_fd_raw": entry(1.0)}
    runs = [
        compare.Run(name, tmp_path, tmp_path, {}, {}, {"setting": {}, "values": own, "failed": {}}, {})
        for name, own in (("cut", values), ("cyclegan", other))
    ]
    rows = {row[0]: row[1:] for row in compare.evaluation_table(runs)[0].rows}
    assert rows["a2b_fd_raw"] == ["lower", "N 2,000", "-", "2 *", "3"] and rows["a2b_psnr"][3:] == ["20", "21 *"]
    assert rows["a2b_fd_raw_untranslated"] == ["-", "N 2,000", "-", "9", "9"] and rows["b2a_fd_raw"][3:] == ["-", "1"]


def test_the_folder_of_pairs_tells_benchmarks_apart():
    for data, told in {"unpaired": True, "paired": True, "digits": False}.items():
        b = cells.Benchmark(data, "20it", lambda command, log: 0, ["--data.root=horses"])
        assert ("data.root" in b.options) == told


def test_few_values_are_one_table():
    page = markdown([cell("cut", {"a2b_fd_raw": entry(2.0), "final_over_best": entry(1.1, "near 1")})])
    assert "| model | seeds | checkpoint | final_over_best → 1<br>N 2,000 | a2b_fd ↓<br>raw, N 2,000 |" in page.replace(
        "\u00a0", " "
    )
