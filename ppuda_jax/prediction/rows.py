"""Decoding many kernel taps at once, with work that grows with the rows in use.

A row is one spatial tap of one node's kernel (see `decoders.py`). Programs need between a
hundred and a few thousand of them per meta-batch; to serve every count with one compiled
function, rows come in chunks and a loop runs over the chunks in use only. The loop has its own
gradient, a second loop.

Legend: `F` features per row (4D), `S` feature rows, `R` rows of a chunk, `n` chunks,
`P` outputs per row, `Q` output layers to choose from, one per chunk.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppuda_jax.executor.columns import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows to decode.

    Attributes:
      source: int32 [n, R], row of the features.
      scale: float32 [n, R], factor of the result; 0 for padding.
      layer: int32 [n], output layer of each chunk.
      count: int32 [], chunks in use.
    """

    source: Array
    scale: Array
    layer: Array
    count: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowDecoder:
    """Weights of the last two layers of the convolutional decoder.

    Attributes:
      hidden: float32 [F, 2F], hidden_bias: [2F].
      output: float32 [Q, 2F, P], output_bias: [Q, P].
    """

    hidden: jax.Array
    hidden_bias: jax.Array
    output: jax.Array
    output_bias: jax.Array


def pack_rows(
    layer: np.ndarray, source: np.ndarray, scale: np.ndarray, room: tuple[int, int, int]
) -> tuple[Rows, np.ndarray]:
    """Packs rows into chunks of one output layer each.

    Args:
      layer: int [N], output layer of each row.
      source: int [N], row of the features.
      scale: float32 [N], factor.
      room: number of output layers, rows of a chunk, and rows that must fit.

    Returns:
      The rows (NumPy), and each one's place among the results, int [N].
    """
    layers, size, cap = room
    chunks = math.ceil(cap / size) + layers  # each layer may leave one chunk unfilled
    order = np.argsort(layer, kind="stable")
    counts = np.bincount(layer, minlength=layers)
    per_layer = -(-counts // size)
    first = (np.cumsum(per_layer) - per_layer) * size
    rank = np.arange(len(layer)) - (np.cumsum(counts) - counts)[layer[order]]
    position = np.empty(len(layer), np.int64)
    position[order] = first[layer[order]] + rank
    chunked_source = np.zeros(chunks * size, np.int32)
    chunked_scale = np.zeros(chunks * size, np.float32)
    chunked_source[position], chunked_scale[position] = source, scale
    used = int(per_layer.sum())
    chunk_layer = np.zeros(chunks, np.int32)
    chunk_layer[:used] = np.repeat(np.arange(layers), per_layer)
    rows = Rows(
        source=chunked_source.reshape(chunks, size),
        scale=chunked_scale.reshape(chunks, size),
        layer=chunk_layer,
        count=np.int32(used),
    )
    return rows, position


def _chunk(decoder: RowDecoder, features: jax.Array, scale: jax.Array, layer: jax.Array):
    """One chunk: features [R, F] -> [R, P]."""
    hidden = jax.nn.relu(features @ decoder.hidden + decoder.hidden_bias[None])
    output = lax.dynamic_index_in_dim(decoder.output, layer, keepdims=False)
    bias = lax.dynamic_index_in_dim(decoder.output_bias, layer, keepdims=True)
    return (hidden @ output + bias) * scale[:, None]


def _at(rows: Rows, i):
    return rows.source[i], rows.scale[i], rows.layer[i]


@jax.custom_vjp
def decode_rows(decoder: RowDecoder, features: jax.Array, rows: Rows) -> jax.Array:
    """Decodes rows chunk by chunk; differentiable in `decoder` and `features`.

    Args:
      decoder: weights.
      features: [S, F], hidden features of (node, tap) pairs.
      rows: which of them to decode, and with which output layer.

    Returns:
      float32 [n * R, P]; zeros past the chunks in use.
    """
    chunks, size = rows.source.shape
    out = jnp.zeros((chunks * size, decoder.output.shape[-1]), features.dtype)

    def body(i, out):
        source, scale, layer = _at(rows, i)
        block = _chunk(decoder, jnp.take(features, source, axis=0, mode="clip"), scale, layer)
        return lax.dynamic_update_slice_in_dim(out, block, i * size, 0)

    return lax.fori_loop(0, rows.count, body, out)


def _fwd(decoder, features, rows):
    return decode_rows(decoder, features, rows), (decoder, features, rows)


def _bwd(residuals, g):
    decoder, features, rows = residuals
    size = rows.source.shape[1]

    def body(i, carry):
        g_hidden, g_hidden_bias, g_output, g_output_bias, g_features = carry
        source, scale, layer = _at(rows, i)
        picked = jnp.take(features, source, axis=0, mode="clip")
        hidden = jax.nn.relu(picked @ decoder.hidden + decoder.hidden_bias[None])
        block = lax.dynamic_slice_in_dim(g, i * size, size) * scale[:, None]
        output = lax.dynamic_index_in_dim(decoder.output, layer, keepdims=False)
        before = jnp.where(hidden > 0, block @ output.T, 0.0)
        update = functools.partial(lax.dynamic_update_index_in_dim, index=layer, axis=0)
        g_output = update(g_output, g_output[layer] + hidden.T @ block)
        g_output_bias = update(g_output_bias, g_output_bias[layer] + block.sum(0))
        return (
            g_hidden + picked.T @ before,
            g_hidden_bias + before.sum(0),
            g_output,
            g_output_bias,
            g_features.at[source].add(before @ decoder.hidden.T),
        )

    zeros = jax.tree.map(
        jnp.zeros_like,
        (decoder.hidden, decoder.hidden_bias, decoder.output, decoder.output_bias, features),
    )
    *weights, g_features = lax.fori_loop(0, rows.count, body, zeros)
    names = ("hidden", "hidden_bias", "output", "output_bias")
    return RowDecoder(**dict(zip(names, weights, strict=True))), g_features, None


decode_rows.defvjp(_fwd, _bwd)
