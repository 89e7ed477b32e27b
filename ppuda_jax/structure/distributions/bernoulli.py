"""Relaxed Bernoulli distributions on the cube: BinConcrete and HardConcrete (Louizos et al. 2018).

Legend: `K` functions of an edge, `...` batch axes, `S` sample axes.
"""

import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions.base import check_positive, pytree, with_axes


@pytree
@dataclasses.dataclass(frozen=True)
class BinConcrete:
    """Samples sigmoid((logits + L) / temperature), L standard logistic; entries are independent.

    A sample exceeds 1/2 with probability sigmoid(logits) at every temperature.

    Attributes:
      logits: [..., K], floating.
      temperature: above zero, broadcasts against [...].

    Raises:
      ValueError: a temperature at or below zero.
    """

    logits: jax.Array
    temperature: jax.Array | float

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def sample_raw(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws logits of structures, [S, ..., K]; consumes `seed`."""
        shape = (*sample_shape, *self.logits.shape)
        noise = jax.random.logistic(seed, shape, self.logits.dtype)
        return (jnp.broadcast_to(self.logits, shape) + noise) / self._tau(len(shape))

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures of the cube, [S, ..., K]; consumes `seed`."""
        return jax.nn.sigmoid(self.sample_raw(seed, sample_shape))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density, [..., K] -> [...]."""
        x = jnp.log(value) - jnp.log1p(-value)
        jacobian = jnp.sum(jnp.log(value) + jnp.log1p(-value), -1)
        return self.log_prob_of_raw(x) - jacobian

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log density of the samples' logits, [..., K] -> [...]; safe where samples saturate."""
        tau = self._tau(raw.ndim)
        y = tau * raw - with_axes(self.logits, raw.ndim)
        return jnp.sum(jnp.log(tau) - y - 2 * jax.nn.softplus(-y), -1)

    def mode(self) -> jax.Array:
        """The vertex of the cube that a sample is most often nearest to, [..., K]."""
        return (self.logits > 0).astype(self.logits.dtype)

    def entropy(self) -> jax.Array:
        """The differential entropy of the samples' logits, [...]; that of L is 2."""
        tau = jnp.broadcast_to(self._tau(self.logits.ndim), self.logits.shape)
        return jnp.sum(2 - jnp.log(tau), -1)

    def kl_divergence(self, other: Self) -> jax.Array:
        """KL(self || other) at equal temperatures, [...]; it does not depend on them.

        With d the difference of the logits each entry is `d coth(d / 2) - 2`.
        """
        d = self.logits - other.logits
        small = jnp.abs(d) < 1e-2
        safe = jnp.where(small, 1.0, d)
        exact = safe / jnp.tanh(safe / 2) - 2
        # Around zero the two terms cancel: their series is d^2 / 6 - d^4 / 360.
        return jnp.sum(jnp.where(small, d**2 / 6 - d**4 / 360, exact), -1)

    def _tau(self, ndim: int) -> jax.Array:
        return with_axes(jnp.asarray(self.temperature, self.logits.dtype)[..., None], ndim)


@pytree
@dataclasses.dataclass(frozen=True)
class HardConcrete:
    """A BinConcrete stretched past the cube and clipped to it: exact zeros and ones have mass.

    Attributes:
      logits: [..., K], floating.
      temperature: above zero; 2/3 in the paper.
      low: lower end of the stretched interval, below 0.
      high: its upper end, above 1.

    Raises:
      ValueError: a temperature at or below zero, or an interval that does not contain the cube.
    """

    logits: jax.Array
    temperature: jax.Array | float = 2 / 3
    low: float = dataclasses.field(default=-0.1, metadata={"static": True})
    high: float = dataclasses.field(default=1.1, metadata={"static": True})

    def __post_init__(self) -> None:
        if not (self.low < 0 and self.high > 1):
            raise ValueError(
                f"the interval must reach below 0 and above 1, received {self.low} to {self.high}"
            )
        check_positive("temperature", self.temperature)

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures of the cube, [S, ..., K]; consumes `seed`."""
        inner = BinConcrete(self.logits, self.temperature).sample(seed, sample_shape)
        return jnp.clip(inner * (self.high - self.low) + self.low, 0, 1)

    @property
    def probability_of_use(self) -> jax.Array:
        """Probability that an entry is not zero, [..., K]; its sum is the expected L0 norm."""
        tau = jnp.asarray(self.temperature, self.logits.dtype)[..., None]
        tau = with_axes(tau, self.logits.ndim)
        return jax.nn.sigmoid(self.logits - tau * math.log(-self.low / self.high))

    def mode(self) -> jax.Array:
        """The vertex of the cube that a sample is most often nearest to, [..., K]."""
        return (self.logits > 0).astype(self.logits.dtype)
