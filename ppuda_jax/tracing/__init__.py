"""Any JAX function to an architecture graph, from its jaxpr alone."""
