"""Models under one budget: cells and the table of their results."""
