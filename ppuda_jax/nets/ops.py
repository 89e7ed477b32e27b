"""Every operation of a DeepNets-1M network, once: pure functions of (params, x).

The Flax networks (``nets/network.py``) and the executor (``executor/run.py``) call the same
functions. ``params`` is a tuple in the order of ``archs.op_params``; the norm parameters
(scale, bias) may be left out, then the operation has no norm, or be followed by a switch (see
``batch_norm``).

Shapes: ``B`` images, ``H, W`` pixels, ``C`` channels; feature maps are [B, H, W, C], kernels
HWIO, depthwise kernels [k, k, 1, C]. Semantics follow the published networks (paper, section
3.1 and appendix A; the code that trained the published checkpoints where they differ).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.nets import lowering

EPSILON = 1e-5
HEADS = 8

Params = Sequence[jax.Array]
OpFn = Callable[..., jax.Array]


def _per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C] with the rank of x: ranks are never promoted implicitly."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _wide(x: jax.Array) -> jax.Array:
    """x in at least float32, the type of statistics."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


@jax.custom_vjp
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, enabled: jax.Array | float = 1.0
) -> jax.Array:
    """Batch norm on the statistics of the batch itself.

    Args:
      x: feature maps [B, H, W, C].
      scale: [C].
      bias: [C].
      enabled: scalar; at 0 the result is ``x``, so that networks with and without norms can
        share a compiled program.

    Returns:
      [B, H, W, C] in the dtype of ``x``; statistics are computed in float32 or wider.
    """
    return _batch_norm_fwd(x, scale, bias, enabled)[0]


_reference: list[int] = []


@contextlib.contextmanager
def statistics_of_first(count: int) -> Iterator[None]:
    """Traces everything inside with norms that use the statistics of the first images of a batch.

    With training images there, the norms of a network are calibrated. For evaluation: the
    gradients of norms know nothing of it.

    Args:
      count: how many images; 0 for the whole batch.
    """
    _reference.append(count)
    try:
        yield
    finally:
        _reference.pop()


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and inverse standard deviation of the channels of [B, H, W, C]: [C] and [C].

    Of the whole batch, or see ``statistics_of_first``.
    """
    if _reference and _reference[-1]:
        x = x[: _reference[-1]]
    wide = _wide(x)
    mean = jnp.mean(wide, axis=(0, 1, 2))
    variance = jnp.maximum(jnp.mean(jnp.square(wide), axis=(0, 1, 2)) - jnp.square(mean), 0.0)
    return mean, lax.rsqrt(variance + EPSILON)


def apply_affine(x: jax.Array, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """x * gain + shift per channel, in the dtype of x."""
    return (_wide(x) * _per_channel(gain, x) + _per_channel(shift, x)).astype(x.dtype)


def batch_norm_pullback(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of the norm: cotangents of x [B, H, W, C], scale [C] and bias [C].

    ``mean`` and ``inverse`` are those of ``batch_statistics(x)``.
    """
    x_wide, g_wide = _wide(x), _wide(g)
    g_bias = jnp.sum(g_wide, axis=(0, 1, 2))
    g_scale = (jnp.sum(g_wide * x_wide, axis=(0, 1, 2)) - mean * g_bias) * inverse
    gain = inverse * scale
    slope, offset = _through_statistics(x, mean, inverse, gain, g_scale, g_bias)
    dx = g_wide * _per_channel(gain, x) - x_wide * _per_channel(slope, x)
    return (dx + _per_channel(offset, x)).astype(x.dtype), g_scale, g_bias


def _through_statistics(x, mean, inverse, gain, g_scale, g_bias):
    """Slope and offset [C]: a norm's statistics add offset - slope * x to its input's cotangent."""
    n = x.size // x.shape[-1]
    slope = gain * inverse * g_scale / n
    return slope, mean * slope - gain * g_bias / n


def _batch_norm_fwd(x, scale, bias, enabled):
    mean, inverse = batch_statistics(x)
    on = jnp.asarray(enabled) > 0
    gain = jnp.where(on, inverse * scale, 1.0)
    shift = jnp.where(on, bias - mean * inverse * scale, 0.0)
    return apply_affine(x, gain, shift), (x, mean, inverse, scale, on)


def _batch_norm_bwd(residuals, g):
    *norm, on = residuals
    dx, g_scale, g_bias = batch_norm_pullback(*norm, g)
    none = jnp.zeros_like(g_scale)
    return (jnp.where(on, dx, g), jnp.where(on, g_scale, none), jnp.where(on, g_bias, none),
            None)


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def norm_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, enabled: jax.Array | float = 1.0
) -> jax.Array:
    """``batch_norm`` followed by ``stem_pool``: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    In the ``"taps"`` form the pool comes first: a norm keeps the order of a channel or reverses
    it, so it can be applied to what has won, a quarter of the pixels.
    """
    if lowering.current_form() == "library":
        return stem_pool((), batch_norm(x, scale, bias, enabled))
    return _norm_pool(x, scale, bias, jnp.asarray(enabled) > 0)


@jax.custom_vjp
def _norm_pool(x, scale, bias, on):
    return _norm_pool_fwd(x, scale, bias, on)[0]


def _norm_pool_fwd(x, scale, bias, on):
    mean, inverse = batch_statistics(x)
    # Vectors come out of conditionals: fused into the loops over pixels they cost far more.
    gain, shift = lax.cond(
        on, lambda: (inverse * scale, bias - mean * inverse * scale),
        lambda: (jnp.ones_like(mean), jnp.zeros_like(mean)))
    top = lowering.max_pool(_ordered(x, gain), 2)
    return apply_affine(top, jnp.abs(gain), shift), (x, mean, inverse, gain, on)


def _norm_pool_bwd(residuals, g):
    x, mean, inverse, gain, on = residuals
    top, winner = lowering.max_with_tap(_ordered(x, gain), 2)
    g_wide = lowering.computed_once(_wide, g)
    g_bias = jnp.sum(g_wide, axis=(0, 1, 2))
    products = jnp.sum(g_wide * _wide(_ordered(top, gain)), axis=(0, 1, 2))

    def through():
        g_scale = (products - mean * g_bias) * inverse
        terms = _through_statistics(x, mean, inverse, gain, g_scale, g_bias)
        return g_scale, g_bias, *terms

    g_scale, g_bias, slope, offset = lax.cond(on, through, lambda: (jnp.zeros_like(mean),) * 4)
    rest = _per_channel(offset, x) - _wide(x) * _per_channel(slope, x)
    dx = lowering.spread_maxima(g_wide * _per_channel(gain, x), winner, rest, 2)
    return dx.astype(x.dtype), g_scale, g_bias, None


def _ordered(x, gain):
    """x, negated in channels with a negative gain; its own inverse."""
    return x * _per_channel(jnp.where(gain < 0, -1, 1).astype(x.dtype), x)


_norm_pool.defvjp(_norm_pool_fwd, _norm_pool_bwd)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer norm over the last axis: [..., C] with [C] and [C]."""
    wide = _wide(x)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    out = (wide - mean) * lax.rsqrt(variance + EPSILON)
    return (out * _per_channel(scale, x) + _per_channel(bias, x)).astype(x.dtype)


def _norm(x, params):
    return batch_norm(x, *params) if params else x


def stem_conv(params: Params, x: jax.Array, *, stride: int = 1, relu: bool = False) -> jax.Array:
    """(ReLU,) convolution k x k, norm: (kernel, scale, bias)."""
    kernel, *norm = params
    x = jax.nn.relu(x) if relu else x
    return _norm(lowering.conv(x, kernel, (stride, stride)), norm)


def patch_conv(params: Params, x: jax.Array) -> jax.Array:
    """Stem of visual transformers: a k x k convolution with stride k, (kernel,)."""
    (kernel,) = params
    k = kernel.shape[0]
    pad = int(k < 4)
    return lowering.conv(x, kernel, (k, k), (pad, pad))


def pos_enc(params: Params, x: jax.Array) -> jax.Array:
    """Adds a learnt map [1, H, W, C] to every image."""
    return x + params[0].astype(x.dtype)


def stem_pool(params: Params, x: jax.Array) -> jax.Array:
    """3x3 max pool with stride 2."""
    del params
    return lowering.max_pool(x, 2)


def subsample(params: Params, x: jax.Array, *, stride: int = 2) -> jax.Array:
    """Every second pixel of every second row."""
    del params
    return x[:, ::stride, ::stride]


def conv_norm(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """ReLU, convolution k x k, norm: (kernel, scale, bias)."""
    return stem_conv(params, x, stride=stride, relu=True)


def conv_7x1_1x7(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """ReLU, convolution 1x7, convolution 7x1, norm: (kernel, kernel, scale, bias)."""
    wide, tall, *norm = params
    x = lowering.conv(jax.nn.relu(x), wide, (1, stride))
    return _norm(lowering.conv(x, tall, (stride, 1)), norm)


def separable(params: Params, x: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """ReLU, depthwise, 1x1, norm: (depthwise kernel, kernel, scale, bias)."""
    depthwise, pointwise, *norm = params
    x = lowering.depthwise(jax.nn.relu(x), depthwise, stride, dilation)
    return _norm(lowering.pointwise(x, pointwise[0, 0]), norm)


def sep_conv(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """``separable`` twice, the stride in the first depthwise."""
    half = len(params) // 2
    return separable(params[half:], separable(params[:half], x, stride=stride))


def dil_conv(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """``separable`` with dilation 2."""
    return separable(params, x, stride=stride, dilation=2)


def factorized_reduce(params: Params, x: jax.Array) -> jax.Array:
    """ReLU, two strided 1x1 convolutions side by side (the second one pixel on), norm."""
    first, second, *norm = params
    x = jax.nn.relu(x)
    halves = [lowering.pointwise(x[:, ::2, ::2], first[0, 0]),
              lowering.pointwise(x[:, 1::2, 1::2], second[0, 0])]
    return _norm(jnp.concatenate(halves, axis=-1), norm)


def max_pool_3x3(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """3x3 max pool."""
    del params
    return lowering.max_pool(x, stride)


def avg_pool_3x3(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """3x3 average pool; padding does not count."""
    del params
    return lowering.avg_pool(x, stride)


def cse(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """Channel squeeze and excitation: (kernel, bias, kernel, bias); gate is a Hardswish."""
    kernel1, bias1, kernel2, bias2 = params
    squeezed = jnp.mean(x, axis=(1, 2))
    hidden = jax.nn.relu(dense((kernel1, bias1), squeezed))
    gate = jax.nn.hard_swish(dense((kernel2, bias2), hidden))
    return (x * gate[:, None, None, :])[:, ::stride, ::stride]


def msa(params: Params, x: jax.Array, *, stride: int = 1) -> jax.Array:
    """Transformer block on the pixels as tokens.

    ``params``: layer norm (scale, bias), qkv kernel [C, 3C], output (kernel, bias), layer norm
    (scale, bias), feed-forward (kernel, bias, kernel, bias).
    """
    scale1, shift1, qkv, out, out_bias, scale2, shift2, ff1, ff1_bias, ff2, ff2_bias = params
    batch, height, width, channels = x.shape
    depth = channels // HEADS
    tokens = x.reshape(batch, height * width, channels)
    normed = layer_norm(tokens, scale1, shift1) @ qkv
    query, key, value = (
        part.reshape(batch, -1, HEADS, depth) for part in jnp.split(normed, 3, axis=-1))
    mixed = lowering.attention(query, key, value)
    tokens = dense((out, out_bias), mixed.reshape(batch, -1, channels)) + tokens
    hidden = dense((ff1, ff1_bias), layer_norm(tokens, scale2, shift2))
    tokens = dense((ff2, ff2_bias), jax.nn.gelu(hidden, approximate=False)) + tokens
    return tokens.reshape(x.shape)[:, ::stride, ::stride]


def global_pool(params: Params, x: jax.Array) -> jax.Array:
    """Mean over the pixels: [B, H, W, C] -> [B, C]."""
    del params
    return jnp.mean(x, axis=(1, 2))


def flatten(params: Params, x: jax.Array) -> jax.Array:
    """Channel-major flattening, as the published networks: [B, H, W, C] -> [B, C * H * W]."""
    del params
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def dense(params: Params, x: jax.Array) -> jax.Array:
    """Dense layer: (kernel, bias)."""
    kernel, bias = params
    return x @ kernel + _per_channel(bias, x)


def head_dropout(key: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout with rate 0.5 between the two dense layers of a head, in training."""
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2.0 * x, jnp.zeros((), x.dtype))


CELL_OPS: Mapping[str, OpFn] = MappingProxyType({
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
})
"""Operations on the edges of a cell, all with a ``stride``; "none" and "skip_connect" vanish."""


def drop_path(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes whole images [B, ...] with probability ``rate`` and rescales the rest."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def sum_maps(maps: Sequence[jax.Array]) -> jax.Array:
    """Sum of feature maps of one shape."""
    return functools.reduce(jnp.add, maps)
