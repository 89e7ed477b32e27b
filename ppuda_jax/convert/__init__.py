"""Checkpoints of the PyTorch reference to and from this package's parameters."""
