"""What every distribution of structures offers, and what holds for all of them.

A structure's *raw* form is what stays an ordinary float where the structure itself rounds to the
boundary of its set: logarithms of the weights on the simplex, logits on the cube.

Legend: `K` functions of an edge, `...` batch axes (edges, seeds), `S` sample axes.
"""

import dataclasses
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np


@runtime_checkable
class Distribution(Protocol):
    """A distribution of structures; its parameters' leading axes are a batch."""

    def sample(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws structures [S, ..., K], differentiable in the parameters; consumes `seed`."""
        ...

    def sample_raw(self, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws the raw form of structures; consumes `seed`."""
        ...

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at structures [..., K]: [...]."""
        ...

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log density at structures in their raw form, up to a term that all of a class share."""
        ...

    def mode(self) -> jax.Array:
        """The most probable structure, [..., K]."""
        ...

    def kl_divergence(self, other: Self) -> jax.Array:
        """The divergence KL(self || other) of each batch entry, [...]."""
        ...


T = TypeVar("T")


def pytree(cls: type[T]) -> type[T]:
    """Registers a frozen dataclass as a pytree that is rebuilt without its checks.

    Transformations put tracers, gradients and placeholders in the place of parameters: a gradient
    below zero is no temperature. Fields with the metadata `static` belong to the structure.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # the caller's is a dataclass
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    leaves = tuple(f.name for f in fields if f.name not in static)

    def flatten(node: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in leaves]
        return keyed, tuple(getattr(node, name) for name in static)

    def unflatten(constants: tuple[Any, ...], children: Any) -> T:
        node = object.__new__(cls)
        for name, value in zip((*static, *leaves), (*constants, *children), strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def monte_carlo_kl(
    first: Distribution, second: Distribution, seed: jax.Array, num_samples: int
) -> jax.Array:
    """Estimates KL(first || second) from samples of the first; differentiable in both.

    Args:
      first: where samples come from.
      second: a distribution on the same set.
      seed: PRNG key (consumed).
      num_samples: how many samples are averaged.

    Returns:
      One unbiased estimate per batch entry, [...].

    Raises:
      ValueError: `num_samples` is not positive.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, received {num_samples}")
    raw = first.sample_raw(seed, (num_samples,))
    return jnp.mean(first.log_prob_of_raw(raw) - second.log_prob_of_raw(raw), axis=0)


def straight_through(relaxed: jax.Array) -> jax.Array:
    """The nearest vertex of the simplex forwards, the relaxed sample backwards.

    Args:
      relaxed: points of the simplex, [..., K].

    Returns:
      One-hot vectors [..., K] whose gradient is that of `relaxed`.
    """
    hard = jax.nn.one_hot(jnp.argmax(relaxed, axis=-1), relaxed.shape[-1], dtype=relaxed.dtype)
    return hard + relaxed - jax.lax.stop_gradient(relaxed)


def with_axes(parameter: jax.Array, ndim: int) -> jax.Array:
    """A parameter with leading axes of 1, up to `ndim`: rank promotion may be forbidden."""
    return parameter.reshape((1,) * (ndim - parameter.ndim) + parameter.shape)


def check_positive(name: str, value: jax.Array | float) -> None:
    """Refuses concrete values at or below zero; values under a transformation pass unseen.

    Raises:
      ValueError: an entry of `value` is not above zero.
    """
    if isinstance(value, jax.core.Tracer):
        return
    if not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} must be above zero, received {value}")


def check_choices(name: str, array: jax.Array, least: int = 1) -> None:
    """Refuses parameters without a last axis of enough functions.

    Raises:
      ValueError: the last axis is missing or shorter than `least`.
    """
    if array.ndim < 1 or array.shape[-1] < least:
        raise ValueError(f"{name} must be [..., K] with K >= {least}, received {array.shape}")
    chex.assert_type(array, float)
