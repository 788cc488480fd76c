"""The parts that all adversarial models share."""
