"""``python -m lightning_gen COMMAND``: the same as ``lightning-gen COMMAND``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start()
