"""Every operation of a DeepNets-1M network, once: pure functions of (params, x).

The Flax networks (`nets/network.py`) and the executor (`executor/run.py`) call the same
functions. `params` is a tuple in the order of `archs.op_params`; the norm parameters
(scale, bias) may be left out, then the operation has no norm, or be followed by a switch (see
`norms.batch_norm`); `context` holds the static choices.

Shapes: `B` images, `H, W` pixels, `C` channels; feature maps are [B, H, W, C], kernels
HWIO, depthwise kernels [k, k, 1, C]. Semantics follow the published networks (paper, section
3.1 and appendix A; the code that trained the published checkpoints where they differ).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from ppuda_jax.nets import lowering, pools
from ppuda_jax.nets.context import DEFAULT, OpContext
from ppuda_jax.nets.norms import batch_norm, layer_norm, per_channel

HEADS = 8
"""Heads of self-attention."""

Params = Sequence[jax.Array]
"""Arrays of one operation, in the order of its parameter specifications."""
OpFn = Callable[..., jax.Array]
"""(parameters, map, context) -> map."""


def _norm(x, params, context):
    return batch_norm(x, *params, context=context) if params and context.norms else x


def stem_conv(
    params: Params,
    x: jax.Array,
    *,
    stride: int = 1,
    relu: bool = False,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """(ReLU,) convolution k x k, norm: (kernel, scale, bias)."""
    kernel, *norm = params
    x = jax.nn.relu(x) if relu else x
    return _norm(lowering.conv(x, kernel, (stride, stride), context=context), norm, context)


def patch_conv(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """Stem of visual transformers: a k x k convolution with stride k, (kernel,)."""
    (kernel,) = params
    k = kernel.shape[0]
    pad = int(k < 4)
    return lowering.conv(x, kernel, (k, k), (pad, pad), context)


def pos_enc(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """Adds a learnt map [1, H, W, C] to every image."""
    del context
    return x + params[0].astype(x.dtype)


def stem_pool(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """3x3 max pool with stride 2."""
    del params
    return pools.max_pool(x, 2, context)


def subsample(
    params: Params, x: jax.Array, *, stride: int = 2, context: OpContext = DEFAULT
) -> jax.Array:
    """Every second pixel of every second row."""
    del params, context
    return x[:, ::stride, ::stride]


def conv_norm(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """ReLU, convolution k x k, norm: (kernel, scale, bias)."""
    return stem_conv(params, x, stride=stride, relu=True, context=context)


def conv_7x1_1x7(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """ReLU, convolution 1x7, convolution 7x1, norm: (kernel, kernel, scale, bias)."""
    wide, tall, *norm = params
    x = lowering.conv(jax.nn.relu(x), wide, (1, stride), context=context)
    return _norm(lowering.conv(x, tall, (stride, 1), context=context), norm, context)


def separable(
    params: Params,
    x: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """ReLU, depthwise, 1x1, norm: (depthwise kernel, kernel, scale, bias)."""
    depthwise, pointwise, *norm = params
    x = lowering.depthwise(jax.nn.relu(x), depthwise, stride, dilation, context)
    return _norm(lowering.pointwise(x, pointwise[0, 0]), norm, context)


def sep_conv(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """`separable` twice, the stride in the first depthwise."""
    half = len(params) // 2
    hidden = separable(params[:half], x, stride=stride, context=context)
    return separable(params[half:], hidden, context=context)


def dil_conv(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """`separable` with dilation 2."""
    return separable(params, x, stride=stride, dilation=2, context=context)


def factorized_reduce(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """ReLU, two strided 1x1 convolutions side by side (the second one pixel on), norm."""
    first, second, *norm = params
    x = jax.nn.relu(x)
    halves = [
        lowering.pointwise(x[:, ::2, ::2], first[0, 0]),
        lowering.pointwise(x[:, 1::2, 1::2], second[0, 0]),
    ]
    return _norm(jnp.concatenate(halves, axis=-1), norm, context)


def max_pool_3x3(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """3x3 max pool."""
    del params
    return pools.max_pool(x, stride, context)


def avg_pool_3x3(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """3x3 average pool; padding does not count."""
    del params
    return pools.avg_pool(x, stride, context)


def cse(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """Channel squeeze and excitation: (kernel, bias, kernel, bias); gate is a Hardswish."""
    del context
    kernel1, bias1, kernel2, bias2 = params
    squeezed = jnp.mean(x, axis=(1, 2))
    hidden = jax.nn.relu(dense((kernel1, bias1), squeezed))
    gate = jax.nn.hard_swish(dense((kernel2, bias2), hidden))
    return (x * gate[:, None, None, :])[:, ::stride, ::stride]


def msa(
    params: Params, x: jax.Array, *, stride: int = 1, context: OpContext = DEFAULT
) -> jax.Array:
    """Transformer block on the pixels as tokens.

    `params`: layer norm (scale, bias), qkv kernel [C, 3C], output (kernel, bias), layer norm
    (scale, bias), feed-forward (kernel, bias, kernel, bias).
    """
    scale1, shift1, qkv, out, out_bias, scale2, shift2, ff1, ff1_bias, ff2, ff2_bias = params
    batch, height, width, channels = x.shape
    depth = channels // HEADS
    tokens = x.reshape(batch, height * width, channels)
    norm = layer_norm if context.norms else lambda tokens, scale, shift: tokens
    normed = norm(tokens, scale1, shift1) @ qkv
    query, key, value = (
        part.reshape(batch, -1, HEADS, depth) for part in jnp.split(normed, 3, axis=-1)
    )
    mixed = lowering.attention(query, key, value, context)
    tokens = dense((out, out_bias), mixed.reshape(batch, -1, channels)) + tokens
    hidden = dense((ff1, ff1_bias), norm(tokens, scale2, shift2))
    tokens = dense((ff2, ff2_bias), jax.nn.gelu(hidden, approximate=False)) + tokens
    return tokens.reshape(x.shape)[:, ::stride, ::stride]


def global_pool(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """Mean over the pixels: [B, H, W, C] -> [B, C]."""
    del params, context
    return jnp.mean(x, axis=(1, 2))


def flatten(params: Params, x: jax.Array, *, context: OpContext = DEFAULT) -> jax.Array:
    """Channel-major flattening, as the published networks: [B, H, W, C] -> [B, C * H * W]."""
    del params, context
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def dense(params: Params, x: jax.Array) -> jax.Array:
    """Dense layer: (kernel, bias)."""
    kernel, bias = params
    return x @ kernel + per_channel(bias, x)


def head_dropout(key: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout with rate 0.5 between the two dense layers of a head, in training."""
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2.0 * x, jnp.zeros((), x.dtype))


CELL_OPS: Mapping[str, OpFn] = MappingProxyType(
    {
        "max_pool_3x3": max_pool_3x3,
        "avg_pool_3x3": avg_pool_3x3,
        "sep_conv_3x3": sep_conv,
        "sep_conv_5x5": sep_conv,
        "dil_conv_3x3": dil_conv,
        "dil_conv_5x5": dil_conv,
        "conv_1x1": conv_norm,
        "conv_3x3": conv_norm,
        "conv_5x5": conv_norm,
        "conv_7x7": conv_norm,
        "conv_7x1_1x7": conv_7x1_1x7,
        "msa": msa,
        "cse": cse,
    }
)
"""Operations on the edges of a cell, all with a `stride`; "none" and "skip_connect" vanish."""


def drop_path(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes whole images [B, ...] with probability `rate` and rescales the rest."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def sum_maps(maps: Sequence[jax.Array]) -> jax.Array:
    """Sum of feature maps of one shape."""
    return functools.reduce(jnp.add, maps)
