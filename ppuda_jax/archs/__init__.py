"""Architectures of DeepNets-1M: genotypes, sampling, plans and files (no JAX)."""
