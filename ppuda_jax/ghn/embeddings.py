"""Initial node features: what a node does, plus the shape of its parameter.

Section 3.1 of the paper. Sizes seen in training have a row each in two small embedding tables
(channels and spatial sizes); every other size uses the row of the nearest one. The tables and
their look-up arrays are constants of the configuration.

Legend: `B` meta-batch, `N` nodes, `D` width of the node features.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.primitives import PRIMITIVES

Integers = jax.Array | np.ndarray
"""Whole numbers: graphs come from the host as NumPy arrays, or traced."""


@functools.cache
def channel_sizes(num_classes: int) -> np.ndarray:
    """Channel counts with an embedding of their own, sorted int32 [C]."""
    grid = [*range(8, 64, 8), *range(64, 4096, 16), *range(4096, 8193, 32)]
    return np.unique([1, 3, num_classes, *grid]).astype(np.int32)


@functools.cache
def spatial_sizes(max_size: int) -> np.ndarray:
    """Kernel heights and widths with an embedding of their own, sorted int32 [S]."""
    return np.unique([*range(1, max(12, max_size), 2), 14, 16]).astype(np.int32)


def _nearest_rows(sizes: np.ndarray, moved: dict[int, int]) -> np.ndarray:
    """Row of the nearest size for 0..max, the lower on ties; `moved` replaces sizes first."""
    values = np.arange(sizes[-1] + 1)
    for size, replacement in moved.items():
        values[size] = replacement
    rows = np.abs(sizes[None, :] - values[:, None]).argmin(axis=1)
    return rows.astype(np.int32)


@functools.cache
def channel_lookup(num_classes: int) -> np.ndarray:
    """Embedding row of each channel count, int32 [largest + 1]; clip larger counts."""
    return _nearest_rows(channel_sizes(num_classes), dict.fromkeys(range(4, 8), 8))


@functools.cache
def spatial_lookup(max_size: int) -> np.ndarray:
    """Embedding row of each kernel size, int32 [largest + 1]; clip larger sizes."""
    return _nearest_rows(spatial_sizes(max_size), {2: 3})


def shape_rows(shape: Integers, num_classes: int, max_size: int) -> jax.Array:
    """Embedding rows of node shapes.

    Args:
      shape: int32 [..., 4], (out, in, height, width); all zeros where a node has no shape.
      num_classes: classes of the GHN, which have a row in the channel table.
      max_size: largest kernel of the decoder, which decides the spatial table.

    Returns:
      int32 [..., 4]: rows in the channel table (first two) and in the spatial table (last two);
      the row after the last one of each table where the node has no shape.
    """
    channels, spatial = channel_lookup(num_classes), spatial_lookup(max_size)
    dummy = [len(channel_sizes(num_classes))] * 2 + [len(spatial_sizes(max_size))] * 2
    rows = jnp.concatenate(
        [
            jnp.asarray(channels)[jnp.clip(shape[..., :2], 0, len(channels) - 1)],
            jnp.asarray(spatial)[jnp.clip(shape[..., 2:], 0, len(spatial) - 1)],
        ],
        axis=-1,
    )
    has_shape = jnp.any(shape != 0, axis=-1, keepdims=True)
    return jnp.where(has_shape, rows, jnp.broadcast_to(jnp.array(dummy, rows.dtype), rows.shape))


class NodeEmbedding(nn.Module):
    """Primitive embedding plus the concatenated embeddings of the four sizes."""

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        normal = nn.initializers.normal(1.0, jnp.float32)
        width = config.hid // 4
        channel_rows = len(channel_sizes(config.num_classes)) + 1
        spatial_rows = len(spatial_sizes(config.max_shape[2])) + 1
        self.primitive = self.param("primitive", normal, (len(PRIMITIVES), config.hid))
        self.channel = self.param("channel", normal, (channel_rows, width))
        self.spatial = self.param("spatial", normal, (spatial_rows, width))

    def __call__(self, primitive: Integers, shape: Integers) -> jax.Array:
        """Embeds nodes.

        Args:
          primitive: node kind, int32 [B, N].
          shape: (out, in, height, width), int32 [B, N, 4]; zeros for none.

        Returns:
          Node features, [B, N, D] of the tables' dtype.
        """
        rows = shape_rows(shape, self.config.num_classes, self.config.max_shape[2])
        sizes = [_embed(self.channel, rows[..., axis]) for axis in (0, 1)]
        sizes += [_embed(self.spatial, rows[..., axis]) for axis in (2, 3)]
        return _embed(self.primitive, primitive) + jnp.concatenate(sizes, axis=-1)


@jax.custom_vjp
def _embed(table: jax.Array, rows: Integers) -> jax.Array:
    """Rows of a small table, [...] -> [..., D]; the gradient is a product, not a scatter."""
    return _embed_fwd(table, rows)[0]


def _embed_fwd(table: jax.Array, rows: Integers) -> tuple[jax.Array, Any]:
    return table.at[rows].get(mode="promise_in_bounds"), (table, rows)


def _embed_bwd(residuals: Any, g: jax.Array) -> tuple[jax.Array, None]:
    table, rows = residuals
    chosen = jax.nn.one_hot(rows.reshape(-1), table.shape[0], dtype=table.dtype)
    g = g.reshape(-1, table.shape[1])
    return jnp.matmul(chosen.T, g, precision=jax.lax.Precision.HIGHEST), None


_embed.defvjp(_embed_fwd, _embed_bwd)
