"""Loss functions: pure functions of tensors, per example (B,), in nats."""
