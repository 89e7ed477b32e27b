"""Selection of the structure of deep models by weights on the functions of a graph's edges."""
