"""``python -m lightning_gen COMMAND``: the same as ``lightning-gen COMMAND``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, where Python would look for what the program imports
    from lightning_gen.commands import start

    start()
