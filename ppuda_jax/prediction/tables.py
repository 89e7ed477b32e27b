"""Predicts the networks of a meta-batch as the executor's tables of rows.

The GHN's decoders write straight into the tables; no parameter pytree is made.

Legend: `M` networks, `N` padded nodes, `D` node embedding, `K` classes, `T` and `V` rows of
matrices and vectors, `C` channels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.run import Tables
from ppuda_jax.ghn import normalization
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.model import GHN
from ppuda_jax.prediction.meta_batch import MAX_BLOCK, MetaBatch, Pool, pools_of
from ppuda_jax.prediction.rows import RowDecoder, decode_rows

_TAP_SIDE = 7


def predict_tables(
    config: GHNConfig, variant: Variant, theta: Any, meta_batch: MetaBatch
) -> Tables:
    """Predicts all parameters of a meta-batch as executor tables.

    Args:
      config: the hypernetwork (static); its decoder must be the convolutional one.
      variant: class of the networks (static).
      theta: its parameters.
      meta_batch: M networks.

    Returns:
      Tables for `executor.run`.

    Raises:
      ValueError: the configuration's decoder or block size is not the published one.
    """
    if config.decoder != "conv" or config.max_shape[:2] != (MAX_BLOCK, MAX_BLOCK):
        raise ValueError(
            f"the executor takes kernels from a conv decoder with blocks of {MAX_BLOCK} x "
            f"{MAX_BLOCK} channels, received decoder={config.decoder!r} and max_shape="
            f"{config.max_shape}: use predict_params for other decoders."
        )
    ghn, meta_batch = GHN(config), jax.tree.map(jnp.asarray, meta_batch)

    def call(method, *args, **kwargs):
        return ghn.apply({"params": theta}, *args, method=method, **kwargs)

    embeddings = ghn.apply({"params": theta}, meta_batch.graphs)
    h = embeddings.reshape(-1, embeddings.shape[-1])
    single = call(GHN.tap_features, h, (1, 1))
    several = call(GHN.tap_features, h[meta_batch.kernel_nodes], (_TAP_SIDE, _TAP_SIDE))
    features = jnp.concatenate(
        [single.reshape(-1, single.shape[-1]), several.reshape(-1, several.shape[-1])]
    )
    mats = {}
    for pool, rows in zip(pools_of(variant), meta_batch.rows, strict=True):
        decoder = _pool_decoder(call, pool)
        decoded = decode_rows(decoder, features, rows)
        decoded = jnp.pad(decoded, ((0, 1), (0, 0)))  # the row of zeros
        for name in pool.tables:
            block = jnp.take(decoded, meta_batch.place[name], axis=0, mode="clip")
            mats[name] = _tile(block.reshape(-1, *pool.block), layout_of(variant).mats[name])
    return Tables(
        mats=mats,
        vecs=_vectors(call, config, variant, meta_batch, h, features),
        **_ends(call, config, variant, meta_batch, h),
    )


def _pool_decoder(call, pool: Pool) -> RowDecoder:
    """Last layers for a pool: one output layer per pair of channel offsets."""
    hidden, hidden_bias = call(GHN.row_layer)
    outputs = []
    for first_in, first_out in pool.offsets:
        index_in = [(first_in + i) % MAX_BLOCK for i in range(pool.block[0])]
        index_out = [(first_out + o) % MAX_BLOCK for o in range(pool.block[1])]
        outputs.append(call(GHN.output_layer, index_out, index_in))
    return RowDecoder(
        hidden=hidden,
        hidden_bias=hidden_bias,
        output=jnp.stack([kernel for kernel, _ in outputs]),
        output_bias=jnp.stack([bias for _, bias in outputs]),
    )


def _tile(block: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeats the trailing axes of a block up to a shape, and crops."""
    lead = block.ndim - len(shape)
    repeats = [1] * lead + [-(-n // b) for n, b in zip(shape, block.shape[lead:], strict=True)]
    tiled = jnp.tile(block, repeats) if max(repeats) > 1 else block
    return tiled[(slice(None),) * lead + tuple(slice(n) for n in shape)]


def _bounded(config: GHNConfig, vectors: jax.Array) -> jax.Array:
    """Norm scales and biases [..., 2, 64] as they are used."""
    if not config.weight_norm:
        return vectors
    return jnp.stack(
        [
            normalization.bound_norm_scale(vectors[..., 0, :]),
            normalization.bound_bias(vectors[..., 1, :]),
        ],
        axis=-2,
    )


def _vectors(call, config, variant, meta_batch, h, features) -> dict[str, jax.Array]:
    """Tables of vectors: norm scales, biases and depthwise taps."""
    hidden, hidden_bias = call(GHN.row_layer)
    kernel, bias = call(GHN.output_layer, None, [0])
    decoder = RowDecoder(
        hidden=hidden, hidden_bias=hidden_bias, output=kernel[None], output_bias=bias[None]
    )
    depthwise = decode_rows(decoder, features, meta_batch.taps)
    vectors = _bounded(config, call(GHN.decode_vectors, h)).reshape(-1, MAX_BLOCK)
    sources = jnp.concatenate([jnp.zeros((1, MAX_BLOCK), vectors.dtype), vectors, depthwise])
    tables = {}
    for name, rows in meta_batch.vectors.items():
        picked = jnp.take(sources, rows.source, axis=0, mode="clip")
        width = layout_of(variant).vecs[name]
        index = (rows.offset[:, None] + jnp.arange(min(width, MAX_BLOCK))[None]) % MAX_BLOCK
        tables[name] = _tile(jnp.take_along_axis(picked, index, axis=1), (width,))
    return tables


def _ends(call, config, variant, meta_batch, h) -> dict[str, jax.Array]:
    """Stems, positional encodings and heads."""
    ends = meta_batch.ends
    count, width = ends.stem.shape[0], variant.width
    patch = 3 if variant.image_size == 32 else 16
    k = patch if variant.attention else _TAP_SIDE
    small = variant.attention or variant.image_size != 32
    y, x = (a.reshape(-1) for a in jnp.mgrid[:k, :k].astype(jnp.int32))
    node = jnp.repeat(jnp.arange(count), k * k)
    stem = call(
        GHN.decode_taps,
        h[ends.stem[:, 0]],
        jnp.tile(y, count),
        jnp.tile(x, count),
        None,
        [0, 1, 2],
        node=node,
        kernel_size=(k, k),
        layout="io",
    )
    stem = _tile(stem.reshape(count, k, k, 3, MAX_BLOCK), (width if small else 3 * width,))
    size = ends.stem[:, 1]
    inside = (jnp.maximum(y, x)[None] < size[:, None]).reshape(count, k, k, 1, 1)
    stem = jnp.where(inside, stem, 0.0) * ends.scale[:, 0].reshape(-1, 1, 1, 1, 1)
    parts = {"stem": stem, "positions": jnp.zeros((count, 0))}
    if variant.attention:
        parts["positions"] = _positions(call, variant, h[ends.positions])
    return parts | _head(call, config, variant, meta_batch, h)


def _positions(call, variant: Variant, h: jax.Array) -> jax.Array:
    count, size = h.shape[0], variant.size
    y, x = (a.reshape(-1) for a in jnp.mgrid[:size, :size].astype(jnp.int32))
    rows = call(
        GHN.decode_taps,
        h,
        jnp.tile(y, count),
        jnp.tile(x, count),
        [0],
        None,
        node=jnp.repeat(jnp.arange(count), size * size),
        kernel_size=(size, size),
        layout="io",
    )
    return _tile(rows.reshape(count, size, size, MAX_BLOCK), (variant.width,))


def _head(call, config, variant, meta_batch, h) -> dict[str, jax.Array]:
    ends = meta_batch.ends
    zero = jnp.zeros((ends.stem.shape[0],), jnp.int32)
    features, hidden = variant.features, variant.hidden
    inputs, outputs = ends.hidden[:, 2], ends.hidden[:, 3]
    is_input = jnp.arange(features)[None] < inputs[:, None]
    is_output = jnp.arange(hidden)[None] < outputs[:, None]
    block = (
        call(GHN.decode_taps, h[ends.hidden[:, 0]], zero, zero, kernel_size=(1, 1), layout="io")
        * ends.scale[:, 1, None, None]
    )
    weight = jnp.where(
        is_input[:, :, None] & is_output[:, None, :], _tile(block, (features, hidden)), 0.0
    )
    bias = _bounded(config, call(GHN.decode_vectors, h[ends.hidden[:, 1]]))[:, 1]
    last = call(GHN.decode_class_kernel, h[ends.classifier[:, 0]]).swapaxes(1, 2)
    last = _tile(last * ends.scale[:, 2, None, None], (max(features, hidden), config.num_classes))
    is_row = jnp.arange(last.shape[1])[None] < ends.classifier[:, 2, None]
    last_bias = call(GHN.decode_class_bias, h[ends.classifier[:, 1]])
    if config.weight_norm:
        last_bias = normalization.bound_bias(last_bias)
    return {
        "hidden": weight,
        "hidden_bias": jnp.where(is_output, _tile(bias, (hidden,)), 0.0),
        "classifier": jnp.where(is_row[:, :, None], last, 0.0),
        "classifier_bias": last_bias,
    }
