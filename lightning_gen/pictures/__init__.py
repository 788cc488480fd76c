"""What is shown of a model."""
