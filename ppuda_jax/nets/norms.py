"""Batch norm and layer norm, with hand-written gradients.

Batch norm uses the statistics of the batch itself, as the published evaluation does (paper,
section 5.1), or of its first images (`OpContext.norm_images`).

Shapes: `B` images, `H, W` pixels, `C` channels; feature maps are [B, H, W, C].
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.nets import pools
from ppuda_jax.nets.context import DEFAULT, OpContext

EPSILON = 1e-5
"""What is added to a variance."""


def per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C] with the rank of x: ranks are never promoted implicitly."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _wide(x: jax.Array) -> jax.Array:
    """X in at least float32, the type of statistics."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    enabled: jax.Array | float = 1.0,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """Batch norm on the statistics of the batch itself, or of its first images.

    Args:
      x: feature maps [B, H, W, C].
      scale: [C].
      bias: [C].
      enabled: scalar; at 0 the result is `x`, so that networks with and without norms can
        share a compiled program.
      context: static choices; only with all images of the batch is there a gradient.

    Returns:
      [B, H, W, C] in the dtype of `x`; statistics are computed in float32 or wider.
    """
    return _normed(x, scale, bias, enabled, context)[0]


def batch_statistics(x: jax.Array, context: OpContext = DEFAULT) -> tuple[jax.Array, jax.Array]:
    """Mean and inverse standard deviation of the channels of [B, H, W, C]: [C] and [C].

    Of the whole batch, or of the first images that `context` says.
    """
    wide = _wide(x[: context.norm_images] if context.norm_images else x)
    mean = jnp.mean(wide, axis=(0, 1, 2))
    # A second pass: E[x^2] - E[x]^2 loses the variance in float32 where the mean is large.
    variance = jnp.mean(jnp.square(wide - per_channel(mean, x)), axis=(0, 1, 2))
    return mean, lax.rsqrt(variance + EPSILON)


def apply_affine(x: jax.Array, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """X * gain + shift per channel, in the dtype of x."""
    return (_wide(x) * per_channel(gain, x) + per_channel(shift, x)).astype(x.dtype)


def batch_norm_pullback(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of the norm: cotangents of x [B, H, W, C], scale [C] and bias [C].

    `mean` and `inverse` are those of `batch_statistics(x)`.
    """
    x_wide, g_wide = _wide(x), _wide(g)
    g_bias = jnp.sum(g_wide, axis=(0, 1, 2))
    g_scale = (jnp.sum(g_wide * x_wide, axis=(0, 1, 2)) - mean * g_bias) * inverse
    gain = inverse * scale
    slope, offset = _through_statistics(x, mean, inverse, gain, g_scale, g_bias)
    dx = g_wide * per_channel(gain, x) - x_wide * per_channel(slope, x)
    return (dx + per_channel(offset, x)).astype(x.dtype), g_scale, g_bias


def _through_statistics(x, mean, inverse, gain, g_scale, g_bias):
    """Slope and offset [C]: a norm's statistics add offset - slope * x to its input's cotangent."""
    n = x.size // x.shape[-1]
    slope = gain * inverse * g_scale / n
    return slope, mean * slope - gain * g_bias / n


def _normed(x, scale, bias, enabled, context):
    mean, inverse = batch_statistics(x, context)
    on = jnp.asarray(enabled) > 0
    gain = jnp.where(on, inverse * scale, 1.0)
    shift = jnp.where(on, bias - mean * inverse * scale, 0.0)
    return apply_affine(x, gain, shift), (x, mean, inverse, scale, on)


def _batch_norm_fwd(x, scale, bias, enabled, context):
    context.require_gradient()
    return _normed(x, scale, bias, enabled, context)


def _batch_norm_bwd(context, residuals, g):
    del context
    x, mean, inverse, scale, on = residuals
    dx, g_scale, g_bias = batch_norm_pullback(x, mean, inverse, scale, g)
    none = jnp.zeros_like(g_scale)
    return (jnp.where(on, dx, g), jnp.where(on, g_scale, none), jnp.where(on, g_bias, none), None)


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def norm_pool(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    enabled: jax.Array | float = 1.0,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """`batch_norm` and a 3x3 max pool with stride 2: [B, H, W, C] -> [B, H', W', C].

    In the `"taps"` form the pool comes first: a norm keeps the order of a channel or reverses
    it, so it can be applied to what has won, a quarter of the pixels.
    """
    if not context.taps:
        return pools.max_pool(batch_norm(x, scale, bias, enabled, context), 2, context)
    return _norm_pool(x, scale, bias, jnp.asarray(enabled) > 0, context)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _norm_pool(x, scale, bias, on, context):
    return _normed_pool(x, scale, bias, on, context)[0]


def _normed_pool(x, scale, bias, on, context):
    mean, inverse = batch_statistics(x, context)
    # Vectors come out of conditionals: fused into the loops over pixels they cost far more.
    gain, shift = lax.cond(
        on,
        lambda: (inverse * scale, bias - mean * inverse * scale),
        lambda: (jnp.ones_like(mean), jnp.zeros_like(mean)),
    )
    top = pools.max_pool(_ordered(x, gain), 2, context)
    return apply_affine(top, jnp.abs(gain), shift), (x, mean, inverse, gain, on)


def _norm_pool_fwd(x, scale, bias, on, context):
    context.require_gradient()
    return _normed_pool(x, scale, bias, on, context)


def _norm_pool_bwd(context, residuals, g):
    del context
    x, mean, inverse, gain, on = residuals
    top, winner = pools.max_with_tap(_ordered(x, gain), 2)
    g_wide = pools.computed_once(_wide, g)
    g_bias = jnp.sum(g_wide, axis=(0, 1, 2))
    products = jnp.sum(g_wide * _wide(_ordered(top, gain)), axis=(0, 1, 2))

    def through():
        g_scale = (products - mean * g_bias) * inverse
        terms = _through_statistics(x, mean, inverse, gain, g_scale, g_bias)
        return g_scale, g_bias, *terms

    g_scale, g_bias, slope, offset = lax.cond(on, through, lambda: (jnp.zeros_like(mean),) * 4)
    rest = per_channel(offset, x) - _wide(x) * per_channel(slope, x)
    dx = pools.spread_maxima(g_wide * per_channel(gain, x), winner, rest, 2)
    return dx.astype(x.dtype), g_scale, g_bias, None


def _ordered(x, gain):
    """x, negated in channels with a negative gain; its own inverse."""
    return x * per_channel(jnp.where(gain < 0, -1, 1).astype(x.dtype), x)


_norm_pool.defvjp(_norm_pool_fwd, _norm_pool_bwd)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer norm over the last axis: [..., C] with [C] and [C]."""
    wide = _wide(x)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    out = (wide - mean) * lax.rsqrt(variance + EPSILON)
    return (out * per_channel(scale, x) + per_channel(bias, x)).astype(x.dtype)
