"""Puts a predicted part into a parameter leaf that holds several, as a binding says."""

from typing import Any

import jax.numpy as jnp

from ppuda_jax.graphs.arch_graph import Binding


def numpy_index(binding: Binding) -> tuple[int | slice, ...]:
    """The index of a binding's part in its leaf, seen in the shape `binding.view_shape`."""
    return tuple(
        entry if isinstance(entry, int) else _slice(*entry) for entry in binding.index or ()
    )


def _slice(start: int, stop: int, step: int) -> slice:
    return slice(start, None if stop < 0 else stop, step)


def place(binding: Binding, leaf: Any, part: Any) -> Any:
    """Writes a part into a leaf.

    Args:
      binding: where the part goes.
      leaf: array of shape `binding.leaf_shape`.
      part: array of shape `binding.part_shape`.

    Returns:
      The leaf with the part.
    """
    if binding.index is None:
        return jnp.reshape(part, binding.leaf_shape)
    seen = jnp.reshape(leaf, binding.view_shape or binding.leaf_shape)
    return jnp.reshape(seen.at[numpy_index(binding)].set(part), binding.leaf_shape)
