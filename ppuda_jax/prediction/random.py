"""Random parameters of any network that has a graph, in the place of predicted ones."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.placement import write
from ppuda_jax.prediction.leaves import Path


def he_leaves(graph: ArchGraph, seed: int = 0) -> dict[Path, Any]:
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
    leaves: dict[Path, Any] = {}
    for binding in graph.bindings:
        leaf = leaves.get(binding.path, jnp.zeros(binding.leaf_shape, jnp.float32))
        leaves[binding.path] = write(binding, leaf, _draw(binding, rng))
    return leaves


def _draw(binding: Binding, rng: np.random.Generator) -> np.ndarray:
    """A canonical tensor; kernels are [O, I, ...], so that the fan-in is all but the first axis."""
    if binding.role == "norm_scale":
        return np.ones(binding.shape, np.float32)
    if binding.role not in ("kernel", "pos_enc"):
        return np.zeros(binding.shape, np.float32)
    deviation = 1.0 if binding.role == "pos_enc" else math.sqrt(2 / math.prod(binding.shape[1:]))
    return np.float32(deviation) * rng.standard_normal(binding.shape, np.float32)
