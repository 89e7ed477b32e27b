"""The sets that a structure may lie in: vertices or inside of the cube or of the simplex.

Legend: `K` functions of an edge, `...` batch axes, `S` sample axes.
"""

from typing import Protocol

import jax
import jax.numpy as jnp


class Constraint(Protocol):
    """A set of structures [..., K]."""

    def project(self, value: jax.Array) -> jax.Array:
        """The nearest point of the set, [..., K] -> [..., K]."""
        ...

    def sample(self, seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Uniform points of the set, [..., K]; consumes `seed`."""
        ...

    def is_member(self, value: jax.Array, tolerance: float = 1e-5) -> jax.Array:
        """Whether points lie in the set, bool [...]."""
        ...


class Cube:
    """All weights between 0 and 1."""

    def project(self, value: jax.Array) -> jax.Array:
        """The nearest point of the set, [..., K] -> [..., K]."""
        return jnp.clip(value, 0, 1)

    def sample(self, seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Uniform points of the set, [..., K]; consumes `seed`."""
        return jax.random.uniform(seed, shape)

    def is_member(self, value: jax.Array, tolerance: float = 1e-5) -> jax.Array:
        """Whether points lie in the set, bool [...]."""
        return jnp.all((value >= -tolerance) & (value <= 1 + tolerance), -1)


class CubeVertices:
    """Every function is used or not."""

    def project(self, value: jax.Array) -> jax.Array:
        """The nearest point of the set, [..., K] -> [..., K]."""
        return (value > 0.5).astype(value.dtype)

    def sample(self, seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Uniform points of the set, [..., K]; consumes `seed`."""
        return jax.random.bernoulli(seed, 0.5, shape).astype(jnp.float32)

    def is_member(self, value: jax.Array, tolerance: float = 1e-5) -> jax.Array:
        """Whether points lie in the set, bool [...]."""
        return jnp.all(jnp.minimum(jnp.abs(value), jnp.abs(value - 1)) <= tolerance, -1)


class Simplex:
    """Weights at or above 0 whose sum is 1."""

    def project(self, value: jax.Array) -> jax.Array:
        """The nearest point of the set, [..., K] -> [..., K].

        The projection subtracts the threshold that leaves a sum of 1 (Held et al. 1974).
        """
        ordered = -jnp.sort(-value, axis=-1)
        count = jnp.arange(1, value.shape[-1] + 1, dtype=value.dtype)
        count = count.reshape((1,) * (value.ndim - 1) + count.shape)
        thresholds = (jnp.cumsum(ordered, -1) - 1) / count
        support = jnp.sum(ordered > thresholds, -1, keepdims=True)
        return jax.nn.relu(value - jnp.take_along_axis(thresholds, support - 1, -1))

    def sample(self, seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Uniform points of the set, [..., K]; consumes `seed`."""
        gaps = jax.random.exponential(seed, shape)
        return gaps / jnp.sum(gaps, -1, keepdims=True)

    def is_member(self, value: jax.Array, tolerance: float = 1e-5) -> jax.Array:
        """Whether points lie in the set, bool [...]."""
        inside = jnp.all(value >= -tolerance, -1)
        return inside & (jnp.abs(jnp.sum(value, -1) - 1) <= tolerance)


class SimplexVertices:
    """Exactly one function is used."""

    def project(self, value: jax.Array) -> jax.Array:
        """The nearest point of the set, [..., K] -> [..., K]; the first of several."""
        return jax.nn.one_hot(jnp.argmax(value, -1), value.shape[-1], dtype=value.dtype)

    def sample(self, seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Uniform points of the set, [..., K]; consumes `seed`."""
        return jax.nn.one_hot(jax.random.randint(seed, shape[:-1], 0, shape[-1]), shape[-1])

    def is_member(self, value: jax.Array, tolerance: float = 1e-5) -> jax.Array:
        """Whether points lie in the set, bool [...]."""
        return jnp.max(jnp.abs(value - self.project(value)), -1) <= tolerance


def check_member(constraint: Constraint, value: jax.Array) -> None:
    """Refuses structures outside of their set.

    Raises:
      ValueError: a point is not a member; the nearest one is named.
    """
    if not bool(jnp.all(constraint.is_member(value))):
        raise ValueError(
            f"a structure must lie in {type(constraint).__name__}, received {value}: project it "
            f"(nearest: {constraint.project(value)})"
        )
