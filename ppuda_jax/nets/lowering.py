"""Convolutions and pools in the forms that run fast where they are compiled.

XLA:CPU does not rewrite convolution layouts inside loops (jax issue 12868), runs grouped
convolutions and `select_and_scatter` slowly, and the executor puts every operation inside a
loop. So each primitive here has two forms (`OpContext.form`) with equal results:

* `"taps"` (default on CPU): canonical convolutions with hand-written gradients, depthwise
  convolutions and pools (`pools.py`) as sums or maxima over shifted slices.
* `"library"` (default on GPU and TPU): `lax` convolutions and `reduce_window`.

Shapes: `B` images, `H, W` pixels, `C` channels; arrays are NHWC, kernels HWIO.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.nets.context import DEFAULT, OpContext

_DIMS = ("NHWC", "HWIO", "NHWC")


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as a matrix product: [B, H, W, C] x [C, D] -> [B, H, W, D]."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | None = None,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """Convolution [B, H, W, C] x [kh, kw, C, D] -> [B, H', W', D].

    Args:
      x: images.
      kernel: HWIO kernel.
      stride: of height and width.
      padding: zeros on both sides of height and width; half the kernel if None.
      context: static choices.
    """
    kh, kw = kernel.shape[:2]
    pad = (kh // 2, kw // 2) if padding is None else padding
    if (kh, kw) == (1, 1) and pad == (0, 0):
        return pointwise(x[:, :: stride[0], :: stride[1]], kernel[0, 0])
    if not context.taps:
        sides = [(p, p) for p in pad]
        return lax.conv_general_dilated(x, kernel, stride, sides, dimension_numbers=_DIMS)
    if (kh, kw) == stride:
        return _patches(x, kernel, pad)
    return _canonical_conv(x, kernel, stride, pad)


def _patches(x, kernel, pad):
    """Convolution whose stride is its kernel's size: a matrix product of separate patches."""
    kh, kw = kernel.shape[:2]
    rows, cols = (x.shape[1] + 2 * pad[0]) // kh, (x.shape[2] + 2 * pad[1]) // kw
    padded = jnp.pad(x, ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))
    patches = padded[:, : rows * kh, : cols * kw].reshape(x.shape[0], rows, kh, cols, kw, -1)
    patches = patches.swapaxes(2, 3).reshape(x.shape[0], rows, cols, -1)
    return pointwise(patches, kernel.reshape(-1, kernel.shape[-1]))


def _conv(x, kernel, stride, padding):
    kh, kw, _, channels = kernel.shape
    if kh > x.shape[1] and kw > x.shape[2] and stride == (1, 1):
        # Eigen's convolution is ten times slower where the kernel outgrows the image.
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        rows, cols = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
        views = [padded[:, i : i + rows, j : j + cols] for i in range(kh) for j in range(kw)]
        return pointwise(jnp.concatenate(views, axis=-1), kernel.reshape(-1, channels))
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=_DIMS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_conv(x, kernel, stride, pad):
    return _conv(x, kernel, stride, [(p, p) for p in pad])


def _canonical_conv_fwd(x, kernel, stride, pad):
    return _canonical_conv(x, kernel, stride, pad), (x, kernel)


def _canonical_conv_bwd(stride, pad, residuals, g):
    x, kernel = residuals
    if stride == (1, 1):
        size = x.shape[1:3]
        return (
            _input_pullback(kernel, g, pad, size),
            _kernel_pullback(x, g, [(p, p) for p in pad]),
        )
    # A strided convolution is a sum of dense ones, one per phase of its input and its taps.
    taps, size = kernel.shape[:2], x.shape[1:3]
    whole = [
        max(-(-(size[i] + 2 * pad[i]) // stride[i]), g.shape[i + 1] + (taps[i] - 1) // stride[i])
        for i in (0, 1)
    ]
    g_phases, g_kernel = [], jnp.zeros_like(kernel)
    for phase in itertools.product(range(stride[0]), range(stride[1])):
        own = tuple(slice(phase[i], None, stride[i]) for i in (0, 1))
        part = kernel[own]
        g_phases.append(_input_pullback(part, g, (0, 0), whole))
        views, sides = zip(
            *(
                _phase_of_input(
                    size[i], pad[i], stride[i], phase[i], g.shape[i + 1] + part.shape[i] - 1
                )
                for i in (0, 1)
            ),
            strict=True,
        )
        g_part = _kernel_pullback(x[(slice(None), *views)], g, sides)
        g_kernel = g_kernel.at[own].set(g_part)
    inside = [slice(pad[i], pad[i] + size[i]) for i in (0, 1)]
    return interleave(g_phases, stride)[(slice(None), *inside)], g_kernel


def _phase_of_input(size, pad, stride, phase, reach):
    """Pixels phase, phase + stride, ... of a padded axis, `reach` of them: slice and padding.

    The padding is left to the convolution: Eigen is up to three times faster with some than with
    none.
    """
    before = max(0, -(-(pad - phase) // stride))
    first = phase + stride * before - pad
    inside = min(len(range(first, size, stride)), reach - before)
    return (slice(first, first + stride * inside, stride), (before, reach - before - inside))


def _input_pullback(kernel, g, pad, size):
    """Cotangent of the input, of `size` pixels, of a convolution with stride 1."""
    taps = kernel.shape[:2]
    first = [taps[i] - 1 - pad[i] for i in (0, 1)]
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    sides = [(first[i], size[i] + pad[i] - g.shape[i + 1]) for i in (0, 1)]
    return _conv(g, flipped, (1, 1), sides)


def _kernel_pullback(x, g, padding):
    """Cotangent of the kernel of a convolution with stride 1.

    It correlates x and g over batch and pixels: the batch plays the channels.
    """
    g_kernel = _conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), padding)
    return g_kernel.transpose(1, 2, 0, 3)


def interleave(phases, stride):
    """Puts maps [B, H, W, C], one per phase in row-major order, together: [B, sH, sW, C]."""
    batch, height, width, channels = phases[0].shape
    rows, cols = stride
    if (rows, cols) == (1, 1):
        return phases[0]
    lines = [jnp.stack(phases[i * cols : (i + 1) * cols], axis=3) for i in range(rows)]
    together = jnp.stack(lines, axis=2)
    return together.reshape(batch, height * rows, width * cols, channels)


_canonical_conv.defvjp(_canonical_conv_fwd, _canonical_conv_bwd)


def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    dilation: int = 1,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """Depthwise convolution with "same" padding: [B, H, W, C] x [k, k, 1, C].

    The result is [B, ceil(H / stride), ceil(W / stride), C].
    """
    k, channels = kernel.shape[0], kernel.shape[-1]
    pad = (k // 2) * dilation
    if not context.taps:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(pad, pad)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=_DIMS,
            feature_group_count=channels,
        )
    # Strided edges are few: subsampling the dense result keeps one gradient for both.
    return _depthwise_taps(x, kernel[:, :, 0], dilation)[:, ::stride, ::stride]


def shifted_views(x, k, stride, dilation, fill=0.0):
    """The k*k shifted views of x under "same" padding, in row-major order of the taps."""
    pad = (k // 2) * dilation
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    rows, cols = x.shape[1], x.shape[2]
    for i in range(0, k * dilation, dilation):
        for j in range(0, k * dilation, dilation):
            yield padded[:, i : i + rows : stride, j : j + cols : stride]


def _shifted_sum(x, kernel, dilation):
    taps = kernel.reshape(-1, kernel.shape[-1])
    views = shifted_views(x, kernel.shape[0], 1, dilation)
    return functools.reduce(jnp.add, (v * taps[None, None, None, t] for t, v in enumerate(views)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_taps(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation)


def _depthwise_fwd(x, kernel, dilation):
    return _depthwise_taps(x, kernel, dilation), (x, kernel)


def _depthwise_bwd(dilation, residuals, g):
    x, kernel = residuals
    dx = _shifted_sum(g, kernel[::-1, ::-1], dilation)
    return dx, _tap_products(x, g, kernel.shape[0], dilation).reshape(kernel.shape)


def _tap_products(x, g, k, dilation):
    """Sums of (view of x) * g over batch and pixels, one per tap: [k * k, C].

    A loop over the taps: unrolled it is slower (25 taps) and takes most of the compile time of
    an executor.
    """
    pad = (k // 2) * dilation
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(tap):
        start = (0, tap // k * dilation, tap % k * dilation, 0)
        return jnp.sum(lax.dynamic_slice(padded, start, x.shape) * g, axis=(0, 1, 2))

    return lax.map(one, jnp.arange(k * k))


_depthwise_taps.defvjp(_depthwise_fwd, _depthwise_bwd)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, context: OpContext = DEFAULT
) -> jax.Array:
    """Softmax attention, [B, T, heads, D] each, scaled by D^-0.5; returns [B, T, heads, D].

    The `"taps"` form works on a few images at a time, so that their scores stay in cache, and
    divides the mixed values instead of the scores; its gradient keeps no scores.
    """
    query = query * query.shape[-1] ** -0.5
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    if not context.taps:
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1), value)
    else:
        mixed = _chunked_attention(query, key, value)
    return mixed.swapaxes(1, 2)


def _by_chunks(f, *arrays):
    """Maps f over chunks of images of [B, heads, T, D] arrays, batch and heads merged."""
    batch, heads, *rest = arrays[0].shape
    some = next(n for n in (8, 4, 2, 1) if batch % n == 0)
    chunks = [x.reshape(batch // some, some * heads, *rest) for x in arrays]
    out = lax.map(lambda chunk: f(*chunk), tuple(chunks))
    return jax.tree.map(lambda y: y.reshape(batch, heads, *rest), out)


def _unnormalised(query, key, value):
    """Exponentiated scores, values with a column of ones, and their mix with its inverse sum."""
    scores = jnp.einsum("nqd,nkd->nqk", query, key)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    mixed = jnp.einsum("nqk,nkd->nqd", weights, value)
    inverse = 1.0 / mixed[..., -1:]
    return weights, value, mixed[..., :-1] * inverse, inverse


@jax.custom_vjp
def _chunked_attention(query, key, value):
    return _by_chunks(lambda q, k, v: _unnormalised(q, k, v)[2], query, key, value)


def _chunked_attention_fwd(query, key, value):
    return _chunked_attention(query, key, value), (query, key, value)


def _chunked_attention_bwd(residuals, g):
    def chunk(query, key, value, g):
        weights, ones, mixed, inverse = _unnormalised(query, key, value)
        # d scores = weights * inverse * (g . value - g . mixed), the last term by the ones.
        g_mixed = g * inverse
        shift = -jnp.sum(g_mixed * mixed, axis=-1, keepdims=True)
        g_rows = jnp.concatenate([g_mixed, shift], axis=-1)
        g_scores = weights * jnp.einsum("nqd,nkd->nqk", g_rows, ones)
        return (
            jnp.einsum("nqk,nkd->nqd", g_scores, key),
            jnp.einsum("nqk,nqd->nkd", g_scores, query),
            jnp.einsum("nqk,nqd->nkd", weights, g_mixed),
        )

    return _by_chunks(chunk, *residuals, g)


_chunked_attention.defvjp(_chunked_attention_fwd, _chunked_attention_bwd)
