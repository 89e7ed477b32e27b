"""Predicts the networks of a meta-batch as the executor's tables of rows.

The GHN's decoders write straight into the tables; no parameter pytree is made.

Legend: `M` networks, `N` padded nodes, `D` node embedding, `T` and `V` rows of matrices and
vectors, `S` rows of features (see `meta_batch.py`), `F` features of a row.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.executor.arrays import Tables
from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.prediction.block_classes import BlockClass, block_classes
from ppuda_jax.prediction.blocks import MAX_BLOCK, TAP_SIDE, BlockDecoder, tile_to
from ppuda_jax.prediction.ends import predict_head, predict_positions, predict_stem
from ppuda_jax.prediction.meta_batch import MetaBatch
from ppuda_jax.prediction.rows import RowDecoder, decode_rows


def predict_tables(
    config: GHNConfig, variant: Variant, theta: Mapping[str, Any], meta_batch: MetaBatch
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
    decoder, meta_batch = BlockDecoder(config, theta), jax.tree.map(jnp.asarray, meta_batch)
    embeddings = decoder.embed(meta_batch.graphs)
    h = embeddings.reshape(-1, embeddings.shape[-1])
    single = decoder.tap_features(h, 1)
    several = decoder.tap_features(h[meta_batch.kernel_nodes], TAP_SIDE)
    features = jnp.concatenate([single, several])
    return Tables(
        mats=_matrices(decoder, variant, meta_batch, features),
        vecs=_vectors(decoder, variant, meta_batch, h, features),
        stem=predict_stem(decoder, variant, meta_batch.ends, h),
        positions=predict_positions(decoder, variant, meta_batch.ends, h),
        **predict_head(decoder, variant, meta_batch.ends, h)._asdict(),
    )


def _matrices(
    decoder: BlockDecoder, variant: Variant, meta_batch: MetaBatch, features: jax.Array
) -> dict[str, jax.Array]:
    """Tables of matrices from features [S, F]."""
    shapes, tables = layout_of(variant).mats, {}
    for block_class, rows in zip(block_classes(variant), meta_batch.rows, strict=True):
        decoded = decode_rows(_class_decoder(decoder, block_class), features, rows)
        decoded = jnp.pad(decoded, ((0, 1), (0, 0)))  # the row of zeros
        for name in block_class.tables:
            block = jnp.take(decoded, meta_batch.place[name], axis=0, mode="clip")
            tables[name] = tile_to(block.reshape(-1, *block_class.block), shapes[name])
    return tables


def _class_decoder(decoder: BlockDecoder, block_class: BlockClass) -> RowDecoder:
    """Last layers for a class of blocks: one output layer per pair of channel offsets."""
    hidden, hidden_bias = decoder.row_layer()
    outputs = []
    for first_in, first_out in block_class.offsets:
        index_in = [(first_in + i) % MAX_BLOCK for i in range(block_class.block[0])]
        index_out = [(first_out + o) % MAX_BLOCK for o in range(block_class.block[1])]
        outputs.append(decoder.output_layer(index_out, index_in))
    return RowDecoder(
        hidden=hidden,
        hidden_bias=hidden_bias,
        output=jnp.stack([kernel for kernel, _ in outputs]),
        output_bias=jnp.stack([bias for _, bias in outputs]),
    )


def _vectors(
    decoder: BlockDecoder,
    variant: Variant,
    meta_batch: MetaBatch,
    h: jax.Array,
    features: jax.Array,
) -> dict[str, jax.Array]:
    """Tables of vectors: norm scales, biases and depthwise taps."""
    hidden, hidden_bias = decoder.row_layer()
    kernel, bias = decoder.output_layer(None, [0])
    row_decoder = RowDecoder(
        hidden=hidden, hidden_bias=hidden_bias, output=kernel[None], output_bias=bias[None]
    )
    depthwise = decode_rows(row_decoder, features, meta_batch.taps)
    vectors = decoder.vectors(h).reshape(-1, MAX_BLOCK)
    sources = jnp.concatenate([jnp.zeros((1, MAX_BLOCK), vectors.dtype), vectors, depthwise])
    tables = {}
    for name, rows in meta_batch.vectors.items():
        picked = jnp.take(sources, rows.source, axis=0, mode="clip")
        width = layout_of(variant).vecs[name]
        index = (rows.offset[:, None] + jnp.arange(min(width, MAX_BLOCK))[None]) % MAX_BLOCK
        tables[name] = tile_to(jnp.take_along_axis(picked, index, axis=1), (width,))
    return tables
