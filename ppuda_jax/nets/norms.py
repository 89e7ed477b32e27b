"""Batch norm and layer norm, with hand-written gradients.

Batch norm uses the statistics of the batch itself, as the published evaluation does (paper,
section 5.1), or of its first images (`statistics_of_first`).

Shapes: `B` images, `H, W` pixels, `C` channels; feature maps are [B, H, W, C].
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.nets import lowering, pools

EPSILON = 1e-5


def per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C] with the rank of x: ranks are never promoted implicitly."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _wide(x: jax.Array) -> jax.Array:
    """X in at least float32, the type of statistics."""
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
      enabled: scalar; at 0 the result is `x`, so that networks with and without norms can
        share a compiled program.

    Returns:
      [B, H, W, C] in the dtype of `x`; statistics are computed in float32 or wider.
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

    Of the whole batch, or see `statistics_of_first`.
    """
    if _reference and _reference[-1]:
        x = x[: _reference[-1]]
    wide = _wide(x)
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
    return (jnp.where(on, dx, g), jnp.where(on, g_scale, none), jnp.where(on, g_bias, none), None)


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def norm_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, enabled: jax.Array | float = 1.0
) -> jax.Array:
    """`batch_norm` and a 3x3 max pool with stride 2: [B, H, W, C] -> [B, H', W', C].

    In the `"taps"` form the pool comes first: a norm keeps the order of a channel or reverses
    it, so it can be applied to what has won, a quarter of the pixels.
    """
    if lowering.current_form() == "library":
        return pools.max_pool(batch_norm(x, scale, bias, enabled), 2)
    return _norm_pool(x, scale, bias, jnp.asarray(enabled) > 0)


@jax.custom_vjp
def _norm_pool(x, scale, bias, on):
    return _norm_pool_fwd(x, scale, bias, on)[0]


def _norm_pool_fwd(x, scale, bias, on):
    mean, inverse = batch_statistics(x)
    # Vectors come out of conditionals: fused into the loops over pixels they cost far more.
    gain, shift = lax.cond(
        on,
        lambda: (inverse * scale, bias - mean * inverse * scale),
        lambda: (jnp.ones_like(mean), jnp.zeros_like(mean)),
    )
    top = pools.max_pool(_ordered(x, gain), 2)
    return apply_affine(top, jnp.abs(gain), shift), (x, mean, inverse, gain, on)


def _norm_pool_bwd(residuals, g):
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
