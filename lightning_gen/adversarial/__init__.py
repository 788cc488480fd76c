"""What all adversarial models share."""
