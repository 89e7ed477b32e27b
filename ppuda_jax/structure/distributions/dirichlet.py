"""The Dirichlet distribution on the simplex, with implicit gradients (Figurnov et al. 2018).

Legend: `K` functions of an edge, `...` batch axes, `S` sample axes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from ppuda_jax.structure.distributions.base import check_choices, check_positive, pytree, with_axes


@pytree
@dataclasses.dataclass(frozen=True)
class Dirichlet:
    """The distribution with density proportional to `prod g_l^(concentration_l - 1)`.

    Attributes:
      concentration: above zero, [..., K], floating.

    Raises:
      ValueError: fewer than two functions, or a concentration at or below zero.
    """

    concentration: jax.Array

    def __post_init__(self) -> None:
        check_choices("concentration", self.concentration, least=2)
        check_positive("concentration", self.concentration)

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures, [S, ..., K]; consumes `seed`."""
        return jnp.exp(self.sample_raw(seed, sample_shape))

    def sample_raw(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws logarithms of structures, [S, ..., K]; consumes `seed`.

        They are normalised gamma variables, whose gradient JAX takes implicitly. Logarithms are
        normalised, since gamma variables of a small concentration are below the smallest float.
        """
        shape = (*sample_shape, *self.concentration.shape)
        concentration = jnp.broadcast_to(self.concentration, shape)
        return jax.nn.log_softmax(jax.random.loggamma(seed, concentration))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density, [..., K] -> [...]."""
        return self.log_prob_of_raw(jnp.log(value))

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log density (on the simplex) at points given by their logarithms, [..., K] -> [...]."""
        alpha = with_axes(self.concentration, raw.ndim)
        return jnp.sum((alpha - 1) * raw, -1) - _log_normaliser(alpha)

    def mode(self) -> jax.Array:
        """The point of highest density, [..., K]; a vertex unless all concentrations exceed 1."""
        alpha = self.concentration
        inside = (alpha - 1) / (jnp.sum(alpha, -1, keepdims=True) - alpha.shape[-1])
        vertex = jax.nn.one_hot(jnp.argmax(alpha, -1), alpha.shape[-1], dtype=alpha.dtype)
        return jnp.where(jnp.all(alpha > 1, -1, keepdims=True), inside, vertex)

    def entropy(self) -> jax.Array:
        """The differential entropy, [...]."""
        alpha = self.concentration
        total = jnp.sum(alpha, -1)
        return (
            _log_normaliser(alpha)
            + (total - alpha.shape[-1]) * digamma(total)
            - jnp.sum((alpha - 1) * digamma(alpha), -1)
        )

    def kl_divergence(self, other: "Dirichlet") -> jax.Array:
        """The exact KL(self || other), [...]."""
        alpha, beta = self.concentration, other.concentration
        total = jnp.sum(alpha, -1, keepdims=True)
        expected_log = digamma(alpha) - digamma(total)
        return (
            _log_normaliser(beta)
            - _log_normaliser(alpha)
            + jnp.sum((alpha - beta) * expected_log, -1)
        )


def _log_normaliser(alpha: jax.Array) -> jax.Array:
    return jnp.sum(gammaln(alpha), -1) - gammaln(jnp.sum(alpha, -1))
