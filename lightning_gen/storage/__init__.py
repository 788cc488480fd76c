"""What lies on the disk: checkpoints, run folders, trained models."""
