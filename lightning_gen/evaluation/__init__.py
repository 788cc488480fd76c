"""Evaluation: the measurements of scripts/evaluate.py, and its report."""
