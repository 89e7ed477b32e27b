"""Pruning of weights by the posterior: the densest at zero go first.

The measure is the relative density `exp(-mean^2 / (2 variance))` (Graves 2011), see
`posterior.relative_density`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.family import Weights
from ppuda_jax.structure.posterior import Posterior, relative_density


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What is left of a posterior.

    Attributes:
      weights: means, with zeros in the place of pruned weights.
      mask: which are kept, of the weights' shapes, bool.
      kept: how many.
      total: of how many.
    """

    weights: Weights
    mask: Weights
    kept: int
    total: int


def prune(posterior: Posterior, threshold: float = 0.5) -> Pruned:
    """Sets weights to zero whose relative density at zero is `threshold` or more.

    Args:
      posterior: of the weights.
      threshold: above 0, at most 1; 1 keeps all weights whose mean is not zero.

    Raises:
      ValueError: a threshold out of its range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], received {threshold}")
    density = relative_density(posterior)
    return _apply(posterior, jax.tree.map(lambda rho: rho < threshold, density))


def prune_share(posterior: Posterior, share: float) -> Pruned:
    """Sets a share of the weights to zero, those of the largest relative density.

    Args:
      posterior: of the weights.
      share: of all weights, from 0 up to, not including, 1.

    Raises:
      ValueError: a share out of its range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), received {share}")
    # The order of the densities is that of -mean^2 / variance, which does not underflow.
    ratios = _log_density(posterior)
    flat = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ratios)]))
    count = round(share * flat.size)
    limit = flat[flat.size - count] if count else np.inf
    return _apply(posterior, jax.tree.map(lambda ratio: ratio < limit, ratios))


def _log_density(posterior: Posterior) -> Weights:
    return jax.tree.map(
        lambda mean, log_std: -0.5 * jnp.square(mean) * jnp.exp(-2 * log_std),
        posterior.mean,
        posterior.log_std,
    )


def _apply(posterior: Posterior, mask: Weights) -> Pruned:
    weights = jax.tree.map(lambda mean, keep: jnp.where(keep, mean, 0), posterior.mean, mask)
    leaves = jax.tree.leaves(mask)
    return Pruned(
        weights, mask, sum(int(jnp.sum(leaf)) for leaf in leaves), sum(leaf.size for leaf in leaves)
    )
