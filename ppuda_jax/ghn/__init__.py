"""Graph hypernetworks: from a graph to the parameters of its nodes."""
