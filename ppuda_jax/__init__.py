"""ppuda_jax: parameter prediction for neural networks with graph hypernetworks."""
