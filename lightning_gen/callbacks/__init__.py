"""What happens beside training: checkpoints, progress, pictures."""
