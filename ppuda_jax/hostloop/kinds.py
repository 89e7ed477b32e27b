"""What each kind of step computes, with the functions that the Flax networks are made of.

Shapes: `B` images, `H, W` pixels, `C` channels; maps are [B, H, W, C], vectors [B, F].
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from ppuda_jax.hostloop.steps import Shape, StepKey
from ppuda_jax.nets import lowering, norms, ops
from ppuda_jax.nets.context import DEFAULT, OpContext

Leaves = Sequence[jax.Array]
"""Parameters of a step, in the order of its leaves."""
Apply = Callable[[StepKey, Leaves, jax.Array, jax.Array | None, OpContext], jax.Array]
"""(step, its leaves, first input, second input if there is one, context) -> output."""


def run_step(
    key: StepKey,
    leaves: Leaves,
    maps: Sequence[jax.Array],
    rng: jax.Array | None,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """Computes a step.

    Args:
      key: which step (static).
      leaves: its parameters, of the shapes of `key.leaves`.
      maps: what it reads, [B, *shape] of the shapes of `key.maps`.
      rng: key of the dropout before a second dense layer (consumed); None for none.
      context: static choices.

    Returns:
      What it writes: a map in the dtype of the maps, or a vector per image in that of the
      parameters.
    """
    left, inputs = list(maps), []
    for slots in key.slots:
        count = sum(width > 0 for width in slots)
        inputs.append(_concatenated(slots, left[:count]))
        left = left[count:]
    if key.kind == "sum":
        return ops.sum_maps(inputs)
    return _KINDS[key.kind](key, leaves, inputs[0], rng, context)


def _concatenated(slots: Shape, maps: Sequence[jax.Array]) -> jax.Array:
    """One input [B, H, W, C] from the maps that it consists of, and zeros."""
    if len(slots) == 1:
        return maps[0]
    left, like = iter(maps), maps[0]
    return jnp.concatenate(
        [
            next(left) if width > 0 else jnp.zeros((*like.shape[:-1], -width), like.dtype)
            for width in slots
        ],
        axis=-1,
    )


def _cast(leaves: Leaves, x: jax.Array) -> list[jax.Array]:
    return [leaf.astype(x.dtype) for leaf in leaves]


def _conv(
    key: StepKey, leaves: Leaves, x: jax.Array, rng: jax.Array | None, context: OpContext
) -> jax.Array:
    del rng
    (kernel,) = _cast(leaves, x)
    return lowering.conv(jax.nn.relu(x) if key.relu else x, kernel, key.stride, context=context)


def _separable(
    key: StepKey, leaves: Leaves, x: jax.Array, rng: jax.Array | None, context: OpContext
) -> jax.Array:
    del rng
    return ops.separable(
        _cast(leaves, x), x, stride=key.stride[0], dilation=key.dilation, context=context
    )


def _norm(
    key: StepKey, leaves: Leaves, x: jax.Array, rng: jax.Array | None, context: OpContext
) -> jax.Array:
    del key, rng
    return norms.batch_norm(x, *leaves, context=context) if context.norms else x


def _dense(
    key: StepKey, leaves: Leaves, x: jax.Array, rng: jax.Array | None, context: OpContext
) -> jax.Array:
    del context
    x = x.astype(leaves[0].dtype)
    if key.relu:
        x = jax.nn.relu(x)
        x = x if rng is None else ops.head_dropout(rng, x)
    return ops.dense(leaves, x)


def _plain(op: ops.OpFn) -> Apply:
    return lambda key, leaves, x, rng, context: op(_cast(leaves, x), x, context=context)


def _strided(op: ops.OpFn) -> Apply:
    return lambda key, leaves, x, rng, context: op(
        _cast(leaves, x), x, stride=key.stride[0], context=context
    )


_STRIDED = ("max_pool_3x3", "avg_pool_3x3", "cse", "msa")

_KINDS: Mapping[str, Apply] = MappingProxyType(
    {
        "conv": _conv,
        "separable": _separable,
        "norm": _norm,
        "dense": _dense,
        "patch_conv": _plain(ops.patch_conv),
        "pos_enc": _plain(ops.pos_enc),
        "factorized_reduce": _plain(ops.factorized_reduce),
        "stem_pool": _plain(ops.stem_pool),
        "subsample": _plain(ops.subsample),
        "global_pool": _plain(ops.global_pool),
        "flatten": _plain(ops.flatten),
        **{kind: _strided(ops.CELL_OPS[kind]) for kind in _STRIDED},
    }
)
