"""Views of a model: samples, reconstructions, interpolations, comparisons."""
