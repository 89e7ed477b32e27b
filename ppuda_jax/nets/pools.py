"""3x3 pools in both forms of `lowering`, with hand-written gradients.

Shapes: `B` images, `H, W` pixels, `C` channels; arrays are NHWC.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppuda_jax.nets.context import DEFAULT, OpContext
from ppuda_jax.nets.lowering import interleave, shifted_views


def avg_pool(x: jax.Array, stride: int = 1, context: OpContext = DEFAULT) -> jax.Array:
    """3x3 average pool; padded pixels do not count. [B, H, W, C] -> [B, H', W', C]."""
    rows, cols = (_window_count(size, stride) for size in x.shape[1:3])
    count = (rows[:, None] * cols[None])[None, :, :, None]
    if not context.taps:
        total = lax.reduce_window(
            x,
            np.zeros((), x.dtype),  # one of JAX would be traced by `jit`, and no sum
            lax.add,
            (1, 3, 3, 1),
            (1, stride, stride, 1),
            [(0, 0), (1, 1), (1, 1), (0, 0)],
        )
        return total / count.astype(x.dtype)
    total = functools.reduce(jnp.add, shifted_views(x, 3, stride, 1))
    return total / count.astype(x.dtype)


def _window_count(size, stride):
    """How many pixels of a 3-wide window lie inside the image, per output position."""
    centre = jnp.arange(0, size, stride)
    return 3 - (centre == 0).astype(jnp.int32) - (centre == size - 1).astype(jnp.int32)


def max_pool(x: jax.Array, stride: int = 1, context: OpContext = DEFAULT) -> jax.Array:
    """3x3 max pool. [B, H, W, C] -> [B, H', W', C]; ties send the gradient to the first."""
    if not context.taps:
        return lax.reduce_window(
            x,
            -jnp.inf,
            lax.max,
            (1, 3, 3, 1),
            (1, stride, stride, 1),
            [(0, 0), (1, 1), (1, 1), (0, 0)],
        )
    return _max_taps(x, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_taps(x, stride):
    return functools.reduce(jnp.maximum, shifted_views(x, 3, stride, 1, -jnp.inf))


def _max_fwd(x, stride):
    return _max_taps(x, stride), x


def _max_bwd(stride, x, g):
    winner = max_with_tap(x, stride)[1]
    return (spread_maxima(g, winner, jnp.zeros_like(x), stride),)


def max_with_tap(x: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """3x3 max pool and which tap won, the first of equal ones: [B, H', W', C] and int8."""

    def some(x):
        views = shifted_views(x, 3, stride, 1, -jnp.inf)
        best = next(views)
        winner = jnp.zeros(best.shape, jnp.int8)
        for tap, view in enumerate(views, start=1):
            winner = jnp.where(view > best, jnp.int8(tap), winner)
            best = jnp.maximum(best, view)
        return best, winner

    return computed_once(some, x)


def computed_once(f: Callable[..., Any], *maps: jax.Array) -> Any:
    """F of maps [B, ...], elementwise in B; a loop over two halves of them.

    XLA repeats elementwise work in every loop that reads its result, but not that of a loop.
    """
    parts = 2 if maps[0].shape[0] % 2 == 0 else 1
    halves = [x.reshape(parts, -1, *x.shape[1:]) for x in maps]
    out = lax.map(lambda half: f(*half), tuple(halves))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), out)


def spread_maxima(g: jax.Array, winner: jax.Array, rest: jax.Array, stride: int) -> jax.Array:
    """Adds values of a pool's results to the pixels that won.

    Args:
      g: values [B, H', W', C].
      winner: the taps, see `max_with_tap`.
      rest: what they are added to, [B, H, W, C].
      stride: of the pool.
    """
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    g_padded, w_padded = jnp.pad(g, around), jnp.pad(winner, around, constant_values=-1)
    height, width = rest.shape[1:3]
    rest = jnp.pad(rest, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))

    def collect(i, j):
        # Output p takes tap t of input stride * p + t - 1.
        total = rest[:, i::stride, j::stride]
        for rows, cols in itertools.product(range(3), range(3)):
            if (i + 1 - rows) % stride or (j + 1 - cols) % stride:
                continue
            first, second = 1 + (i + 1 - rows) // stride, 1 + (j + 1 - cols) // stride
            view = (
                slice(None),
                slice(first, first + g.shape[1]),
                slice(second, second + g.shape[2]),
            )
            won = w_padded[view] == 3 * rows + cols
            total += jnp.where(won, g_padded[view], jnp.zeros((), g.dtype))
        return total

    phases = [collect(i, j) for i in range(stride) for j in range(stride)]
    return interleave(phases, (stride, stride))[:, :height, :width]


_max_taps.defvjp(_max_fwd, _max_bwd)
