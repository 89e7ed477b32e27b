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
from ppuda_jax.executor.ends import padded
from ppuda_jax.executor.layout import Group
from ppuda_jax.nets.norms import apply_affine, batch_norm_pullback, batch_statistics

Files = Mapping[str, jax.Array]


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


def _row(table, index):
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
    code: jax.Array,
    count: jax.Array,
    mats: jax.Array,
    vecs: jax.Array,
    gate: jax.Array,
    files: Files,
    norms: Norms | None,
) -> tuple[Files, Norms | None]:
    """Runs one group.

    Args:
      group: its instructions (static).
      code: int32 [cap, 7], see `program.Program`.
      count: int32 [], instructions to run.
      mats: [T, I, O], the table of matrices that it reads.
      vecs: [V, O], the table of vectors.
      gate: 1 if the network has norms, else 0.
      files: name -> registers.
      norms: where to keep what `pull_group` needs; None to keep nothing.

    Returns:
      The files with the target updated, and the norms.
    """
    width = vecs.shape[-1]

    def body(i, carry):
        target, norms = carry
        source = target if group.inner else files[group.source]
        opcode, read, write, slot, norm, mat, vec = code[i]

        def run(branch, source):
            return branch.apply(
                read_rows(mats, mat, branch.mats),
                read_rows(vecs, vec, branch.vecs),
                read_rows(source, read, branch.sources),
                gate,
            )

        def affine(x):
            mean, inverse = batch_statistics(x)
            scale, bias = read_rows(vecs, vec + norm, 2)
            gain = inverse * scale
            return mean, inverse, gain, bias - mean * gain

        def identity(_):
            zeros, ones = jnp.zeros(width, vecs.dtype), jnp.ones(width, vecs.dtype)
            return zeros, ones, ones, zeros

        x = lax.switch(opcode, [functools.partial(run, b) for b in group.branches], source)
        *statistics, gain, shift = lax.cond((norm >= 0) & (gate > 0), affine, identity, x)
        if norms is not None:
            norms = Norms(
                write_rows(norms.maps, slot, x[None]),
                write_rows(norms.statistics, slot, jnp.stack(statistics)[None]),
            )
        y = apply_affine(x, gain, shift)
        return write_rows(target, write, read_rows(target, write, 1) + y[None]), norms

    target, norms = lax.fori_loop(0, count, body, (files[group.target], norms))
    return {**files, group.target: target}, norms


def pull_group(
    group: Group,
    code: jax.Array,
    count: jax.Array,
    mats: jax.Array,
    vecs: jax.Array,
    gate: jax.Array,
    files: Files,
    norms: Norms,
    cotangents: Files,
    g_mats: jax.Array,
    g_vecs: jax.Array,
) -> tuple[Files, jax.Array, jax.Array]:
    """Walks one group backwards.

    Args:
      group: its instructions (static).
      code: int32 [cap', 7], its gradient instructions.
      count: int32 [], how many.
      mats: [T, I, O], the table of matrices that it reads.
      vecs: [V, O], the table of vectors.
      gate: 1 if the network has norms, else 0.
      files: name -> registers after the forward pass.
      norms: what `run_group` kept.
      cotangents: name -> cotangents of the registers.
      g_mats: [T, I, O], gradient of the table of matrices so far.
      g_vecs: [V, O], gradient of the table of vectors so far.

    Returns:
      Cotangents with those of the source added, and both gradients with their rows written.
    """
    source = files[group.source]
    slots = 1 if group.inner else group.max_sources
    most_mats, most_vecs = group.max_mats, group.max_vecs

    def run(branch, cotangent, i):
        _, read, _, _, _, mat, vec = code[i]
        gm, gv, gx = pullback(branch)(
            read_rows(mats, mat, branch.mats),
            read_rows(vecs, vec, branch.vecs),
            read_rows(source, read, branch.sources),
            gate,
            cotangent,
        )
        return padded(gm, most_mats), padded(gv, most_vecs), padded(gx, slots)

    # Inside a file, instructions of several sources (the last opcodes) do not occur backwards.
    table = [functools.partial(run, b) for b in group.branches if b.sources <= slots]

    def body(i, carry):
        ct_source, ct_target, gm_table, gv_table = carry
        opcode, read, write, slot, norm, mat, vec = code[i]
        cotangent = _row(ct_source if group.inner else ct_target, write)
        on = (norm >= 0) & (gate > 0)

        def through_norm(g):
            mean, inverse = _row(norms.statistics, slot)
            scale = _row(vecs, vec + norm)
            g, g_scale, g_bias = batch_norm_pullback(
                _row(norms.maps, slot), mean, inverse, scale, g
            )
            return g, jnp.stack([g_scale, g_bias])

        cotangent, g_norm = lax.cond(
            on, through_norm, lambda g: (g, jnp.zeros((2, vecs.shape[-1]), vecs.dtype)), cotangent
        )
        gm, gv, gx = lax.switch(opcode, table, cotangent, i)
        at = jnp.maximum(norm, 0)
        gv = write_rows(gv, at, read_rows(gv, at, 2) + g_norm)
        ct_source = write_rows(ct_source, read, read_rows(ct_source, read, slots) + gx)
        return (
            ct_source,
            ct_target,
            write_rows(gm_table, mat, gm) if most_mats else gm_table,
            write_rows(gv_table, vec, gv),
        )

    # An inner group's target is its source; a scalar stands in for it in the carry.
    ct_target = jnp.zeros(()) if group.inner else cotangents[group.target]
    ct_source, ct_target, gm, gv = lax.fori_loop(
        0, count, body, (cotangents[group.source], ct_target, g_mats, g_vecs)
    )
    return {**cotangents, group.source: ct_source}, gm, gv
