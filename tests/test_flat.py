"""The flat all-reduce: means of gradients and statistics over two processes, as DistributedDataParallel gives them."""

import json
import sys

import pytest
import torch

from lightning_gen import exits
from lightning_gen.cluster.flat import FlatStrategy
from lightning_gen.storage.checkpoints import read_checkpoint

TWO_PROCESSES = """
import json, sys, torch
from torch import nn
from lightning_gen.cluster.flat import FlatStrategy

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
strategy = FlatStrategy(parallel_devices=[torch.device("cpu")] * 2)
strategy.cluster_environment = type("Environment", (), {"global_rank": lambda s: rank, "local_rank": lambda s: rank,
    "world_size": lambda s: 2, "node_rank": lambda s: 0, "set_global_rank": lambda s, r: None,
    "set_world_size": lambda s, w: None})()
torch.manual_seed(rank)
strategy.model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
strategy.configure_ddp()
first = [p.tolist() for p in strategy.model.parameters()]
weights = list(strategy.model.parameters())
norm = strategy.model[1]
norm.running_mean.fill_(float(rank))
weights[0].grad = torch.full_like(weights[0], float(rank + 1))          # both ranks: mean 1.5
weights[1].grad = torch.ones_like(weights[1]) if rank else None         # one rank only: 0.5
strategy.average_gradients(weights)                                     # nobody has the others': they stay None
print(json.dumps({"first": first, "grads": [None if p.grad is None else p.grad.flatten().tolist() for p in weights],
    "mean": norm.running_mean.tolist(), "bytes": strategy.bytes_sent, "reductions": strategy.reductions}))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory, nursery):
    folder = tmp_path_factory.mktemp("flat")
    (folder / "two.py").write_text(TWO_PROCESSES)
    ranks = [nursery.start(folder / "two.py", rank, folder / "store", cwd=folder) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].errors + ranks[1].errors
    return [json.loads(rank.output.splitlines()[-1]) for rank in ranks]


def test_all_ranks_start_from_the_first_ones_weights(both):
    assert both[0]["first"] == both[1]["first"]


def test_gradients_are_means_over_the_ranks(both):
    for rank in both:
        assert rank["grads"][0] == [1.5] * 6
        assert rank["grads"][1] == [0.5] * 3, "a rank without a gradient counts as one of zero"
        assert rank["grads"][2:] == [None] * 4, "what no rank has a gradient for, the optimizer must skip"


def test_statistics_of_batch_norm_are_shared(both):
    assert both[0]["mean"] == both[1]["mean"] == [0.5] * 3


def test_one_reduction_of_known_size(both):
    weights, statistics, flags = 6 + 3 + 3 + 3 + 3 + 1, 3 + 3, 6
    assert both[0]["reductions"] == 1
    assert both[0]["bytes"] == 4 * (weights + statistics + flags)


def test_a_script_leaves_its_process_group(tmp_path, monkeypatch):
    """Threads of gloo that are still there when a process ends may abort it."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    with pytest.raises(SystemExit) as stop:
        exits.run_main(lambda _: None)
    assert stop.value.code == 0 and not torch.distributed.is_initialized()


@pytest.mark.parametrize("model", ["wgan-gp", "factor-vae"])
def test_the_same_weights_as_lightnings_ddp(tmp_path, nursery, model):
    """Bit by bit; the statistics of batch norms are better than the first rank's alone, and differ."""
    command = ["--model", model, "--steps", 6, "--trainer.accelerator", "cpu", "--val_every", 6, "--watch", "none"]
    for strategy in ("flat", "ddp"):
        nursery.fit(*command, "--name", strategy, "--trainer.strategy", strategy, cwd=tmp_path, ranks=2)
    flat, ddp = (
        read_checkpoint(tmp_path / f"tb_logs/{model}-digits-{strategy}/version_0/checkpoints/last.ckpt")["state_dict"]
        for strategy in ("flat", "ddp")
    )
    assert all(torch.equal(value, ddp[name]) for name, value in flat.items() if "running_" not in name)


def test_its_name_is_known_to_lightning():
    from lightning.pytorch.strategies import StrategyRegistry

    assert isinstance(StrategyRegistry.get("flat"), FlatStrategy)
