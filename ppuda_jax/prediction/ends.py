"""Stem and head of each network of a meta-batch: the tensors that no table of rows holds.

Legend: `M` networks, `N` padded nodes, `D` node embedding, `C` channels, `F` features and `U`
hidden units of the variant's head, `K` classes, `k` side of a kernel.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.executor.columns import Column, Columns
from ppuda_jax.executor.ends import Head
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.program import Program
from ppuda_jax.prediction.blocks import BIAS, MAX_BLOCK, TAP_SIDE, BlockDecoder, tile_to


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StemSource(Columns):
    """Where first convolutions come from.

    Attributes:
      node: int32 [M], node of the convolution.
      size: int32 [M], side of its kernel.
      position_node: int32 [M], node of the positional encoding, 0 without.
    """

    node: Column
    size: Column
    position_node: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseSource(Columns):
    """Where dense layers of heads come from; zeros for a network that lacks the layer.

    Attributes:
      node: int32 [M], node of the kernel.
      bias_node: int32 [M], node of the bias.
      inputs: int32 [M], its inputs.
      outputs: int32 [M], its outputs.
    """

    node: Column
    bias_node: Column
    inputs: Column
    outputs: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EndScales:
    """Factors of decoded kernels (`blocks.weight_scale`).

    Attributes:
      stem: float32 [M].
      hidden: float32 [M].
      classifier: float32 [M].
    """

    stem: Column
    hidden: Column
    classifier: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ends:
    """Stems and heads.

    Attributes:
      stem: first convolutions.
      hidden: first of two dense layers.
      classifier: last dense layers.
      scale: their factors.
    """

    stem: StemSource
    hidden: DenseSource
    classifier: DenseSource
    scale: EndScales


def describe_ends(
    programs: Sequence[Program], nodes: Sequence[np.ndarray], scales: Sequence[np.ndarray]
) -> Ends:
    """Describes stems and heads.

    Args:
      programs: M programs of one variant.
      nodes: per program, int [params], flat node of each parameter.
      scales: per program, float32 [params], factor of each parameter.
    """
    stems, hidden, classifiers, factors = [], [], [], []
    for program, node, scale in zip(programs, nodes, scales, strict=True):
        specs = program.plan.params
        attention, two = program.variant.attention, program.head.layers > 1
        # The plan's parameters begin with the stem's kernel (and the positional encoding), and
        # end with kernel and bias of each dense layer.
        stems.append(StemSource(node[0], specs[0].shape[0], node[1] if attention else 0))
        classifiers.append(DenseSource(node[-2], node[-1], *specs[-2].shape))
        hidden.append(
            DenseSource(node[-4], node[-3], *specs[-4].shape) if two else DenseSource(0, 0, 0, 0)
        )
        factors.append((scale[0], scale[-4] if two else 0.0, scale[-2]))
    return Ends(
        stem=StemSource.stack(stems),
        hidden=DenseSource.stack(hidden),
        classifier=DenseSource.stack(classifiers),
        scale=EndScales(*np.array(factors, np.float32).T),
    )


def predict_stem(decoder: BlockDecoder, variant: Variant, ends: Ends, h: jax.Array) -> jax.Array:
    """First convolutions [M, k, k, 3, C], see `executor.arrays.Tables`.

    Args:
      decoder: the hypernetwork.
      variant: class of the networks (static).
      ends: which nodes.
      h: embeddings, [M * N, D].
    """
    count = ends.stem.node.shape[0]
    patch = 3 if variant.image_size == 32 else 16
    k = patch if variant.attention else TAP_SIDE
    y, x = _grid(k)
    blocks = decoder.kernels(
        h[ends.stem.node],
        jnp.tile(y, count),
        jnp.tile(x, count),
        node=jnp.repeat(jnp.arange(count), k * k),
        in_index=[0, 1, 2],
        kernel_size=(k, k),
    )
    simple_on_cifar = not variant.attention and variant.image_size == 32
    width = 3 * variant.width if simple_on_cifar else variant.width
    stem = tile_to(blocks.reshape(count, k, k, 3, MAX_BLOCK), (width,))
    inside = jnp.maximum(y, x)[None] < ends.stem.size[:, None]
    stem = jnp.where(inside.reshape(count, k, k, 1, 1), stem, 0.0)
    return stem * ends.scale.stem.reshape(-1, 1, 1, 1, 1)


def predict_positions(
    decoder: BlockDecoder, variant: Variant, ends: Ends, h: jax.Array
) -> jax.Array:
    """Positional encodings [M, size, size, C] of visual transformers, else [M, 0]."""
    count, size = ends.stem.node.shape[0], variant.size
    if not variant.attention:
        return jnp.zeros((count, 0))
    y, x = _grid(size)
    blocks = decoder.kernels(
        h[ends.stem.position_node],
        jnp.tile(y, count),
        jnp.tile(x, count),
        node=jnp.repeat(jnp.arange(count), size * size),
        out_index=[0],
        kernel_size=(size, size),
    )
    return tile_to(blocks.reshape(count, size, size, MAX_BLOCK), (variant.width,))


def predict_head(decoder: BlockDecoder, variant: Variant, ends: Ends, h: jax.Array) -> Head:
    """Dense layers: hidden [M, F, U] and [M, U], classifier [M, max(F, U), K] and [M, K]."""
    features, units = variant.features, variant.hidden
    hidden, classifier = ends.hidden, ends.classifier
    is_input = jnp.arange(features)[None] < hidden.inputs[:, None]
    is_output = jnp.arange(units)[None] < hidden.outputs[:, None]
    zero = jnp.zeros(hidden.node.shape, jnp.int32)
    block = decoder.kernels(h[hidden.node], zero, zero, kernel_size=(1, 1))
    weight = tile_to(block * ends.scale.hidden[:, None, None], (features, units))
    bias = tile_to(decoder.vectors(h[hidden.bias_node])[:, BIAS], (units,))
    last = decoder.class_kernels(h[classifier.node]).swapaxes(1, 2)
    last = last * ends.scale.classifier[:, None, None]
    last = tile_to(last, (max(features, units), decoder.config.num_classes))
    is_row = jnp.arange(last.shape[1])[None] < classifier.inputs[:, None]
    return Head(
        hidden=jnp.where(is_input[:, :, None] & is_output[:, None, :], weight, 0.0),
        hidden_bias=jnp.where(is_output, bias, 0.0),
        classifier=jnp.where(is_row[:, :, None], last, 0.0),
        classifier_bias=decoder.class_biases(h[classifier.bias_node]),
    )


def _grid(side: int) -> tuple[jax.Array, jax.Array]:
    """Rows and columns of all taps of a square kernel, int32 [side**2] each."""
    y, x = jnp.mgrid[:side, :side].astype(jnp.int32)
    return y.reshape(-1), x.reshape(-1)
