"""The error of a metric that does not apply."""

from __future__ import annotations


class Inapplicable(Exception):
    """A metric has no meaning for this model or these data; the text is the reason, fit for a report."""
