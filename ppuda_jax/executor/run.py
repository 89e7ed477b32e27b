"""The executor: any network of a variant as data in one compiled function, with its own gradient.

Each group of a layout is a loop over instructions (`groups.py`). Norms follow each instruction's
switch, once for all; the map before each norm is kept, so that the backward pass runs no
convolution twice: it walks the program in reverse and calls each instruction's pullback on the
saved registers. The memory of a network is its registers and these maps; the networks of a
meta-batch run one after another in the same memory.

Legend: `M` networks of a meta-batch, `B` images, `H, W` pixels, `C` channels, `K`
classes, `T` and `V` rows of matrices and vectors.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ppuda_jax.executor.arrays import Programs, Tables
from ppuda_jax.executor.columns import HeadCode
from ppuda_jax.executor.ends import (
    Head,
    Stem,
    StemInputs,
    StemMaps,
    head_logits,
    pull_stem,
    run_stem,
)
from ppuda_jax.executor.groups import (
    Code,
    Files,
    Norms,
    Weights,
    empty_norms,
    pull_group,
    read_rows,
    run_group,
    write_rows,
)
from ppuda_jax.executor.layout import STEM_MATS, STEM_VECS, Group, Layout, Variant, layout_of
from ppuda_jax.nets.context import DEFAULT, OpContext

_Tree = TypeVar("_Tree")
"""Any pytree of arrays."""


class _Network(NamedTuple):
    """One network of a meta-batch.

    Attributes:
      program: its numbers, without the dimension M.
      tables: of the whole meta-batch.
      stem: its own parameters at the beginning.
      head: its own parameters at the end.
    """

    program: Programs
    tables: Tables
    stem: Stem
    head: Head

    def weights(self, group: Group) -> Weights:
        """The tables that a group reads."""
        return Weights(self.tables.mats[group.mats], self.tables.vecs[group.vecs])

    def forward(self, group: Group) -> Code:
        """What a group runs."""
        program, name = self.program, group.name
        return Code(program.forward[name], program.forward_count[name], program.norm)

    def backward(self, group: Group) -> Code:
        """What a group runs for the gradient."""
        program, name = self.program, group.name
        return Code(program.backward[name], program.backward_count[name], program.norm)

    def stem_inputs(self, images: jax.Array) -> StemInputs:
        """What the stem runs on."""
        return StemInputs(self.program.stem, self.program.norm, images)


def _fold(key: jax.Array | None, i: jax.Array) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, i)


def _network(tables: Tables, programs: Programs, i: jax.Array) -> _Network:
    """Network i."""

    def one(tree: _Tree) -> _Tree:
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)

    program = one(programs)
    stem = Stem(
        one(tables.stem),
        one(tables.positions),
        read_rows(tables.mats["s0"], program.stem.mat, STEM_MATS),
        read_rows(tables.vecs["s0"], program.stem.vec, STEM_VECS),
    )
    head = tables.hidden, tables.hidden_bias, tables.classifier, tables.classifier_bias
    return _Network(program, tables, stem, Head(*map(one, head)))


def _empty_files(layout: Layout, images: jax.Array) -> Files:
    return {
        name: jnp.zeros(
            (f.registers, images.shape[0], f.pixels, f.pixels, f.channels), images.dtype
        )
        for name, f in layout.files.items()
    }


def _cleared(files: Files, programs: Programs, i):
    """Files that network i - 1 has left behind, with zeros where network i adds its values.

    The files of all networks are one buffer: to write all of it for each costs as much as a
    few convolutions, and most networks use less than half.
    """
    if programs.norm.shape[0] == 1:
        return files  # nothing to clear, and XLA would run the loops while it compiles

    def clear(file, used):
        row = jnp.zeros((1, *file.shape[1:]), file.dtype)
        count = jnp.where(i == 0, 0, used)
        return lax.fori_loop(0, count, lambda r, f: write_rows(f, r, row), file)

    return {name: clear(file, programs.registers[name][i]) for name, file in files.items()}


def _run_forward(
    variant: Variant,
    context: OpContext,
    network: _Network,
    images: jax.Array,
    files: Files,
    norms: Mapping[str, Norms] | None,
) -> tuple[Files, StemMaps, dict[str, Norms]]:
    """Runs the stem and all groups on cleared files: files, maps of the stem, norms.

    Norms are kept in the given buffers, or not at all without.
    """
    maps, stem_maps = run_stem(variant, context, network.stem, network.stem_inputs(images))
    files = {**files, "s0": write_rows(files["s0"], 0, maps)}
    kept = {}
    for group in layout_of(variant).groups:
        room = norms[group.name] if norms else None
        files, used = run_group(
            group, context, network.forward(group), network.weights(group), files, room
        )
        if used is not None:
            kept[group.name] = used
    return files, stem_maps, kept


def _last(variant: Variant, files: Files, head: HeadCode) -> jax.Array:
    file = files[f"s{variant.stages - 1}"]
    return lax.dynamic_slice_in_dim(file, head.register, variant.max_concat)


def logits(
    variant: Variant,
    tables: Tables,
    programs: Programs,
    images: jax.Array,
    context: OpContext = DEFAULT,
) -> jax.Array:
    """Runs every network of a meta-batch on the same images.

    Args:
      variant: the class of the networks (static).
      tables: their parameters.
      programs: the networks.
      images: [B, S, S, 3], normalised; its dtype is the dtype of the computation.
      context: further static choices.

    Returns:
      Logits, float32 [M, B, K].
    """
    return _logits(variant, context, tables, programs, images, None)


def _logits(
    variant: Variant,
    context: OpContext,
    tables: Tables,
    programs: Programs,
    images: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    def run(files, i):
        network = _network(tables, programs, i)
        files, *_ = _run_forward(
            variant, context, network, images, _cleared(files, programs, i), None
        )
        code = network.program.head
        last = _last(variant, files, code)
        return files, head_logits(variant, context, network.head, code, last, _fold(key, i))

    files = _empty_files(layout_of(variant), images)
    return lax.scan(run, files, jnp.arange(programs.norm.shape[0]))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 7))
def mean_loss(
    variant: Variant,
    tables: Tables,
    programs: Programs,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    smoothing: jax.Array | float = 0.0,
    context: OpContext = DEFAULT,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy of the networks of a meta-batch, differentiable in `tables`.

    Args:
      variant: the class of the networks (static).
      tables: their parameters.
      programs: the networks.
      images: [B, S, S, 3], normalised; its dtype is the dtype of the computation.
      labels: int32 [B].
      key: PRNG key of the dropout in two-layer heads (consumed); None for no dropout.
      smoothing: label smoothing.
      context: further static choices.

    Returns:
      The loss, and per network `loss` [M] and `accuracy` [M].

    Raises:
      ValueError: a gradient with norms on the statistics of the first images is asked for.
    """
    out = _logits(variant, context, tables, programs, images, key)
    losses, accuracies = jax.vmap(lambda row: _score(row, labels, smoothing))(out)
    return jnp.mean(losses), {"loss": losses, "accuracy": accuracies}


def _score(out, labels, smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(labels, out.shape[-1]), smoothing)
    loss = jnp.mean(optax.softmax_cross_entropy(out, targets))
    return loss, jnp.mean((jnp.argmax(out, axis=-1) == labels).astype(jnp.float32))


def _mean_loss_fwd(variant, tables, programs, images, labels, key, smoothing, context):
    """Runs each network forwards and, at once, backwards, so that its registers are freed.

    The loss is linear in its cotangent, so the gradient can be computed here and scaled later.
    """
    context.require_gradient()
    layout, count = layout_of(variant), programs.norm.shape[0]

    def run(carry, i):
        g_mats, g_vecs, files, cotangents, norms = carry
        network = _network(tables, programs, i)
        stem, head = network.program.stem, network.program.head
        files, stem_maps, norms = _run_forward(
            variant, context, network, images, _cleared(files, programs, i), norms
        )
        cotangents = _cleared(cotangents, programs, i)

        def tail(states, params):
            out = head_logits(variant, context, params, head, states, _fold(key, i))
            loss, accuracy = _score(out, labels, smoothing)
            return loss / count, (loss, accuracy)

        states = _last(variant, files, head)
        _, pull, scores = jax.vjp(tail, states, network.head, has_aux=True)
        g_states, g_head = pull(jnp.ones(()))
        last = f"s{variant.stages - 1}"
        cotangents = {**cotangents, last: write_rows(cotangents[last], head.register, g_states)}
        for group in reversed(layout.groups):
            m, v = group.mats, group.vecs
            cotangents, gradient = pull_group(
                group,
                context,
                network.backward(group),
                network.weights(group),
                (files, norms[group.name]),
                cotangents,
                Weights(g_mats[m], g_vecs[v]),
            )
            g_mats, g_vecs = {**g_mats, m: gradient.mats}, {**g_vecs, v: gradient.vecs}

        g_maps = cotangents["s0"][: variant.stem_slots]
        g_stem = pull_stem(
            variant, context, network.stem, network.stem_inputs(images), stem_maps, g_maps
        )
        g_mats = {**g_mats, "s0": write_rows(g_mats["s0"], stem.mat, g_stem.mats)}
        g_vecs = {**g_vecs, "s0": write_rows(g_vecs["s0"], stem.vec, g_stem.vecs)}
        own = scores, g_stem.kernel, g_stem.positions, g_head
        return (g_mats, g_vecs, files, cotangents, norms), own

    files = _empty_files(layout, images)
    cotangents = jax.tree.map(jnp.zeros_like, files)
    norms = {
        group.name: empty_norms(group, files, tables.vecs[group.vecs]) for group in layout.groups
    }
    zeros = jax.tree.map(jnp.zeros_like, (tables.mats, tables.vecs))
    carry, (scores, g_kernel, g_positions, g_head) = lax.scan(
        run, (*zeros, files, cotangents, norms), jnp.arange(count)
    )
    g_mats, g_vecs, *_ = carry
    gradient = Tables(
        mats=g_mats,
        vecs=g_vecs,
        stem=g_kernel,
        positions=g_positions,
        **g_head._asdict(),
    )
    losses, accuracies = scores
    return (jnp.mean(losses), {"loss": losses, "accuracy": accuracies}), gradient


def _mean_loss_bwd(variant, context, gradient, cotangent):
    del variant, context
    scaled = jax.tree.map(lambda g: g * cotangent[0], gradient)
    return scaled, None, None, None, None, None


mean_loss.defvjp(_mean_loss_fwd, _mean_loss_bwd)
