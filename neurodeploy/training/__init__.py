"""The training loop, data and checkpoints."""
