"""What is minimised: pure functions of tensors, per example (B,), in nats."""
