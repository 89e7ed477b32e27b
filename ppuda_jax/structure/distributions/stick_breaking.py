"""Stick-breaking of the Indian buffet process with Kumaraswamy sticks.

The number of active features is not set beforehand: feature k is used with probability
`pi_k = nu_1 ... nu_k`, `nu ~ Beta(alpha, 1)` (Teh et al. 2007). The variational sticks are
Kumaraswamy, which has a reparametrised sample (Nalisnick and Smyth 2017, Singh et al. 2017).

Legend: `K` features of the truncated process, `...` batch axes, `S` sample axes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma, gammaln

from ppuda_jax.structure.distributions.base import check_positive, pytree, with_axes

_SERIES = 32  # terms of the series in `kl_to_beta`


@pytree
@dataclasses.dataclass(frozen=True)
class Kumaraswamy:
    """The distribution on [0, 1] with `P(nu <= x) = 1 - (1 - x^a)^b`.

    Attributes:
      a: above zero, [..., K], floating.
      b: above zero, [..., K].

    Raises:
      ValueError: a parameter at or below zero.
    """

    a: jax.Array
    b: jax.Array

    def __post_init__(self) -> None:
        check_positive("a", self.a)
        check_positive("b", self.b)

    def sample_log(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws logarithms of sticks, [S, ..., K], at or below 0; consumes `seed`."""
        shape = (*sample_shape, *self.a.shape)
        a, b = jnp.broadcast_to(self.a, shape), jnp.broadcast_to(self.b, shape)
        # Of 1 - u, which is uniform too: -log is exponential, and small values stay exact.
        tail = -jax.random.exponential(seed, shape, self.a.dtype) / b
        return jnp.log(-jnp.expm1(tail)) / a

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws sticks, [S, ..., K]; consumes `seed`."""
        return jnp.exp(self.sample_log(seed, sample_shape))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of each stick, [..., K]."""
        a = with_axes(self.a, value.ndim)
        b = with_axes(self.b, value.ndim)
        logs = jnp.log(value)
        return jnp.log(a) + jnp.log(b) + (a - 1) * logs + (b - 1) * jnp.log(-jnp.expm1(a * logs))

    def kl_to_beta(self, alpha: jax.Array | float, beta: jax.Array | float = 1.0) -> jax.Array:
        """KL to Beta(alpha, beta) of each stick, [..., K] (Nalisnick and Smyth 2017, appendix).

        For `beta` other than 1 there is an infinite series: 32 terms, and the integral of the rest.
        """
        a, b = self.a, self.b
        alpha, beta = jnp.asarray(alpha, a.dtype), jnp.asarray(beta, a.dtype)
        head = (a - alpha) / a * (-jnp.euler_gamma - digamma(b) - 1 / b)
        m = jnp.arange(1, _SERIES + 1, dtype=a.dtype).reshape((_SERIES,) + (1,) * a.ndim)
        terms = jnp.exp(betaln(m / a[None], jnp.broadcast_to(b, (_SERIES, *b.shape))))
        # Terms fall like Gamma(b) a^b (m + a b / 2)^(-1 - b).
        rest = jnp.exp(gammaln(b) + b * jnp.log(a / (_SERIES + 0.5 + a * b / 2))) / b
        series = jnp.sum(terms / (m + (a * b)[None]), 0) + rest
        return head + jnp.log(a * b) + betaln(alpha, beta) - (b - 1) / b + (beta - 1) * b * series


def feature_log_probs(log_sticks: jax.Array) -> jax.Array:
    """Logarithms of the probabilities of use: sums of those of the sticks so far, [..., K]."""
    return jnp.cumsum(log_sticks, axis=-1)


def expected_features(alpha: float, num_objects: int) -> float:
    """Expected number of features that `num_objects` objects use: alpha times a harmonic number."""
    return alpha * sum(1 / n for n in range(1, num_objects + 1))
