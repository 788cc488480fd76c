"""Several processes as one run: who started them, what is checked before, how gradients are shared, what ends them."""
