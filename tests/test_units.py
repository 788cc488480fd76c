"""Between the user's units and those of the network."""

import pytest
import torch

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model, to_units

IMAGE, VECTOR = DataSpec((1, 1, 3)), DataSpec((2,), "vector", "real")
ROW = torch.tensor([0.0, 1.0, 0.25]).view(1, 1, 1, 3)


@pytest.mark.parametrize(
    ("stored", "spec"),
    [
        ((ROW * 255).round().to(torch.uint8), IMAGE),
        (ROW, IMAGE._replace(values="unit")),
        (ROW * 4095, IMAGE._replace(values="unit", range=(0.0, 4095.0))),
        (ROW * 500 - 1000, IMAGE._replace(values="unit", range=(-1000.0, -500.0))),
    ],
)
def test_pixels_reach_the_model_in_minus_one_to_one_and_come_back(stored, spec):
    seen = to_model(stored, spec)
    assert seen.dtype == torch.float32
    assert torch.allclose(seen.flatten(), torch.tensor([-1.0, 1.0, -0.5]), atol=0.005)
    assert torch.allclose(to_units(seen, spec), stored.float(), atol=1e-3)


def test_columns_are_standardized_in_float64():
    """Times of 2026 in seconds keep their differences, which float32 would lose."""
    rows = torch.tensor([[1.79e9, 3.0], [1.79e9 + 1, 5.0]], dtype=torch.float64)
    seen = to_model(rows, VECTOR._replace(mean=(1.79e9, 4.0), scale=(1.0, 0.5)))
    assert torch.equal(seen, torch.tensor([[0.0, -2.0], [1.0, 2.0]]))
    spec = VECTOR._replace(mean=(10.0, 4.0), scale=(3.0, 0.5))
    back = to_units(to_model(rows, spec._replace(mean=(1.79e9, 4.0))), spec._replace(mean=(1.79e9, 4.0)))
    assert back.dtype == torch.float64 and torch.allclose(back, rows, rtol=0, atol=1e-6)


def test_values_without_units_of_their_own_stay():
    rows = torch.randn(3, 2)
    assert torch.equal(to_units(to_model(rows, VECTOR), VECTOR), rows)
    tokens = torch.tensor([[1, 2]])
    spec = DataSpec((2,), "text", "tokens", vocab=("a", "b", "c"))
    assert torch.equal(to_units(to_model(tokens.int(), spec), spec), tokens)
