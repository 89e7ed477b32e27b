"""Random parameters of any network that has a graph, in the place of predicted ones."""

import math

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.placement import numpy_index
from ppuda_jax.prediction.leaves import Path


def he_leaves(graph: ArchGraph, seed: int = 0) -> dict[Path, np.ndarray]:
    """Draws what a hypernetwork would predict: He's normal kernels, unit norms, zero biases.

    He et al. (2015): the variance of a kernel is 2 / fan-in. Positional encodings are standard
    normal, as those of DeepNets-1M networks.

    Args:
      graph: the network.
      seed: of the generator.

    Returns:
      One float32 array for each leaf that has a binding, by path.
    """
    rng = np.random.default_rng(seed)
    leaves: dict[Path, np.ndarray] = {}
    for binding in graph.bindings:
        leaf = leaves.setdefault(binding.path, np.zeros(binding.leaf_shape, np.float32))
        # Entries are independent, so that it does not matter how they lie in the canonical tensor.
        whole = binding.part_shape if binding.index is None else binding.leaf_shape
        leaf.reshape(binding.view_shape or whole)[numpy_index(binding)] = _draw(binding, rng)
    return leaves


def _draw(binding: Binding, rng: np.random.Generator) -> np.ndarray:
    """What goes into a leaf; canonical kernels are [O, I, ...]: all but the first is fan-in."""
    if binding.role == "norm_scale":
        return np.ones(binding.part_shape, np.float32)
    if binding.role not in ("kernel", "pos_enc"):
        return np.zeros(binding.part_shape, np.float32)
    deviation = 1.0 if binding.role == "pos_enc" else math.sqrt(2 / math.prod(binding.shape[1:]))
    return np.float32(deviation) * rng.standard_normal(binding.part_shape, np.float32)
