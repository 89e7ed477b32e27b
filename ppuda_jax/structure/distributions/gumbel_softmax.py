"""The Gumbel-Softmax (Concrete) distribution on the simplex (Maddison et al. 2016).

Everything is computed from the logarithm of a sample: at temperature 0.05 the smaller weights of a
sample are below the smallest float32, their logarithms are ordinary numbers.

Legend: `K` functions of an edge, `...` batch axes, `S` sample axes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, logsumexp

from ppuda_jax.structure.distributions.base import check_choices, check_positive, pytree, with_axes

_GRID = 512  # points of the integral in `kl_divergence`
_TAIL = 40.0  # where the integrand is below exp(-40)


@pytree
@dataclasses.dataclass(frozen=True)
class GumbelSoftmax:
    """Samples softmax((logits + G) / temperature), G standard Gumbel.

    The largest weight of a sample is the l-th with probability softmax(logits)_l at every
    temperature. Towards zero the samples are one-hot, towards infinity all weights are 1 / K.

    Attributes:
      logits: [..., K], floating; a constant added to them changes nothing.
      temperature: above zero, broadcasts against [...].

    Raises:
      ValueError: no function, or a temperature at or below zero.
    """

    logits: jax.Array
    temperature: jax.Array | float

    def __post_init__(self) -> None:
        check_choices("logits", self.logits)
        check_positive("temperature", self.temperature)

    @property
    def probs(self) -> jax.Array:
        """Probability that a function has the largest weight, [..., K]."""
        return jax.nn.softmax(self.logits)

    def sample_raw(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws logarithms of structures, [S, ..., K]; consumes `seed`."""
        shape = (*sample_shape, *self.logits.shape)
        noise = jax.random.gumbel(seed, shape, self.logits.dtype)
        logits = jnp.broadcast_to(self.logits, shape)
        return jax.nn.log_softmax((logits + noise) / self._tau(len(shape)))

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures, [S, ..., K]; consumes `seed`."""
        return jnp.exp(self.sample_raw(seed, sample_shape))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at points of the simplex, [..., K] -> [...]; -inf or inf on its boundary."""
        return self.log_prob_of_raw(jnp.log(value))

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log density (on the simplex) at points given by their logarithms, [..., K] -> [...].

        This is the density of `log_prob`, not that of the logarithms, so that it may be averaged
        over `sample_raw` where `log_prob` of `sample` would meet weights of zero.
        """
        count, ndim = self.logits.shape[-1], max(raw.ndim, self.logits.ndim)
        logits = jax.nn.log_softmax(self.logits)
        shape = jnp.broadcast_shapes(with_axes(logits, ndim).shape, with_axes(raw, ndim).shape)
        logits = jnp.broadcast_to(with_axes(logits, ndim), shape)
        raw = jnp.broadcast_to(with_axes(raw, ndim), shape)
        tau = self._tau(ndim)
        terms = logits - tau * raw
        constant = gammaln(float(count)) + (count - 1) * jnp.log(tau[..., 0])
        return constant + jnp.sum(terms - raw, -1) - count * logsumexp(terms, axis=-1)

    def mode(self) -> jax.Array:
        """The vertex that a sample is most often nearest to, [..., K].

        Up to temperature 1 / (K - 1) the density has no mode inside the simplex.
        """
        return jax.nn.one_hot(jnp.argmax(self.logits, -1), self.logits.shape[-1])

    def entropy_bound(self) -> jax.Array:
        """An upper bound of the differential entropy, [...]; it is tight towards temperature 0.

        The bound replaces the expected logsumexp of the perturbed logits by their expected maximum,
        which has a closed form.
        """
        count = self.logits.shape[-1]
        tau = self._tau(self.logits.ndim)[..., 0]
        logits = jax.nn.log_softmax(self.logits)
        largest = jnp.euler_gamma / tau
        mean = (
            gammaln(float(count))
            + (count - 1) * jnp.log(tau)
            - jnp.sum(logits, -1) / tau
            - (1 + 1 / tau) * count * jnp.euler_gamma
            - count * digamma(float(count))
            + count * largest
        )
        return -mean

    def kl_divergence(self, other: "GumbelSoftmax") -> jax.Array:
        """The exact KL(self || other) at equal temperatures, on which it does not depend.

        With the ratios r of the two distributions' probabilities, other to self, it is
        `-sum log r + K E log(r . D)`, D uniform on the simplex. The expectation is an integral over
        the line of `sigmoid(-u)^K - prod sigmoid(-u - log r)`, from Laplace transforms of
        exponential variables. It is smooth for equal ratios too, where the usual divided difference
        is 0 / 0, and the trapezoidal rule converges exponentially.

        Args:
          other: of the same number of functions and the same temperature.

        Returns:
          [...], differentiable in both.

        Raises:
          ValueError: the temperatures are known and differ; `monte_carlo_kl` serves any.
        """
        self._check_same_temperature(other)
        ratio = jax.nn.log_softmax(other.logits) - jax.nn.log_softmax(self.logits)
        count = ratio.shape[-1]
        # The grid must reach past every ratio; it is not differentiated.
        reach = _TAIL + jax.lax.stop_gradient(jnp.max(jnp.abs(ratio), -1, keepdims=True))
        grid = reach * with_axes(jnp.linspace(-1, 1, _GRID, dtype=ratio.dtype), ratio.ndim)
        shifted = jax.nn.softplus(grid[..., None, :] + ratio[..., :, None])
        gap = jnp.exp(-count * jax.nn.softplus(grid)) - jnp.exp(-jnp.sum(shifted, -2))
        mean_log = jnp.sum(gap, -1) * (2 * reach[..., 0] / (_GRID - 1))
        return count * mean_log - jnp.sum(ratio, -1)

    def _tau(self, ndim: int) -> jax.Array:
        """The temperature with an axis for the functions, of `ndim` axes."""
        return with_axes(jnp.asarray(self.temperature, self.logits.dtype)[..., None], ndim)

    def _check_same_temperature(self, other: "GumbelSoftmax") -> None:
        first, second = self.temperature, other.temperature
        if first is second or any(isinstance(t, jax.core.Tracer) for t in (first, second)):
            return
        if not bool(jnp.all(jnp.asarray(first) == jnp.asarray(second))):
            raise ValueError(
                "the divergence is exact at equal temperatures, received "
                f"{first} and {second}: use monte_carlo_kl"
            )
