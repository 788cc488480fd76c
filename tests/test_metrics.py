"""Metrics of samples: closed forms, brute force, known values, ranks that see unequal shares, and what is refused."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.toy import MODES, POINTS
from lightning_gen.metrics import neighbours
from lightning_gen.metrics.base import GatherColumns
from lightning_gen.metrics.classifier_metrics import ClassAccuracy, ClassifierScore
from lightning_gen.metrics.distances import FrechetDistance, KernelDistance
from lightning_gen.metrics.manifold import DensityCoverage, PrecisionRecall
from lightning_gen.metrics.memorisation import Memorisation
from lightning_gen.metrics.modes import ClassModes, GaussianModes


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(metric, real, generated, batch=64):
    for rows in real.split(batch):
        metric.update(rows, real=True)
    for rows in generated.split(batch):
        metric.update(rows, real=False)
    return metric


def frechet(real, generated, batch=64):
    return filled(FrechetDistance(), real, generated, batch).compute().item()


def white(n, d, seed):
    """(n, d) of mean 0 and covariance 1, exactly."""
    x = normal(n, d, seed=seed)
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T


def precision_recall(real, generated, k=3):
    return {name: v.item() for name, v in filled(PrecisionRecall(k=k), real, generated).compute().items()}


def density_coverage(real, generated, k=5):
    return {name: v.item() for name, v in filled(DensityCoverage(k=k), real, generated).compute().items()}


def memorisation(train, held_out, generated):
    metric = Memorisation()
    for source, x in (("train", train), ("held_out", held_out), ("generated", generated)):
        metric.update(x, source)
    return metric, {name: v.item() for name, v in metric.compute().items()}


# Frechet distance -----------------------------------------------------------------------------------------------------


def test_frechet_distance_of_diagonal_covariances_is_the_closed_form():
    means, sigmas = normal(2, 8, seed=1), normal(2, 8, seed=2).exp()
    real, generated = white(300, 8, 3) * sigmas[0] + means[0], white(200, 8, 4) * sigmas[1] + means[1]
    expected = (means[0] - means[1]).square().sum() + (sigmas[0] - sigmas[1]).square().sum()
    assert frechet(real, generated) == pytest.approx(expected.item(), rel=1e-8)


def test_frechet_distance_keeps_the_identities_of_translation_and_scale():
    real, generated = normal(300, 8), 1.5 * normal(200, 8, seed=1) @ normal(8, 8, seed=2)
    value, gap = frechet(real, generated), real.mean(0) - generated.mean(0)
    step = normal(8, seed=3)
    assert frechet(real + 1e4, generated + 1e4) == pytest.approx(value, rel=1e-8)
    assert frechet(1e3 * real, 1e3 * generated) == pytest.approx(1e6 * value, rel=1e-8)
    expected = value + (gap + step).square().sum() - gap.square().sum()
    assert frechet(real + step, generated) == pytest.approx(expected.item(), rel=1e-8)
    assert frechet(real, real) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_does_not_depend_on_the_batches():
    real, generated = normal(300, 8) + 1e4, normal(200, 8, seed=1) + 1e4
    assert frechet(real, generated, batch=1) == pytest.approx(frechet(real, generated, batch=300), rel=1e-8)


def test_frechet_distance_equals_the_arithmetic_of_torchmetrics():
    real, generated = normal(300, 8), 1.2 * normal(200, 8, seed=1) + 0.3
    identity = nn.Identity()
    identity.num_features = 8
    reference = filled(FrechetInceptionDistance(feature=identity).set_dtype(torch.float64), real, generated)
    assert frechet(real, generated) == pytest.approx(reference.compute().item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frechet_distance_of_half_precision_features_is_finite_and_exact(dtype):
    real, generated = (200 * normal(300, 8)).to(dtype), (300 * normal(300, 8, seed=1)).to(dtype)
    value = frechet(real, generated)
    assert math.isfinite(value) and value == frechet(real.double(), generated.double())


def test_frechet_distance_of_fewer_samples_than_dimensions():
    real, generated = normal(20, 64), 2 * normal(30, 64, seed=1) + 0.1
    x, y = real - real.mean(0), generated - generated.mean(0)
    root = torch.linalg.svdvals(x @ y.T).sum() / math.sqrt(19 * 29)  # in the space of the samples
    expected = real.var(0).sum() + generated.var(0).sum() - 2 * root
    expected += (real.mean(0) - generated.mean(0)).square().sum()
    assert frechet(real, generated) == pytest.approx(expected.item(), rel=1e-8)
    turn = torch.linalg.qr(normal(64, 64, seed=2))[0]
    flat = frechet(real[:, :5], generated[:, :5])
    assert frechet(real[:, :5] @ turn[:5], generated[:, :5] @ turn[:5]) == pytest.approx(flat, rel=1e-8)
    apart = real[:, :5].var(0).sum() + generated[:, :5].var(0).sum()
    apart += real[:, :5].mean(0).square().sum() + generated[:, :5].mean(0).square().sum()
    assert frechet(real[:, :5] @ turn[:5], generated[:, :5] @ turn[5:10]) == pytest.approx(apart.item(), rel=1e-12)


# Kernel distance ------------------------------------------------------------------------------------------------------


def test_kernel_distance_equals_the_double_loop():
    real, generated = normal(12, 5), 1.5 * normal(12, 5, seed=1)

    def mean(a, b, same):
        pairs = [(i, j) for i in range(12) for j in range(12) if not (same and i == j)]
        return sum((float(a[i] @ b[j]) / 5 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(real, real, True) + mean(generated, generated, True) - 2 * mean(real, generated, False)
    result = filled(KernelDistance(subsets=3, subset_size=12), real, generated).compute()
    assert result["mean"].item() == pytest.approx(expected, rel=1e-10)
    assert result["std"].item() == pytest.approx(0, abs=1e-12)


def test_kernel_distance_is_unbiased():
    draws = torch.stack(
        [
            filled(KernelDistance(subsets=1, subset_size=40), *normal(2, 40, 3, seed=seed)).compute()["mean"]
            for seed in range(100)
        ]
    )
    assert draws.mean().abs() < 3 * draws.std() / 10
    assert draws.min() < 0 < draws.max()


def test_kernel_distance_draws_subsets_by_its_seed_and_leaves_the_global_generators_alone():
    def value(seed):
        metric = filled(KernelDistance(subsets=5, subset_size=30, seed=seed), normal(90, 4), normal(80, 4, seed=1))
        return metric.compute()["mean"]

    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert value(0) == value(0) != value(1)
    assert torch.equal(before, torch.get_rng_state()) and (numpy_before == np.random.get_state()[1]).all()


# Neighbours and balls -------------------------------------------------------------------------------------------------

CLOUDS = {
    "plain": normal(150, 6),
    "far from the origin": normal(150, 6) + 1e6,
    "copies": normal(50, 6).repeat(3, 1),
    "tight clusters": 1e-9 * normal(150, 6) + 100.0 * (torch.arange(150) % 3)[:, None],
    "one dimension": normal(150, 1),
    "an outlier": torch.cat([normal(149, 6), torch.full((1, 6), 1e7, dtype=torch.float64)]),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("chunk", [neighbours.CHUNK, 1000])
def test_neighbours_and_balls_equal_brute_force(cloud, chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    points = CLOUDS[cloud]
    queries = torch.cat([points[::3], points[::4] + 1e-10])
    brute = (queries[:, None] - points).square().sum(2).sqrt()
    distances, indices = neighbours.nearest(queries, points, 4)
    torch.testing.assert_close(distances, brute.sort(1).values[:, :4], rtol=1e-12, atol=0)
    torch.testing.assert_close(brute.gather(1, indices), distances, rtol=1e-12, atol=0)
    own = (points[:, None] - points).square().sum(2).sqrt().fill_diagonal_(math.inf).sort(1).values
    radii, others = neighbours.nearest(points, points, 4, exclude_self=True)
    torch.testing.assert_close(radii, own[:, :4], rtol=1e-12, atol=0)
    assert (others != torch.arange(len(points))[:, None]).all()
    inside = brute <= radii[:, 3] * (1 + 1e-13)
    holding, held = neighbours.count_inside(queries, points, radii[:, 3])
    assert torch.equal(holding, inside.sum(1)) and torch.equal(held, inside.sum(0))


def test_copies_of_the_reference_have_perfect_marks_and_no_authenticity():
    real = normal(200, 16)
    assert precision_recall(real, real.flip(0)) == {"precision": 1, "recall": 1}
    assert density_coverage(real, real.flip(0), k=5) == {"density": pytest.approx(6 / 5), "coverage": 1}
    metric, values = memorisation(real, normal(100, 16, seed=1), real.flip(0))
    assert values == {"authenticity": 0, "nn_ratio": 0}
    assert metric.nearest_train.tolist() == list(range(199, -1, -1))


def test_one_outlier_whose_ball_holds_all_samples():
    real = torch.cat([normal(99, 4), torch.full((1, 4), 100.0)])
    generated = 0.1 * normal(50, 4) + 50  # inside the outlier's ball alone
    metric = filled(DensityCoverage(k=5), real, generated)
    values = metric.compute()
    assert precision_recall(real, generated)["precision"] == 1
    assert values["density"].item() == pytest.approx(1 / 5) and values["coverage"].item() == pytest.approx(1 / 100)
    assert metric.covered.nonzero().tolist() == [[99]]


def test_disjoint_sets_have_no_marks():
    real, generated = normal(50, 4), normal(60, 4) + 1000
    assert precision_recall(real, generated) == {"precision": 0, "recall": 0}
    assert density_coverage(real, generated) == {"density": 0, "coverage": 0}


def test_precision_and_recall_tell_lost_diversity_from_lost_fidelity():
    real = normal(500, 4)
    narrow, wide = precision_recall(real, 0.3 * normal(500, 4, seed=1)), precision_recall(real, 3 * normal(500, 4))
    assert narrow["precision"] > 0.9 and narrow["recall"] < 0.3
    assert wide["precision"] < 0.5 and wide["recall"] > 0.9


def test_fresh_samples_are_as_far_from_the_training_set_as_held_out_ones():
    _, values = memorisation(normal(2000, 6), normal(1000, 6, seed=1), normal(1000, 6, seed=2))
    assert values["authenticity"] == pytest.approx(0.5, abs=0.05)
    assert values["nn_ratio"] == pytest.approx(1, abs=0.05)


def test_half_of_the_samples_copied_halves_the_ratio():
    train, held_out, fresh = normal(2000, 6), normal(1000, 6, seed=1), normal(1000, 6, seed=2)
    _, all_fresh = memorisation(train, held_out, fresh)
    _, half = memorisation(train, held_out, torch.cat([train[:1000], fresh]))
    assert half == {name: pytest.approx(value / 2) for name, value in all_fresh.items()}


# Classifiers and modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log_probs, score",
    [
        (torch.full((100, 7), 1 / 7).log(), 1),
        (torch.eye(7).repeat(20, 1).log(), 7),
        (torch.eye(7)[torch.zeros(100, dtype=torch.int64)].log(), 1),
        (torch.log_softmax(1000 * torch.eye(7).repeat(20, 1), 1).half(), 7),
    ],
    ids=["uniform", "every class", "collapse", "half precision"],
)
def test_classifier_score_of_extremes(log_probs, score):
    metric = ClassifierScore()
    for batch in log_probs.split(30):
        metric.update(batch)
    result = metric.compute()
    assert result["mean"].item() == pytest.approx(score, rel=1e-6) and result["std"].item() < 1e-6


def test_classifier_score_equals_its_definition():
    log_probs = normal(50, 5).log_softmax(1)
    metric = ClassifierScore(splits=3)
    metric.update(log_probs)
    scores = [(p.exp() * (p - p.exp().mean(0).log())).sum(1).mean().exp() for p in log_probs.tensor_split(3)]
    assert metric.compute()["mean"].item() == pytest.approx(sum(scores).item() / 3, rel=1e-12)
    assert metric.compute()["std"].item() == pytest.approx(np.std(scores), rel=1e-10)


def test_class_accuracy_counts_per_class():
    metric = ClassAccuracy(3)
    metric.update(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    metric.update(torch.eye(3)[[1]], torch.tensor([1]))
    result = metric.compute()
    assert result["accuracy"].item() == 0.75
    torch.testing.assert_close(
        result["per_class"], torch.tensor([1, 2 / 3, math.nan], dtype=torch.float64), equal_nan=True
    )


def test_gaussian_modes_of_the_density_itself():
    metric, n, share = GaussianModes(*MODES["grid25"]), 20_000, 1 - math.exp(-4.5)
    points, _ = POINTS["grid25"][0](n, torch.Generator().manual_seed(0))
    for batch in points.split(3000):
        metric.update(batch)
    result = metric.compute()
    assert share == pytest.approx(0.9889, abs=1e-4)
    assert result["high_quality"].item() == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / n))
    assert result["modes"] == 25 and 0 < result["reverse_kl"] < 0.002


def test_gaussian_modes_of_collapsed_and_stray_samples():
    metric = GaussianModes(*MODES["grid25"])
    metric.update(torch.full((10, 2), 1.0))  # between the modes
    assert {name: v.item() for name, v in metric.compute().items()} == {
        "modes": 0,
        "high_quality": 0,
        "reverse_kl": math.inf,
    }
    metric.update(torch.tensor([[2.0, 2.1]]).repeat(30, 1))
    assert {name: v.item() for name, v in metric.compute().items()} == {
        "modes": 1,
        "high_quality": 0.75,
        "reverse_kl": pytest.approx(math.log(25)),
    }


def test_class_modes_of_uniform_stacked_labels():
    metric = ClassModes(1000)
    labels = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    for batch in labels.split(1000):
        metric.update(batch)
    assert metric.compute()["modes"] == 1000
    assert metric.compute()["reverse_kl"].item() == pytest.approx(0.019, abs=0.002)


def test_samples_that_are_not_recognised_count_for_no_mode():
    metric = ClassModes(4)
    metric.update(torch.tensor([0, 1, 2, 3]), torch.tensor([True, False, True, False]))
    metric.update(torch.tensor([0, 3, 3, 3]), torch.tensor([True, False, False, False]))
    found = metric.compute()
    assert found["modes"] == 2 and found["recognised"] == 3 / 8
    assert found["reverse_kl"].item() == pytest.approx(2 / 3 * math.log(8 / 3) + 1 / 3 * math.log(4 / 3))
    none = ClassModes(4)
    none.update(torch.tensor([0, 1]), torch.tensor([False, False]))
    assert {name: float(value) for name, value in none.compute().items()} == {
        "modes": 0,
        "recognised": 0,
        "reverse_kl": math.inf,
        "standard_error": math.inf,
    }


@pytest.mark.parametrize("shares", [[0.1] * 10, [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.005, 0.005]])
def test_the_error_of_the_kl_of_classes_is_its_spread_over_draws(shares):
    generator, n = torch.Generator().manual_seed(0), 300
    labels = torch.multinomial(torch.tensor(shares), 2000 * n, True, generator=generator).view(2000, n)
    values, errors = [], []
    for row in labels:
        metric = ClassModes(10)
        metric.update(row)
        found = metric.compute()
        values.append(found["reverse_kl"])
        errors.append(found["standard_error"])
    assert torch.stack(errors).mean().item() == pytest.approx(
        torch.stack(values).std().item(), rel=0.25
    )  # measured: 16 % too large, and 3 % too small


def test_the_classifier_score_of_sorted_samples_is_one():
    log_probs = torch.eye(10).repeat_interleave(10, 0).log()
    for order, expected in ((torch.arange(100), 1.0), (torch.arange(100).view(10, 10).T.flatten(), 10.0)):
        metric = ClassifierScore(splits=10)
        metric.update(log_probs[order])
        assert metric.compute()["mean"].item() == pytest.approx(expected)


# States ---------------------------------------------------------------------------------------------------------------


def test_rows_come_back_bit_for_bit():
    columns = {
        "mean": normal(7, 3).float(),
        "picture": normal(7, 2, 3, 4).half(),
        "label": torch.arange(7) + 2**60,
        "flag": torch.arange(7) % 2 == 0,
    }
    rows = GatherColumns(*columns)
    for part in (slice(0, 2), slice(2, 2), slice(2, 7)):
        rows.update(**{name: column[part] for name, column in columns.items()})
    torch.testing.assert_close(rows.compute(), columns, rtol=0, atol=0)


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance, PrecisionRecall, DensityCoverage, Memorisation])
def test_an_extractor_is_no_part_of_the_module_that_holds_the_metric(metric):
    parent, extractor = nn.Module(), nn.Linear(4, 2)
    parent.metric = metric(extractor)
    assert not parent.state_dict() and not list(parent.parameters())
    assert [type(m) for m in parent.modules()] == [nn.Module, metric]
    add = {"source": "train"} if metric is Memorisation else {"real": True}
    parent.train()
    parent.metric.update(torch.randn(6, 4, requires_grad=True), **add)
    state = next(rows[0] for rows in parent.metric.metric_state.values() if rows)
    assert state.shape[1] == 2 and state.dtype == torch.float64 and not state.requires_grad


def test_a_parent_in_half_precision_does_not_change_the_sums():
    parent = nn.ModuleList([FrechetDistance(), GaussianModes(*MODES["grid25"])])
    parent.to(torch.bfloat16)
    real, generated = normal(300, 8), normal(200, 8, seed=1)
    assert filled(parent[0], real, generated).compute().item() == frechet(real, generated)
    for batch in POINTS["grid25"][0](5000, torch.Generator().manual_seed(0))[0].split(100):
        parent[1].update(batch)
    assert parent[1].compute()["modes"] == 25 and parent[1].total == 5000


def test_memory_of_the_caller_may_be_used_again():
    metric, buffer = PrecisionRecall(), normal(50, 4)
    metric.update(buffer, real=True)
    metric.update(buffer, real=False)
    buffer.fill_(0)
    metric.update(normal(50, 4, seed=1), real=False)
    assert metric.compute()["recall"] == 1 and metric.features("real").unique(dim=0).shape == (50, 4)


@pytest.mark.parametrize("metric", [FrechetDistance, PrecisionRecall, DensityCoverage])
def test_reset_keeps_the_reference_on_request(metric):
    real, first, second = normal(300, 8), normal(200, 8, seed=1) + 3, normal(200, 8, seed=2)
    kept = filled(metric(keep_real=True), real, first)
    before = kept.compute()
    kept.reset()
    kept.update(second, real=False)
    torch.testing.assert_close(kept.compute(), filled(metric(), real, second).compute(), rtol=1e-12, atol=0)
    kept.reset()
    kept.update(first, real=False)
    torch.testing.assert_close(kept.compute(), before, rtol=1e-12, atol=0)
    forgetful = filled(metric(), real, first)
    forgetful.reset()
    forgetful.update(second, real=False)
    with pytest.raises(UserError, match="real samples: needs at least"):
        forgetful.compute()


def test_calling_a_metric_updates_it():
    metric = FrechetDistance()
    assert metric(normal(30, 4), real=True) is None and metric(normal(30, 4, seed=1), real=False) is None
    assert metric.compute().item() == frechet(normal(30, 4), normal(30, 4, seed=1))


# Ranks ----------------------------------------------------------------------------------------------------------------

SHARES = {"uneven": (slice(0, 20), slice(20, None)), "none on 0": (slice(0), slice(None)), "none on 1": (slice(None),)}


def cases():
    """name -> metric, and sets of columns, of which ranks take shares."""
    real, generated = normal(90, 4), 1.1 * normal(70, 4, seed=1)
    sides = [{"x": real, "real": True}, {"x": generated, "real": False}]
    log_probs, labels = normal(80, 5).log_softmax(1), torch.arange(80) % 7 % 5
    sets = [{"x": x, "source": s} for s, x in (("train", real), ("held_out", generated), ("generated", 2 * real))]
    return {
        "frechet": (FrechetDistance(), sides),
        "kernel": (KernelDistance(subsets=4, subset_size=60), sides),  # refuses the first half
        "precision and recall": (PrecisionRecall(), sides),
        "density and coverage": (DensityCoverage(), sides),
        "memorisation": (Memorisation(), sets),
        "score": (ClassifierScore(), [{"log_probs": log_probs}]),
        "accuracy": (ClassAccuracy(5), [{"log_probs": log_probs, "requested": labels}]),
        "gaussians": (GaussianModes(real[:5, :2], 0.3), [{"points": generated[:, :2]}]),
        "classes": (ClassModes(9), [{"labels": labels}]),
        "rows": (GatherColumns("a", "b"), [{"a": normal(80, 2, 3).half(), "b": labels}]),
    }


def taken(columns, share):
    return {name: v[share] if torch.is_tensor(v) else v for name, v in columns.items()}


def feed(metric, sets, batch):
    for columns in sets:
        for start in range(0, length(columns), batch):
            metric.update(**taken(columns, slice(start, start + batch)))


def length(columns):
    return max(len(v) for v in columns.values() if torch.is_tensor(v))


def values_of(metric):
    values = metric.compute()
    values = dict(values) if isinstance(values, dict) else {"value": values}
    seen = {name: getattr(metric, name) for name in ("covered", "nearest_train") if hasattr(metric, name)}
    return values | seen


def on_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for scenario, shares in SHARES.items():
        share = shares[rank] if rank < len(shares) else slice(0)
        results = {}
        for name, (metric, sets) in cases().items():
            mine = [taken(columns, share) for columns in sets]
            feed(metric, [taken(c, slice(length(c) // 2)) for c in mine], batch=9 - 5 * rank)
            with suppress(UserError):  # a result, or too few for one, must not disturb the other half
                metric.compute()
            feed(metric, [taken(c, slice(length(c) // 2, None)) for c in mine], batch=9 - 5 * rank)
            results[name] = values_of(metric)
            assert all(torch.equal(v.nan_to_num(), results[name][k].nan_to_num()) for k, v in values_of(metric).items())
        torch.save(results, f"{folder}/{scenario}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_with_unequal_shares_equal_one_process(tmp_path, nursery):
    nursery.on_ranks(on_rank, tmp_path)
    expected = {}
    for name, (metric, sets) in cases().items():
        feed(metric, sets, batch=100)
        expected[name] = values_of(metric)
    for scenario in SHARES:
        results = [torch.load(tmp_path / f"{scenario}-{rank}.pt") for rank in (0, 1)]
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(results[0], expected, rtol=1e-6, atol=1e-12, equal_nan=True)


# What is refused ------------------------------------------------------------------------------------------------------


def few(metric, rows=5):
    return filled(metric, normal(9, 4), normal(9, 4)[:rows])


def spoilt():
    rows = normal(5, 4)
    rows[1, 2], rows[3] = math.nan, math.inf
    return rows


def few_scores():
    metric = ClassifierScore()
    metric.update(normal(5, 4).log_softmax(1))
    return metric


FIVE, GRID = normal(5, 4), MODES["grid25"]
REFUSED = {
    # features
    r"generated features \(5, 3\), but real features \(N, 4\): take both": partial(
        few(FrechetDistance()).update, normal(5, 3), real=False
    ),
    r"features must be \(N, d\), got \(5, 2, 2\)": partial(FrechetDistance().update, normal(5, 2, 2), real=True),
    r"the extractor's features must be \(N, d\)": partial(FrechetDistance(nn.Identity()).update, normal(5), real=True),
    "generated features: 2 of 5 rows are not finite": partial(PrecisionRecall().update, spoilt(), real=False),
    "FrechetDistance: generated samples: needs at least 2, got 1": few(FrechetDistance(), 1).compute,
    "KernelDistance: real samples: needs at least 1000, got 9: .* smaller subset": few(KernelDistance()).compute,
    "subset_size: needs at least 2, got 1": partial(KernelDistance, subset_size=1),
    "subsets 0: it must be at least 1": partial(KernelDistance, subsets=0),
    "PrecisionRecall: generated samples: needs at least 6, got 5": few(PrecisionRecall(k=5)).compute,
    "DensityCoverage: real samples: needs at least 10, got 9": few(DensityCoverage(k=9)).compute,
    # training examples
    "unknown source 'training': .* known: generated, held_out, train": partial(Memorisation().update, FIVE, "training"),
    "training examples: needs at least 2, got 1": partial(memorisation, FIVE[:1], FIVE, FIVE),
    "held-out examples: needs at least 1, got 0": partial(memorisation, FIVE, FIVE[:0], FIVE),
    "generated samples: needs at least 1, got 0": partial(memorisation, FIVE, FIVE, FIVE[:0]),
    "held-out example is a copy of a training example": partial(memorisation, FIVE, FIVE, FIVE),
    # classifiers
    "5 of 5 rows are no log-probabilities .* apply log_softmax": partial(ClassifierScore().update, FIVE),
    r"log-probabilities must be \(N, C\), got \(5,\)": partial(ClassifierScore().update, normal(5)),
    "ClassifierScore: samples: needs at least 10, got 5: .* fewer splits": few_scores().compute,
    r"must be \(2, 3\) for 2 requested classes, got \(5, 4\)": partial(ClassAccuracy(3).update, FIVE, torch.arange(2)),
    r"requested classes must be in \[0, 4\), but 1 are not: they span 0..4": partial(
        ClassAccuracy(4).update, FIVE, torch.arange(5)
    ),
    "log-probabilities are NaN": partial(ClassAccuracy(4).update, spoilt(), torch.arange(5) % 4),
    # modes
    r"points must be \(N, 2\), got \(5, 4\)": partial(GaussianModes(*GRID).update, FIVE),
    "points: 2 of 5 rows are not finite": partial(GaussianModes(FIVE, 1.0).update, spoilt()),
    r"sigma > 0 and radius > 0, got centres \(5, 4\), sigma 0": partial(GaussianModes, FIVE, 0.0),
    r"labels must be in \[0, 10\), but 2 are not: they span -1..10": partial(
        ClassModes(10).update, torch.tensor([-1, 0, 10])
    ),
    r"labels must be \(N,\) integers, got \(2,\) torch.float32": partial(ClassModes(10).update, torch.ones(2)),
    # rows
    r"needs columns a, b of one length, got {'a': 2}": partial(GatherColumns("a", "b").update, a=torch.ones(2)),
}


@pytest.mark.parametrize("text", REFUSED)
def test_mistakes_are_explained(text):
    with pytest.raises(UserError, match=text):
        REFUSED[text]()


def test_columns_of_another_kind_than_before_are_refused():
    rows = GatherColumns("a")
    rows.update(a=torch.ones(2, 3))
    with pytest.raises(UserError, match=r"column 'a' of rows \(4,\) torch.float32, but before it had \(3,\)"):
        rows.update(a=torch.ones(2, 4))


@pytest.mark.parametrize("metric", [ClassAccuracy(3), ClassModes(3), GaussianModes(*MODES["grid25"])])
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_is_refused(metric):
    with pytest.raises(UserError, match="samples: needs at least 1, got 0"):
        metric.compute()
