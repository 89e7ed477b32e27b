"""From a decoded block to the shape of a target: crop what is smaller, repeat what is larger.

Section 3.1 of the paper: the decoder predicts at most `max_shape`; a target that is larger along
an axis repeats the block along it and is cut at the end.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def tile_index(size: int, block: int) -> np.ndarray:
    """Index into a block's axis for each position of the target's axis, int32 [size]."""
    return np.arange(size, dtype=np.int32) % block


def tile_axis(block: jax.Array, size: int, axis: int) -> jax.Array:
    """Crops or repeats one axis of `block` to `size`; the other axes stay.

    Whole repeats are written as a broadcast, so that XLA writes the result once.
    """
    have = block.shape[axis]
    if size <= have:
        return jax.lax.slice_in_dim(block, 0, size, axis=axis)
    axis %= block.ndim
    whole, rest = divmod(size, have)
    shape = (*block.shape[:axis], whole, *block.shape[axis:])
    dims = tuple(i for i in range(block.ndim + 1) if i != axis)
    repeated = jax.lax.broadcast_in_dim(block, shape, dims)
    repeated = repeated.reshape(*block.shape[:axis], whole * have, *block.shape[axis + 1 :])
    if not rest:
        return repeated
    return jnp.concatenate([repeated, jax.lax.slice_in_dim(block, 0, rest, axis=axis)], axis=axis)


def tile_to(block: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Crops or repeats every axis of `block` to `shape`.

    Args:
      block: decoded values, with as many axes as `shape`.
      shape: target shape.

    Raises:
      ValueError: the number of axes differs.
    """
    if block.ndim != len(shape):
        raise ValueError(
            f"block and target must have the same number of axes, received {block.shape} for "
            f"{shape}"
        )
    for axis, size in enumerate(shape):  # crop first, so that no repeated value is thrown away
        if size < block.shape[axis]:
            block = tile_axis(block, size, axis)
    for axis, size in enumerate(shape):
        if size > block.shape[axis]:
            block = tile_axis(block, size, axis)
    return block
