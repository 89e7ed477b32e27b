"""Meta-training: configuration, state, step and loop."""
