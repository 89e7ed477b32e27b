"""Blocks: what a hypernetwork decodes for a target, scaled, bounded, and repeated up to its shape.

Section 3.1 of the paper: the decoder predicts at most `max_shape`; a target that is larger along
an axis repeats the block along it and is cut at the end. Section 3.2: weights are scaled by their
fan-in, norm scales and biases are bounded. Leaves of a pytree (`leaves.py`) and rows of the
executor's tables (`tables.py`) are made of the same blocks by these functions.

Legend: `B` graphs, `N` nodes, `D` node embedding, `V` nodes that are decoded, `T` taps of them,
`I` and `O` channels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.decoders import Index
from ppuda_jax.ghn.model import GHN
from ppuda_jax.ghn.normalization import bound_bias, bound_norm_scale, kernel_scale
from ppuda_jax.graphs.batching import PaddedGraphs

MAX_BLOCK = 64
"""Channels of the largest block that a published decoder makes; larger targets repeat it."""

TAP_SIDE = 7
"""Rows and columns of the largest kernel of DeepNets-1M."""

NORM_SCALE, BIAS = 0, 1
VECTOR_ROWS = {"norm_scale": NORM_SCALE, "norm_bias": BIAS, "bias": BIAS}
"""Role of a vector -> its row of `BlockDecoder.vectors`."""


@dataclasses.dataclass(frozen=True)
class BlockDecoder:
    """The decoders of one hypernetwork, with its parameters.

    Attributes:
      config: the hypernetwork (static).
      theta: its parameters.
    """

    config: GHNConfig
    theta: Mapping[str, Any]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        return GHN(self.config).apply({"params": self.theta}, *args, **kwargs)

    def embed(self, graphs: PaddedGraphs) -> jax.Array:
        """Node embeddings [B, N, D]."""
        return self._apply(graphs)

    def kernels(
        self,
        h: jax.Array,
        y: jax.Array | np.ndarray,
        x: jax.Array | np.ndarray,
        *,
        node: jax.Array | np.ndarray | None = None,
        out_index: Index = None,
        in_index: Index = None,
        kernel_size: tuple[int, int],
    ) -> jax.Array:
        """Kernels at one tap each, not yet scaled, [T, I, O]; see `GHN.decode_taps`."""
        return self._apply(
            h,
            y,
            x,
            out_index,
            in_index,
            node=node,
            kernel_size=kernel_size,
            order="io",
            method=GHN.decode_taps,
        )

    def tap_features(self, h: jax.Array, side: int) -> jax.Array:
        """First layer for all taps of square kernels, [V * side**2, 4D]."""
        features = self._apply(h, (side, side), method=GHN.tap_features)
        return features.reshape(-1, features.shape[-1])

    def row_layer(self) -> tuple[jax.Array, jax.Array]:
        """Second layer, see `GHN.row_layer`."""
        return self._apply(method=GHN.row_layer)

    def output_layer(self, out_index: Index, in_index: Index) -> tuple[jax.Array, jax.Array]:
        """Last layer for some channels, see `GHN.output_layer`."""
        return self._apply(out_index, in_index, method=GHN.output_layer)

    def class_kernels(self, h: jax.Array, in_index: Index = None) -> jax.Array:
        """Kernels of classifiers, not yet scaled, [V, classes, I]."""
        return self._apply(h, in_index, method=GHN.decode_class_kernel)

    def class_biases(self, h: jax.Array) -> jax.Array:
        """Biases of classifiers, [V, classes]."""
        bias = self._apply(h, method=GHN.decode_class_bias)
        return bound_bias(bias) if self.config.weight_norm else bias

    def vectors(self, h: jax.Array) -> jax.Array:
        """Norm scales (row `NORM_SCALE`) and biases (row `BIAS`), [V, 2, O]."""
        vectors = self._apply(h, method=GHN.decode_vectors)
        if not self.config.weight_norm:
            return vectors
        return jnp.stack(
            [bound_norm_scale(vectors[..., NORM_SCALE, :]), bound_bias(vectors[..., BIAS, :])],
            axis=-2,
        )


@functools.lru_cache(maxsize=8192)
def weight_scale(shape: tuple[int, ...], role: str, weight_norm: bool) -> float:
    """Factor of a decoded kernel.

    Args:
      shape: canonical shape of the target, (out, in) or (out, in, height, width).
      role: its role.
      weight_norm: whether weights are scaled by their fan-in (GHN-2).

    Returns:
      The factor; 1 for vectors, which `BlockDecoder.vectors` bounds.
    """
    return kernel_scale(shape, role) if weight_norm and len(shape) > 1 else 1.0


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
    """Crops or repeats the last axes of `block` to `shape`.

    Args:
      block: decoded values, with at least as many axes as `shape`.
      shape: target shape of the last axes; those before them stay.

    Raises:
      ValueError: the block has fewer axes.
    """
    first = block.ndim - len(shape)
    if first < 0:
        raise ValueError(
            f"a block must have at least the axes of its target, received {block.shape} for "
            f"{tuple(shape)}"
        )
    axes = list(enumerate(shape, first))
    for axis, size in axes:  # crop first, so that no repeated value is thrown away
        if size < block.shape[axis]:
            block = tile_axis(block, size, axis)
    for axis, size in axes:
        if size > block.shape[axis]:
            block = tile_axis(block, size, axis)
    return block
