"""Callbacks: checkpoints, progress, pictures, stability, metrics."""
