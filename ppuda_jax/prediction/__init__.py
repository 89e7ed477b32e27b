"""From node embeddings to parameters: leaves of a pytree, or rows of the executor's tables."""
