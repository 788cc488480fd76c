"""Quantisers against closed forms: nearest codes, moving means, k-means, revival, rounding, tokens and back, ranks."""

import pytest
import torch

from lightning_gen.datamodules.errors import UserError
from lightning_gen.networks.quantizer import (
    QUANTIZERS,
    FiniteScalarQuantizer,
    VectorQuantizer,
    perplexity,
    straight_through,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def quantizer(vectors, **options):
    """A vector quantiser with these codes (K, D), or (G, K, D)."""
    vectors = torch.as_tensor(vectors).reshape(-1, *torch.as_tensor(vectors).shape[-2:])
    made = VectorQuantizer(codes=vectors.shape[1], dim=vectors.shape[2], depth=len(vectors), **options)
    for book, codes in zip(made.books, vectors, strict=True):
        book.vectors.copy_(codes)
        book.sums.copy_(codes)
    return made


SOME = [VectorQuantizer(codes=9, dim=3), VectorQuantizer(codes=5, dim=3, depth=3), FiniteScalarQuantizer(levels=[5, 4])]


@pytest.mark.parametrize("made", SOME)
def test_shapes_and_back(made):
    """Tokens lie in the vocabulary, and looked up they are what was quantised."""
    out = made(3 * torch.randn(2, 7, made.dim))
    assert out.tokens.shape == (2, made.depth, 7) and out.tokens.dtype == torch.int64
    assert out.tokens.min() >= 0 and out.tokens.max() < made.vocab
    assert torch.allclose(out.q, made.lookup(out.tokens), atol=1e-6)


def test_the_nearest_code_is_taken():
    codes, z = torch.randn(20, 3), torch.randn(4, 6, 3)
    wanted = torch.cdist(z, codes).argmin(2)
    assert torch.equal(quantizer(codes)(z).tokens[:, 0], wanted)


def test_residual_levels_by_hand():
    """4.3 is 4 and then 0.25; -1.4 is 0 and then -1."""
    coarse, fine = [[0.0], [4.0], [8.0]], [[-1.0], [0.25], [1.0]]
    out = quantizer([coarse, fine])(torch.tensor([[[4.3], [-1.4]]]))
    assert out.tokens.tolist() == [[[1, 0], [1, 0]]]
    assert out.q.flatten().tolist() == pytest.approx([4.25, -1.0])
    assert out.parts[1].flatten().tolist() == pytest.approx([0.3, -1.4])


def test_each_level_leaves_less():
    """With a code at 0 in each book no level can make it worse; k-means makes it better."""
    z = torch.randn(1, 500, 4)
    made = VectorQuantizer(codes=16, dim=4, depth=3)
    made.init_codebook(z, 0)
    parts = [*made(z).parts, z[0] - made(z).q[0]]
    errors = [float(part.square().mean()) for part in parts]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] > 2.5 * errors[3]


def test_the_gradient_passes_straight_through():
    z = torch.randn(2, 5, 3, requires_grad=True)
    weights = torch.randn(2, 5, 3)
    (quantizer(torch.randn(8, 3))(z).q * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    q = torch.randn(4)
    assert torch.allclose(straight_through(torch.randn(4), q), q)


def test_moving_means_against_the_formula():
    """N = 0.9 N + 0.1 n, m = 0.9 m + 0.1 sum z, e = m / N, over two steps, the second in two slices."""
    made = quantizer([[0.0], [10.0]], decay=0.9, revive=0.0)
    for step, batch in enumerate([[[1.0, 2.0, 9.0, 3.0]], [[0.0, 8.0], [12.0, 10.0]]]):
        for part, values in enumerate(batch):
            made.observe(made(torch.tensor(values).view(1, -1, 1)), part, len(batch), 0, step)
        made.update()
    low, high = 0.9 * (0.9 * 1 + 0.1 * 3) + 0.1, 0.9 * (0.9 * 1 + 0.1) + 0.1 * 3
    low_sum, high_sum = 0.9 * (0.9 * 0 + 0.1 * 6) + 0.1 * 0, 0.9 * (0.9 * 10 + 0.1 * 9) + 0.1 * 30
    (book,) = made.books
    assert book.counts.tolist() == pytest.approx([low, high])
    assert book.vectors.flatten().tolist() == pytest.approx([low_sum / low, high_sum / high])


def test_slices_give_what_the_whole_batch_gives():
    """Also of the revival: a slice offers the vectors that lie in it."""
    z = torch.randn(8, 10, 3)
    whole, parts = (quantizer(torch.tensor([[0.0, 0, 0], [50, 50, 50], [9, 9, 9]]), revive=0.5) for _ in range(2))
    for step in range(3):
        whole.observe(whole(z), 0, 1, 7, step)
        for part in range(4):
            parts.observe(parts(z[2 * part : 2 * part + 2]), part, 4, 7, step)
        logs = [made.update() for made in (whole, parts)]
        assert logs[0]["revived"] == logs[1]["revived"]
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-5), name


def test_a_dead_code_is_laid_onto_an_example():
    z = torch.randn(1, 40, 2)
    made = quantizer([[0.0, 0.0], [90.0, 90.0]], decay=0.5, revive=0.2)
    revived = []
    for step in range(4):
        made.observe(made(z), 0, 1, 0, step)
        revived.append(float(made.update()["revived"]))
    assert sum(revived) >= 1 and revived[0] == 1  # 0.5 of the code's 1 are below 0.2 of the mean 20
    assert len(made(z).tokens.unique()) == 2
    never = quantizer([[0.0, 0.0], [90.0, 90.0]], decay=0.5, revive=0.0)
    never.observe(never(z), 0, 1, 0, 0)
    assert never.update()["revived"] == 0 and never.books[0].vectors[1].tolist() == [90, 90]


def test_revived_codes_are_vectors_of_the_batch():
    z = torch.randn(1, 64, 3)
    made = quantizer(torch.full((10, 3), 90.0) + torch.arange(10)[:, None], decay=0.0, revive=0.5)
    made.observe(made(z), 0, 1, 0, 0)
    assert made.update()["revived"] == 9
    found = (made.books[0].vectors[:, None] == z[0]).all(2).any(1)
    assert found.sum() == 9 and not found[0]  # all went to the first, which is their mean
    assert torch.allclose(made.books[0].vectors[0], z[0].mean(0), atol=1e-5)


def test_a_code_that_nothing_comes_near_stays_where_it_is():
    made = VectorQuantizer(codes=2, dim=2, decay=0.5, revive=0)
    for value in (made.books[0].vectors, made.books[0].sums):
        value.copy_(torch.tensor([[0.0, 0.0], [90.0, 90.0]]))
    made.started.fill_(True)
    z = torch.randn(1, 50, 2)
    for step in range(60):
        made.observe(made(z), 0, 1, 0, step)
        made.update()
    assert torch.equal(made.books[0].vectors[1], torch.tensor([90.0, 90.0]))


def test_k_means_finds_separate_clusters():
    """Codes start in the clusters, each of which has one at least, and the error is what the clusters' width leaves."""
    centres = 20 * torch.randn(6, 4)
    z = (centres.repeat(50, 1) + 0.01 * torch.randn(300, 4)).unsqueeze(0)
    made = VectorQuantizer(codes=24, dim=4)
    before = (made(z).q - z).square().mean()
    made.init_codebook(z, seed=3)
    assert (made(z).q - z).square().mean() < 2e-4 < before
    assert made.books[0].counts.sum() == 300
    start = made.books[0].vectors.clone()
    made.init_codebook(100 + z, seed=3)
    assert torch.equal(made.books[0].vectors, start)  # once only
    again = VectorQuantizer(codes=24, dim=4)
    again.load_state_dict(made.state_dict())
    again.init_codebook(100 + z, seed=3)
    assert torch.equal(again.books[0].vectors, start)  # after a checkpoint neither


def test_k_means_with_fewer_vectors_than_codes():
    made = VectorQuantizer(codes=32, dim=2)
    z = torch.randn(1, 5, 2)
    made.init_codebook(z, seed=0)
    assert torch.allclose(made(z).q, z, atol=1e-6)


@pytest.mark.parametrize("levels", [[2], [3], [8, 8, 4], [8, 5, 5, 5], [7, 2]])
def test_finite_scalars_against_the_paper(levels):
    """Every digit occurs, no other does, 0 stays 0 (but of two levels, which part there), no gradient is lost."""
    made = FiniteScalarQuantizer(levels=levels, spread=0)
    z = torch.linspace(-6, 6, 4001)[None, :, None].repeat(1, 1, len(levels)).requires_grad_()
    out = made(z)
    for i, count in enumerate(levels):
        values = out.q[0, :, i].detach().unique()
        wanted = (torch.arange(count) - count // 2) / (count // 2)
        assert torch.allclose(values.unique(), wanted, atol=1e-6)
        assert (out.q[0, :, i].diff() >= -1e-6).all()
    at_zero = torch.tensor([-0.5 if count == 2 else 0.0 for count in levels])
    assert torch.allclose(made.bound(torch.zeros(len(levels))), at_zero, atol=1e-6)
    out.q.sum().backward()
    assert (z.grad[0, 1000:3000] > 0).all()


def test_two_levels_part_at_zero():
    z = torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(0))
    share = FiniteScalarQuantizer(levels=[2], spread=0)(z).tokens.double().mean()
    assert share == pytest.approx(0.5, abs=0.03)  # one code of two was used by z < -3.8 alone


@pytest.mark.parametrize("count", [1000, 1001, 1500, 4095, 65536])
def test_many_levels_end_at_the_outermost(count):
    made = FiniteScalarQuantizer(levels=[count], spread=0)
    tokens = made(torch.tensor([-50.0, 50.0]).view(1, 2, 1)).tokens.flatten().tolist()
    assert tokens == [0, count - 1]


def test_finite_tokens_are_a_bijection():
    made = FiniteScalarQuantizer(levels=[8, 5, 3])
    assert made.vocab == 120
    tokens = torch.arange(120).view(1, 1, 120)
    vectors = made.lookup(tokens)
    assert len(vectors[0].unique(dim=0)) == 120
    digits = (vectors * (made.levels // 2)).round()  # by which the token is a number of mixed radix
    again = ((digits + made.levels // 2).long() * torch.tensor([1, 8, 40])).sum(2)
    assert torch.equal(again, tokens[0])


def test_finite_scalars_use_all_levels_of_any_normal():
    """z of mean 7 and deviation 0.01 is spread over all levels, nearly evenly; without the moments it sits on one."""
    z = 7 + 0.01 * torch.randn(2, 4000, 2, requires_grad=True)
    made = FiniteScalarQuantizer(levels=[5, 5])
    shares = torch.bincount(made(z).tokens.flatten(), minlength=25) / 8000
    assert perplexity(shares) > 22
    assert len(FiniteScalarQuantizer(levels=[5, 5], spread=0)(z).tokens.unique()) == 1


def test_moving_moments_against_the_formula():
    """The first batch's as they are, then 0.9 of the old and 0.1 of the new; those of chunks are averaged."""
    made = FiniteScalarQuantizer(levels=[3], decay=0.9)
    batches = [[[1.0, 3.0]], [[0.0, 4.0], [2.0, 2.0]]]
    for chunks in batches:
        for values in chunks:
            made(torch.tensor(values, requires_grad=True).view(1, 2, 1))
        assert made.update() == {}
    assert made.mean.tolist() == pytest.approx([2.0])
    assert made.variance.tolist() == pytest.approx([0.9 * 1 + 0.1 * 2])
    state = {name: value.clone() for name, value in made.state_dict().items()}
    made(torch.randn(1, 9, 1))  # no gradient is asked for: the prior's turn
    made.eval()(torch.randn(1, 9, 1, requires_grad=True))
    made.update()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_evaluation_takes_the_moving_moments():
    made = FiniteScalarQuantizer(levels=[7, 4])
    z = 3 + 2 * torch.randn(2, 50, 2, requires_grad=True)
    trained = made(z)
    made.update()
    out = made.eval()(z)
    assert torch.equal(out.tokens, trained.tokens)
    assert torch.equal(made(z[:1]).tokens, out.tokens[:1])  # which do not look at the batch


def test_perplexity():
    assert perplexity(torch.full((16,), 1 / 16)) == pytest.approx(16)
    assert perplexity(torch.eye(8)[3]) == pytest.approx(1)
    assert perplexity(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist() == pytest.approx([2, 1])


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("vector", {"codes": 0}, "codes 0: possible are whole numbers above 0"),
        ("vector", {"depth": 0}, "depth 0"),
        ("vector", {"decay": 1.0}, "0 <= decay < 1"),
        ("vector", {"revive": -0.1}, "0 <= revive < 1"),
        ("finite", {"levels": []}, "whole numbers of at least 2"),
        ("finite", {"levels": [8, 1]}, "whole numbers of at least 2"),
        ("finite", {"levels": [8, 2.5]}, "whole numbers of at least 2"),
        ("finite", {"spread": -1.0}, "spread >= 0"),
        ("finite", {"decay": 1.0}, "0 <= decay < 1"),
    ],
)
def test_impossible_options(name, options, text):
    with pytest.raises(UserError, match=text):
        QUANTIZERS[name](**options)


RANKS = """
import sys, torch, torch.distributed as dist
from lightning_gen.networks.quantizer import FiniteScalarQuantizer, VectorQuantizer

rank, world = int(sys.argv[1]), int(sys.argv[2])
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}.lock", rank=rank, world_size=world)
torch.manual_seed(0)
made = VectorQuantizer(codes=12, dim=3, depth=2, decay=0.8, revive=0.3)
z = torch.randn(8, 10, 3, dtype=torch.float64).float()
for step in range(6):
    mine = (z + step).chunk(world)[rank]
    made.init_codebook(mine, 5)
    made.observe(made(mine), rank, world, 5, step)
    made.update()
finite = FiniteScalarQuantizer(levels=[5, 4, 3], decay=0.5)
whole = z.requires_grad_()
for step in range(3):
    mine = (whole * (1 + step)).chunk(world)[rank]
    out = finite(mine)
    finite.update()
loss = out.q.pow(2).sum() / len(mine)
(gradient,) = torch.autograd.grad(loss, whole)
if world > 1:
    dist.all_reduce(gradient)
state = made.state_dict() | finite.state_dict() | {"gradient": gradient / world}
torch.save(state, f"{sys.argv[3]}.{rank}.{world}")
if world > 1:
    dist.destroy_process_group()
"""


def test_two_ranks_equal_one(tmp_path, nursery):
    """k-means, moving means, revival and moments see the vectors of all ranks, the moments with their gradient."""
    place = tmp_path / "state"
    (tmp_path / "ranks.py").write_text(RANKS)
    jobs = [
        nursery.start(tmp_path / "ranks.py", rank, world, place, cwd=tmp_path)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0], "".join(job.errors for job in jobs)
    one, first, second = (torch.load(f"{place}.{name}", weights_only=True) for name in ("0.1", "0.2", "1.2"))
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(value, first[name], atol=1e-5), name
