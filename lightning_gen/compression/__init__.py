"""Entropy coding of examples under a trained model: see docs/compression.md."""
