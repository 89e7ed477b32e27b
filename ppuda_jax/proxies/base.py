"""What every proxy takes: a network as a function, its parameters, and one batch.

Legend: `B` images of a batch, `S` pixels per side, `K` classes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.types import Role

ApplyFn = Callable[..., Any]
"""`({"params": params}, images [B, S, S, 3]) -> logits [B, K]`."""

Images = jax.Array | jax.ShapeDtypeStruct
"""Images, or their shape where nothing is computed."""

Path = tuple[str, ...]
"""Keys from the root of a pytree to a leaf."""
Roles = Mapping[Path, Role]
"""What the leaves of the parameters do, by path; leaves without a role are not in it."""


class Batch(NamedTuple):
    """One batch.

    Attributes:
      images: float [B, S, S, 3], normalised.
      labels: int [B].
    """

    images: jax.Array
    labels: jax.Array


class UnsupportedError(ValueError):
    """A proxy is not defined for a network; the message says why."""


def mean_loss(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Mean cross-entropy, []."""
    logits = apply_fn({"params": params}, batch.images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.mean(losses)


def pairs(first: list[jax.Array], second: list[jax.Array]) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Two lists of the same leaves, side by side."""
    return zip(first, second, strict=True)
