"""Grids, points in the plane, PNG files; knows no model."""
