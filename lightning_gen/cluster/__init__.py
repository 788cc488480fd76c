"""Several processes as one run: launch, preflight checks, gradient averaging, signals, lost ranks."""
