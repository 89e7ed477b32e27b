"""Sparse variational dropout (Molchanov et al. 2017): a dropout rate per weight, from the data.

The posterior of a weight is N(mean, exp(log_alpha) mean^2), its prior log-uniform. The divergence
depends on the rate alone; where the rate grows without limit, the weight is noise around zero.

Legend: `n` objects, `D` inputs, `F` outputs.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # the paper's fit of the divergence
_TINY = 1e-16  # squared means below it count as zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseDense:
    """The variational parameters of a dense layer without bias.

    Attributes:
      mean: [D, F].
      log_variance: of the weights, [D, F]: the additive form, whose gradients vary less.
    """

    mean: jax.Array
    log_variance: jax.Array

    @classmethod
    def init(cls, key: jax.Array, inputs: int, outputs: int, log_variance: float = -8.0) -> Self:
        """Draws means by LeCun's rule; consumes `key`."""
        mean = inputs**-0.5 * jax.random.normal(key, (inputs, outputs))
        return cls(mean, jnp.full_like(mean, log_variance))

    @property
    def log_alpha(self) -> jax.Array:
        """Logarithm of the ratio of variance to squared mean, [D, F]."""
        return self.log_variance - jnp.log(jnp.square(self.mean) + _TINY)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Draws outputs [n, F] from inputs [n, D] (local reparametrisation); consumes `key`."""
        mean = x @ self.mean
        variance = jnp.square(x) @ jnp.exp(self.log_variance)
        return mean + jnp.sqrt(variance + 1e-12) * jax.random.normal(key, mean.shape, mean.dtype)

    def divergence(self) -> jax.Array:
        """KL from the log-uniform prior up to its constant, [] at or above 0."""
        return jnp.sum(log_uniform_divergence(self.log_alpha))

    def used(self, threshold: float = 3.0) -> jax.Array:
        """Weights whose `log_alpha` is at most `threshold`, [D, F]; the others may be zero."""
        return self.log_alpha <= threshold

    def pruned(self, threshold: float = 3.0) -> jax.Array:
        """The means, with zeros in the place of unused weights, [D, F]."""
        return jnp.where(self.used(threshold), self.mean, 0)


def log_uniform_divergence(log_alpha: jax.Array) -> jax.Array:
    """The published approximation of KL(N(m, alpha m^2) || log-uniform), entry by entry.

    Its constant makes it 0 for alpha towards infinity.
    """
    negative = _K1 * jax.nn.sigmoid(_K2 + _K3 * log_alpha) - 0.5 * jax.nn.softplus(-log_alpha) - _K1
    return -negative
