"""Computational graphs of architectures and of any JAX function."""
