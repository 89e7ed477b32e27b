"""One group of a layout, forwards and backwards: loops whose bodies switch over instructions.

Registers and gradient tables are carried in place, and branches return one feature map and a few
rows, never a file: XLA copies buffers that pass through a conditional.

Legend: `B` images, `H, W` pixels, `C` channels, `I, O` inputs and outputs of matrices,
`T` and `V` rows of matrices and vectors.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.executor.branches import pullback
from ppuda_jax.executor.columns import Instruction
from ppuda_jax.executor.ends import padded
from ppuda_jax.executor.layout import Group
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.norms import apply_affine, batch_norm_pullback, batch_statistics

Files = Mapping[str, jax.Array]
"""Register files by name."""


class Weights(NamedTuple):
    """A table of matrices and a table of vectors, or their gradients.

    Attributes:
      mats: [T, I, O].
      vecs: [V, O].
    """

    mats: jax.Array
    vecs: jax.Array


class Code(NamedTuple):
    """What the loop of one group runs for one network, forwards or backwards.

    Attributes:
      lines: int32 [cap, 7], the columns of `Instruction` side by side.
      length: int32 [], instructions to run.
      gate: float32 [], 1 if the network has norms, else 0.
    """

    lines: jax.Array
    length: jax.Array
    gate: jax.Array

    def line(self, i: jax.Array) -> Instruction:
        """Instruction i."""
        return Instruction.unpack(self.lines[i])


class Norms(NamedTuple):
    """Maps before their norms, kept by the forward pass of one group.

    Attributes:
      maps: [slots, B, H, W, C].
      statistics: [slots, 2, C], mean and inverse standard deviation.
    """

    maps: jax.Array
    statistics: jax.Array


def read_rows(table: jax.Array, start: jax.Array, count: int) -> jax.Array:
    """Rows start ... start + count of a table."""
    if count == 0:
        return jnp.zeros((0, *table.shape[1:]), table.dtype)
    return lax.dynamic_slice_in_dim(table, start, count)


def write_rows(table: jax.Array, start: jax.Array | int, value: jax.Array) -> jax.Array:
    """The table with `value` at its rows from `start` on."""
    return lax.dynamic_update_slice_in_dim(table, value, start, 0)


def _row(table: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(table, index, keepdims=False)


def empty_norms(group: Group, files: Files, vecs: jax.Array) -> Norms:
    """Room for what `run_group` keeps; its contents do not matter."""
    target = files[group.target]
    return Norms(
        jnp.zeros((group.norms, *target.shape[1:]), target.dtype),
        jnp.zeros((group.norms, 2, vecs.shape[-1]), vecs.dtype),
    )


def run_group(
    group: Group,
    context: OpContext,
    code: Code,
    weights: Weights,
    files: Files,
    norms: Norms | None,
) -> tuple[Files, Norms | None]:
    """Runs one group.

    Args:
      group: its instructions (static).
      context: further static choices.
      code: the network's part of it.
      weights: the tables that it reads.
      files: name -> registers.
      norms: where to keep what `pull_group` needs; None to keep nothing.

    Returns:
      The files with the target updated, and the norms.
    """
    mats, vecs = weights
    width = vecs.shape[-1]

    def body(i, carry):
        target, norms = carry
        source = target if group.inner else files[group.source]
        line = code.line(i)

        def run(branch, source):
            return branch.apply(
                read_rows(mats, line.mat, branch.mats),
                read_rows(vecs, line.vec, branch.vecs),
                read_rows(source, line.source, branch.sources),
                code.gate,
                context,
            )

        def affine(x):
            mean, inverse = batch_statistics(x, context)
            scale, bias = read_rows(vecs, line.vec + line.norm, 2)
            gain = inverse * scale
            return mean, inverse, gain, bias - mean * gain

        def identity(_):
            zeros, ones = jnp.zeros(width, vecs.dtype), jnp.ones(width, vecs.dtype)
            return zeros, ones, ones, zeros

        x = lax.switch(line.opcode, [functools.partial(run, b) for b in group.branches], source)
        normed = (line.norm >= 0) & (code.gate > 0)
        *statistics, gain, shift = lax.cond(normed, affine, identity, x)
        if norms is not None:
            norms = Norms(
                write_rows(norms.maps, line.slot, x[None]),
                write_rows(norms.statistics, line.slot, jnp.stack(statistics)[None]),
            )
        y = apply_affine(x, gain, shift)
        y = read_rows(target, line.target, 1) + y[None]
        return write_rows(target, line.target, y), norms

    target, norms = lax.fori_loop(0, code.length, body, (files[group.target], norms))
    return {**files, group.target: target}, norms


def pull_group(
    group: Group,
    context: OpContext,
    code: Code,
    weights: Weights,
    kept: tuple[Files, Norms],
    cotangents: Files,
    gradient: Weights,
) -> tuple[Files, Weights]:
    """Walks one group backwards.

    Args:
      group: its instructions (static).
      context: further static choices.
      code: its gradient instructions.
      weights: the tables that it reads.
      kept: the files after the forward pass, and the norms that `run_group` kept.
      cotangents: name -> cotangents of the registers.
      gradient: of `weights`, so far.

    Returns:
      Cotangents with those of the source added, and the gradient with its rows written.
    """
    files, norms = kept
    mats, vecs = weights
    source = files[group.source]
    slots = 1 if group.inner else group.max_sources
    most_mats, most_vecs = group.max_mats, group.max_vecs

    def run(branch, cotangent, i):
        line = code.line(i)
        gm, gv, gx = pullback(branch, context)(
            read_rows(mats, line.mat, branch.mats),
            read_rows(vecs, line.vec, branch.vecs),
            read_rows(source, line.source, branch.sources),
            code.gate,
            cotangent,
        )
        return padded(gm, most_mats), padded(gv, most_vecs), padded(gx, slots)

    # Inside a file, instructions of several sources (the last opcodes) do not occur backwards.
    table = [functools.partial(run, b) for b in group.branches if b.sources <= slots]

    def body(i, carry):
        ct_source, ct_target, gm_table, gv_table = carry
        line = code.line(i)
        cotangent = _row(ct_source if group.inner else ct_target, line.target)
        on = (line.norm >= 0) & (code.gate > 0)

        def through_norm(g):
            mean, inverse = _row(norms.statistics, line.slot)
            scale = _row(vecs, line.vec + line.norm)
            g, g_scale, g_bias = batch_norm_pullback(
                _row(norms.maps, line.slot), mean, inverse, scale, g
            )
            return g, jnp.stack([g_scale, g_bias])

        cotangent, g_norm = lax.cond(
            on, through_norm, lambda g: (g, jnp.zeros((2, vecs.shape[-1]), vecs.dtype)), cotangent
        )
        gm, gv, gx = lax.switch(line.opcode, table, cotangent, i)
        at = jnp.maximum(line.norm, 0)
        gv = write_rows(gv, at, read_rows(gv, at, 2) + g_norm)
        gx = read_rows(ct_source, line.source, slots) + gx
        ct_source = write_rows(ct_source, line.source, gx)
        return (
            ct_source,
            ct_target,
            write_rows(gm_table, line.mat, gm) if most_mats else gm_table,
            write_rows(gv_table, line.vec, gv),
        )

    # An inner group's target is its source; a scalar stands in for it in the carry.
    ct_target = jnp.zeros(()) if group.inner else cotangents[group.target]
    ct_source, ct_target, gm, gv = lax.fori_loop(
        0, code.length, body, (cotangents[group.source], ct_target, *gradient)
    )
    return {**cotangents, group.source: ct_source}, Weights(gm, gv)
