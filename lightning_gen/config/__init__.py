"""Layers of configuration, options from signatures, the help."""
