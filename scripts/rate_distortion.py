"""Rate against distortion of VAEs and VQ-VAEs: ``python scripts/rate_distortion.py --data digits``."""

from lightning_gen.commands import start

if __name__ == "__main__":
    start("rate-distortion")
