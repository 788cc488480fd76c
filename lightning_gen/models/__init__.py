"""One file per family; each reads like the paper's algorithm box."""
