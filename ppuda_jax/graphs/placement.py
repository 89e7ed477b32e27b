"""Between a parameter leaf and the canonical tensors that bindings say it is made of."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ppuda_jax.graphs.arch_graph import Binding


def numpy_index(binding: Binding) -> tuple[int | slice, ...]:
    """The index of a binding's part in its leaf, seen in the shape `binding.view_shape`."""
    return tuple(
        entry if isinstance(entry, int) else _slice(*entry) for entry in binding.index or ()
    )


def _slice(start: int, stop: int, step: int) -> slice:
    return slice(start, None if stop < 0 else stop, step)


def read(binding: Binding, leaf: Any) -> Any:
    """The canonical tensor of a binding (the reference's layout) in a leaf.

    Args:
      binding: where it is and how it lies there.
      leaf: array of shape `binding.leaf_shape`.

    Returns:
      Array of shape `binding.shape`.
    """
    part = leaf
    if binding.index is not None:
        part = jnp.reshape(leaf, binding.view_shape or binding.leaf_shape)[numpy_index(binding)]
    moved = jnp.reshape(part, [binding.split[axis] for axis in binding.perm])
    return jnp.reshape(jnp.transpose(moved, np.argsort(binding.perm).tolist()), binding.shape)


def write(binding: Binding, leaf: Any, tensor: Any) -> Any:
    """The leaf with another canonical tensor for a binding; the inverse of `read`.

    Args:
      binding: where it goes and how it lies there.
      leaf: array of shape `binding.leaf_shape`.
      tensor: array of shape `binding.shape`.
    """
    part = jnp.transpose(jnp.reshape(tensor, binding.split), binding.perm)
    return place(binding, leaf, jnp.reshape(part, binding.part_shape))


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
