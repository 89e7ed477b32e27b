"""Instructions of the executor: how each operation reads its parameters from tables of rows.

Inside a stage every feature map has C channels, so every weight is a handful of [C, C] matrices
(one per tap, per concatenated source, per third of a qkv kernel) and [C] vectors. A program's
parameters are therefore tables of such rows, and an instruction names its first matrix and its
first vector. This file says, per operation, how many rows it takes and in which order: the
tensors of `archs.op_params` in their order, taps row-major, then blocks of inputs, then blocks
of outputs. The norm that ends most operations is not part of them: the executor applies it to
every instruction's result in one place, and keeps the map before it for the gradient.

Legend: `I` and `O` channels of source and target file, `K` sources read side by side.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ppuda_jax.nets import ops
from ppuda_jax.nets.context import OpContext

Apply = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, OpContext], jax.Array]
"""(mats, vecs, x, gate, context) -> output, as `Branch` says."""
Pullback = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
"""(mats, vecs, x, gate, cotangent of the output) -> cotangents of the first three."""


class Branch(NamedTuple):
    """One instruction.

    Attributes:
      name: kind of operation, with the number of sources where it varies.
      sources: K, registers read side by side.
      mats: matrices [I, O] read.
      vecs: vectors [O] read.
      apply: (mats [mats, I, O], vecs [vecs, O], x [K, B, H, W, I], gate, context) ->
        [B, H', W', O]; `gate` is 1 if the network has norms, else 0.
      norm: whether a norm follows; its scale and bias are the last two vectors.
    """

    name: str
    sources: int
    mats: int
    vecs: int
    apply: Apply
    norm: bool = True


def pullback(branch: Branch, context: OpContext) -> Pullback:
    """The instruction's gradient: (mats, vecs, x, gate, g) -> (mats, vecs, x) cotangents."""

    def run(mats, vecs, x, gate, g):
        _, vjp = jax.vjp(lambda m, v, y: branch.apply(m, v, y, gate, context), mats, vecs, x)
        return vjp(g)

    return run


def _add(mats, vecs, x, gate, context):
    del mats, vecs, gate, context
    return x[0]


def _pool(op, stride):
    return lambda mats, vecs, x, gate, context: op((), x[0], stride=stride, context=context)


def _cast(mats, x):
    return mats.astype(x.dtype)


def _conv(k, stride):
    def run(mats, vecs, x, gate, context):
        del vecs, gate
        kernel = _cast(mats, x).reshape(k, k, *mats.shape[1:])
        return ops.conv_norm((kernel,), x[0], stride=stride, context=context)

    return run


def _conv_7x1_1x7(stride):
    def run(mats, vecs, x, gate, context):
        del vecs, gate
        mats = _cast(mats, x)
        return ops.conv_7x1_1x7(
            (mats[:7][None], mats[7:][:, None]), x[0], stride=stride, context=context
        )

    return run


def _separable_kernels(mats, vecs, k, x):
    depthwise = _cast(vecs[: k * k], x).reshape(k, k, 1, vecs.shape[-1])
    return depthwise, _cast(mats, x)[0][None, None]


def _sep_conv(k, stride):
    def run(mats, vecs, x, gate, context):
        half = k * k + 2
        first = (*_separable_kernels(mats[:1], vecs, k, x), vecs[half - 2], vecs[half - 1], gate)
        hidden = ops.separable(first, x[0], stride=stride, context=context)
        return ops.separable(
            _separable_kernels(mats[1:], vecs[half:], k, x), hidden, context=context
        )

    return run


def _dil_conv(k, stride):
    def run(mats, vecs, x, gate, context):
        del gate
        return ops.dil_conv(
            _separable_kernels(mats, vecs, k, x), x[0], stride=stride, context=context
        )

    return run


def _cse(stride):
    def run(mats, vecs, x, gate, context):
        del gate
        mats, vecs, half = _cast(mats, x), _cast(vecs, x), x.shape[-1] // 2
        return ops.cse(
            (mats[0, :, :half], vecs[0, :half], mats[1, :half], vecs[1]),
            x[0],
            stride=stride,
            context=context,
        )

    return run


def _msa(stride):
    def run(mats, vecs, x, gate, context):
        del gate
        mats, wide = _cast(mats, x), _cast(vecs, x)
        qkv = jnp.concatenate(list(mats[:3]), axis=-1)
        return ops.msa(
            (
                vecs[0],
                vecs[1],
                qkv,
                mats[3],
                wide[2],
                vecs[3],
                vecs[4],
                mats[4],
                wide[5],
                mats[5],
                wide[6],
            ),
            x[0],
            stride=stride,
            context=context,
        )

    return run


def _side_by_side(x):
    """[K, B, H, W, I] -> [B, H, W, K * I]: the concatenation of the sources."""
    return x[0] if x.shape[0] == 1 else jnp.concatenate(list(x), axis=-1)


def _preprocess(mats, vecs, x, gate, context):
    del vecs, gate
    kernel = _cast(mats, x).reshape(1, 1, -1, mats.shape[-1])
    return ops.conv_norm((kernel,), _side_by_side(x), context=context)


def _factorized_reduce(mats, vecs, x, gate, context):
    del vecs, gate
    half = mats.shape[-1] // 2
    kernels = _cast(mats, x)[..., :half].reshape(2, 1, 1, -1, half)
    return ops.factorized_reduce((kernels[0], kernels[1]), _side_by_side(x), context=context)


def _subsample(mats, vecs, x, gate, context):
    del mats, vecs, gate
    return ops.subsample((), x[0], context=context)


@functools.lru_cache
def cell_branches(stride: int, attention: bool) -> tuple[Branch, ...]:
    """Instructions for the edges of a cell, all with one source.

    Args:
      stride: 1, or 2 for edges from the inputs of a reduction cell.
      attention: whether the networks have `msa`.
    """
    table = [
        Branch("max_pool_3x3", 1, 0, 0, _pool(ops.max_pool_3x3, stride), norm=False),
        Branch("avg_pool_3x3", 1, 0, 0, _pool(ops.avg_pool_3x3, stride), norm=False),
        Branch("sep_conv_3x3", 1, 2, 22, _sep_conv(3, stride)),
        Branch("sep_conv_5x5", 1, 2, 54, _sep_conv(5, stride)),
        Branch("dil_conv_3x3", 1, 1, 11, _dil_conv(3, stride)),
        Branch("dil_conv_5x5", 1, 1, 27, _dil_conv(5, stride)),
        Branch("conv_1x1", 1, 1, 2, _conv(1, stride)),
        Branch("conv_3x3", 1, 9, 2, _conv(3, stride)),
        Branch("conv_5x5", 1, 25, 2, _conv(5, stride)),
        Branch("conv_7x7", 1, 49, 2, _conv(7, stride)),
        Branch("conv_7x1_1x7", 1, 14, 2, _conv_7x1_1x7(stride)),
        Branch("cse", 1, 2, 2, _cse(stride), norm=False),
    ]
    if attention:
        table.append(Branch("msa", 1, 6, 7, _msa(stride), norm=False))
    if stride == 1:
        table.append(Branch("add", 1, 0, 0, _add, norm=False))
    else:
        table.append(Branch("factorized_reduce_1", 1, 2, 2, _factorized_reduce))
    return tuple(table)


@functools.lru_cache
def preprocess_branches(first: int, last: int) -> tuple[Branch, ...]:
    """ReLU-1x1 over `first` to `last` sources."""
    return tuple(Branch(f"preprocess_{k}", k, k, 2, _preprocess) for k in range(first, last + 1))


@functools.lru_cache
def reduce_branches(last: int) -> tuple[Branch, ...]:
    """Factorized reduction over 1 to `last` sources."""
    return tuple(
        Branch(f"factorized_reduce_{k}", k, 2 * k, 2, _factorized_reduce)
        for k in range(1, last + 1)
    )


SUBSAMPLE = Branch("subsample", 1, 0, 0, _subsample, norm=False)
"""Takes every second pixel of a register over into another file."""

COPY = Branch("copy", 1, 0, 0, _add, norm=False)
"""Takes a register over into another file."""
