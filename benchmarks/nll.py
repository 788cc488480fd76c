"""Negative log-likelihood of a run's model on its test images: ``python benchmarks/nll.py RUN -k 1000``.

The importance-sampled bound (Burda et al. 2016, eq. 8) over the whole test split, in nats, with its standard error.
"""

from __future__ import annotations

import time

import torch
from rich.progress import track

from lightning_gen import cli, runs
from lightning_gen.checkpoints import find, load
from lightning_gen.protocols import Likelihood


def main(argv: list[str]) -> None:
    parser = cli.Parser(prog="python benchmarks/nll.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("-k", type=int, default=1000, help="importance samples for each image")
    parser.add_argument("-n", type=int, help="number of test images (default: all)")
    parser.add_argument("--which", choices=["best", "last"], default="last")
    parser.add_argument("--root", help="where the data are, if not where the run found them")
    given = parser.parse_args(argv)
    model = load(find(given.run, given.which))
    assert isinstance(model, Likelihood)
    plan = cli.plan({}, ["--data.root", given.root] if given.root else [], runs.read_config(given.run))
    data = cli.instantiate(plan)[1]
    data.prepare_data()
    data.setup("test")
    start = time.perf_counter()
    values, left = [], given.n or len(data.test_dataloader().source)
    with torch.inference_mode():
        for batch in track(data.test_dataloader(), "importance sampling"):
            x, index = data.on_after_batch_transfer(batch, 0)["x"][:left], batch["index"][:left]
            left -= len(x)
            values.append(model.log_likelihood(x, given.k, numbers=index.tolist()).double())
            if not left:
                break
    nll = -torch.cat(values)
    error = nll.std() / len(nll) ** 0.5
    seconds = time.perf_counter() - start
    print(f"NLL (IS-{given.k}, {len(nll):,} test images): {nll.mean():.2f} nats, standard error {error:.2f}")
    print(f"{seconds:.0f} s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    cli.run(main)
