"""The logit-normal (logistic-normal) distribution on the simplex (Atchison and Shen 1980).

Legend: `K` functions of an edge, `...` batch axes, `S` sample axes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions.base import check_choices, check_positive, pytree, with_axes

_MODE_STEPS = 200


@pytree
@dataclasses.dataclass(frozen=True)
class LogitNormal:
    """Samples softmax([z, 0]), z normal with independent entries.

    Attributes:
      loc: mean of z, [..., K - 1], floating.
      scale: standard deviation of z, above zero, [..., K - 1].

    Raises:
      ValueError: fewer than two functions, or a scale at or below zero.
    """

    loc: jax.Array
    scale: jax.Array

    def __post_init__(self) -> None:
        check_choices("loc", self.loc)
        check_positive("scale", self.scale)

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures, [S, ..., K]; consumes `seed`."""
        return jnp.exp(self.sample_raw(seed, sample_shape))

    def sample_raw(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws logarithms of structures, [S, ..., K]; consumes `seed`."""
        noise = jax.random.normal(seed, (*sample_shape, *self.loc.shape), self.loc.dtype)
        z = with_axes(self.loc, noise.ndim) + with_axes(self.scale, noise.ndim) * noise
        return jax.nn.log_softmax(_padded(z))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at points inside the simplex, [..., K] -> [...]."""
        return self.log_prob_of_raw(jnp.log(value))

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log density (on the simplex) at points given by their logarithms, [..., K] -> [...]."""
        z = raw[..., :-1] - raw[..., -1:]
        # dz / dg has the determinant 1 / prod g.
        return self._log_prob_of_z(z) - jnp.sum(raw, -1)

    def mode(self) -> jax.Array:
        """A mode inside the simplex, [..., K]: the one that gradient ascent finds from the median.

        A scale above sqrt(2) or so can have several. The stationary points solve
        `z = loc + scale^2 (K softmax([z, 0]) - 1)`, without the last entry.
        """
        variance = jnp.square(self.scale)
        count = self.loc.shape[-1] + 1
        # The Hessian is at least -(1 / variance + K / 4): a step of its inverse never overshoots.
        step = 1 / (1 / variance + count / 4)

        def ascend(_: int, z: jax.Array) -> jax.Array:
            slope = (self.loc - z) / variance + count * _to_simplex(z)[..., :-1] - 1
            return z + step * slope

        return _to_simplex(jax.lax.fori_loop(0, _MODE_STEPS, ascend, self.loc))

    def entropy_bound(self) -> jax.Array:
        """An upper bound of the differential entropy, [...].

        The entropy is that of z plus `E sum log g`; the concave `-logsumexp` is taken at the mean.
        """
        count = self.loc.shape[-1] + 1
        normal = jnp.sum(0.5 * math.log(2 * math.pi * math.e) + jnp.log(self.scale), -1)
        return normal + jnp.sum(self.loc, -1) - count * jax.nn.logsumexp(_padded(self.loc), -1)

    def kl_divergence(self, other: "LogitNormal") -> jax.Array:
        """The exact KL(self || other), [...]: that of the normal variables."""
        ratio = jnp.square(self.scale / other.scale)
        shift = jnp.square((self.loc - other.loc) / other.scale)
        return 0.5 * jnp.sum(ratio + shift - 1 - jnp.log(ratio), -1)

    def _log_prob_of_z(self, z: jax.Array) -> jax.Array:
        loc, scale = with_axes(self.loc, z.ndim), with_axes(self.scale, z.ndim)
        standard = (z - loc) / scale
        return jnp.sum(
            -0.5 * jnp.square(standard) - jnp.log(scale) - 0.5 * math.log(2 * math.pi), -1
        )


def _padded(z: jax.Array) -> jax.Array:
    return jnp.concatenate([z, jnp.zeros_like(z[..., :1])], axis=-1)


def _to_simplex(z: jax.Array) -> jax.Array:
    return jax.nn.softmax(_padded(z))
