"""scripts/evaluate.py on a machine with enough cores for the processes that it is asked for."""

from lightning_gen.commands import evaluate
from lightning_gen.exits import run_main

if __name__ == "__main__":
    evaluate.cores = lambda: 1000
    run_main(evaluate.main)
