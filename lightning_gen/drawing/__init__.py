"""Grids, points in the plane, PNG files; independent of models."""
