"""The executor: any network of a variant as data in one compiled function, with its own gradient.

Each group of a layout is a loop whose body switches over the group's instructions; registers and
gradient tables are carried in place, and branches return one feature map and a few rows, never a
file (XLA copies buffers that pass through a conditional). The backward pass walks the program in
reverse and calls each instruction's pullback on the saved registers, recomputing inside the
instruction: the memory of a network is its registers.

Legend: ``M`` networks of a meta-batch, ``B`` images, ``H, W`` pixels, ``C`` channels, ``K``
classes, ``T`` and ``V`` rows of matrices and vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ppuda_jax.executor import branches
from ppuda_jax.executor.layout import STEM_MATS, STEM_VECS, Group, Layout, Variant, layout_of
from ppuda_jax.nets import ops


@chex.dataclass(frozen=True)
class Tables:
    """Parameters of a meta-batch of programs, as rows.

    Attributes:
      mats: table -> float32 [T, I, O].
      vecs: table -> float32 [V, O].
      stem: float32 [M, k, k, 3, S]: first convolution; k = 7 (smaller kernels fill the top left
        corner), or the patch size of a ViT; S = slots of the stem times C (C for a ViT).
      positions: float32 [M, H, H, C]: positional encoding of a ViT, [M, 0] without.
      hidden: float32 [M, F, D] and hidden_bias [M, D]: first dense layer of two, F features.
      classifier: float32 [M, max(F, D), K] and classifier_bias [M, K].
    """

    mats: Mapping[str, jax.Array]
    vecs: Mapping[str, jax.Array]
    stem: jax.Array
    positions: jax.Array
    hidden: jax.Array
    hidden_bias: jax.Array
    classifier: jax.Array
    classifier_bias: jax.Array


@chex.dataclass(frozen=True)
class Programs:
    """A meta-batch of programs with absolute row numbers, padded to the groups' caps.

    Attributes:
      forward: group -> int32 [M, cap, 5].
      forward_count: group -> int32 [M].
      backward: group -> int32 [M, cap', 6].
      backward_count: group -> int32 [M].
      stem: int32 [M, 4], head: int32 [M, 3] (see ``program.Program``).
      norm: float32 [M], 1 where a network has norms.
    """

    forward: Mapping[str, jax.Array]
    forward_count: Mapping[str, jax.Array]
    backward: Mapping[str, jax.Array]
    backward_count: Mapping[str, jax.Array]
    stem: jax.Array
    head: jax.Array
    norm: jax.Array


def backward_branches(group: Group) -> tuple[tuple[int, int, int, branches.Pullback], ...]:
    """Gradient instructions of a group: (sources, mats, vecs, pullback), in opcode order.

    Inside a file every gradient instruction writes one register: preprocessings of several
    sources become one instruction for the norm and one per source.
    """
    table = [
        (b.sources, b.mats, b.vecs,
         branches.norm_pullback if group.inner and b.sources > 1 else branches.pullback(b))
        for b in group.branches
    ]
    return (*table, (1, 1, 0, branches.linear_pullback)) if group.inner else tuple(table)


def _rows(table, start, count):
    if count == 0:
        return jnp.zeros((0, *table.shape[1:]), table.dtype)
    return lax.dynamic_slice_in_dim(table, start, count)


def _write(table, start, value):
    return lax.dynamic_update_slice_in_dim(table, value, start, 0)


def _padded(rows, count):
    return jnp.pad(rows, [(0, count - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))


def _forward_group(group: Group, code, count, tables: Tables, gate, files):
    """Runs one group on the files and returns them with the target updated."""
    mats, vecs = tables.mats[group.mats], tables.vecs[group.vecs]

    def body(i, target):
        source = target if group.inner else files[group.source]
        opcode, read, write, mat, vec = code[i]

        def run(branch, source):
            return branch.apply(_rows(mats, mat, branch.mats), _rows(vecs, vec, branch.vecs),
                                lax.dynamic_slice_in_dim(source, read, branch.sources), gate)

        y = lax.switch(opcode, [functools.partial(run, b) for b in group.branches], source)
        return _write(target, write, lax.dynamic_slice_in_dim(target, write, 1) + y[None])

    return {**files, group.target: lax.fori_loop(0, count, body, files[group.target])}


def _backward_group(group: Group, code, count, tables: Tables, gate, files, cotangents, g_mats,
                    g_vecs):
    """Walks one group backwards; returns cotangents of the files and gradients of the tables."""
    mats, vecs = tables.mats[group.mats], tables.vecs[group.vecs]
    source = files[group.source]
    table = backward_branches(group)
    slots = 1 if group.inner else group.max_sources
    most_mats, most_vecs = max(t[1] for t in table), max(t[2] for t in table)

    def run(entry, cotangent, i):
        sources, n_mats, n_vecs, pull = entry
        _, read, _, _, mat, vec = code[i]
        gm, gv, gx = pull(_rows(mats, mat, n_mats), _rows(vecs, vec, n_vecs),
                          lax.dynamic_slice_in_dim(source, read, sources), gate, cotangent)
        gm = jnp.zeros((0, *mats.shape[1:]), mats.dtype) if gm is None else gm
        gv = jnp.zeros((0, *vecs.shape[1:]), vecs.dtype) if gv is None else gv
        return _padded(gm, most_mats), _padded(gv, most_vecs), _padded(gx, slots)

    def body(i, carry):
        ct_source, ct_target, gm_table, gv_table = carry
        opcode, _, write, out, mat, vec = code[i]
        cotangent = lax.dynamic_index_in_dim(ct_source if group.inner else ct_target, write,
                                             keepdims=False)
        gm, gv, gx = lax.switch(opcode, [functools.partial(run, entry) for entry in table],
                                cotangent, i)
        # A norm's cotangent replaces its output's; every other one is added to its source's.
        replace = (out == write) if group.inner else False
        before = lax.dynamic_slice_in_dim(ct_source, out, slots)
        ct_source = _write(ct_source, out, jnp.where(replace, gx, before + gx))
        return (ct_source, ct_target, _write(gm_table, mat, gm) if most_mats else gm_table,
                _write(gv_table, vec, gv) if most_vecs else gv_table)

    # An inner group's target is its source; a scalar stands in for it in the carry.
    ct_target = jnp.zeros(()) if group.inner else cotangents[group.target]
    ct_source, ct_target, gm, gv = lax.fori_loop(
        0, count, body,
        (cotangents[group.source], ct_target, g_mats[group.mats], g_vecs[group.vecs]))
    cotangents = {**cotangents, group.source: ct_source}
    return cotangents, {**g_mats, group.mats: gm}, {**g_vecs, group.vecs: gv}


def _stem(variant: Variant, kernel, positions, mats, vecs, stem, gate, images):
    """The stem: [B, S, S, 3] -> [slots, B, H, H, C]."""
    dtype = images.dtype
    kernel, mats = kernel.astype(dtype), mats.astype(dtype)
    width, slots = variant.width, variant.stem_slots
    if variant.attention:
        x = ops.patch_conv((kernel,), images)
        x = ops.pos_enc((positions[None],), x)
        return _padded(x[None], slots)
    full = 1 if variant.image_size == 32 else 4
    halved = variant.size * full != variant.image_size

    def simple(k):
        slots_used = kernel.shape[-1] // width
        scale, shift = vecs[:slots_used].reshape(-1), vecs[slots_used : 2 * slots_used].reshape(-1)
        x = ops.stem_conv((kernel[:k, :k], scale, shift, gate), images, stride=full)
        x = ops.stem_pool((), x) if halved else x
        parts = jnp.moveaxis(x.reshape(*x.shape[:-1], slots_used, width), -2, 0)
        return _padded(parts, slots)

    def published(k):
        half, taps, stride = width // 2, mats.reshape(-1, width, width), full // 2 or 1
        x = ops.stem_conv((kernel[:k, :k, :, :half], vecs[0, :half], vecs[1, :half], gate),
                          images, stride=stride)
        second = taps[:9, :half].reshape(3, 3, half, width)
        x = ops.stem_conv((second, vecs[2], vecs[3], gate), x, stride=stride, relu=True)
        third = taps[9:18].reshape(3, 3, width, width)
        y = ops.stem_conv((third, vecs[4], vecs[5], gate), x, stride=2, relu=True)
        halves = taps[18:20, :, :half].reshape(2, 1, 1, width, half)
        reduced = ops.factorized_reduce((halves[0], halves[1], vecs[6], vecs[7], gate), x)
        x = jnp.where(stem[3] > 0, reduced, ops.subsample((), x))
        return _padded(jnp.stack([x, y]), slots)

    kinds = [functools.partial(simple, k) for k in (3, 5, 7)]
    if halved:
        kinds += [functools.partial(published, k) for k in (3, 5, 7)]
    return lax.switch(stem[0], kinds)


def _head(variant: Variant, hidden, hidden_bias, classifier, classifier_bias, head, states, key):
    """The head: the last cell's states [slots, B, H, W, C] -> logits float32 [B, K].

    ``key`` is a PRNG key for the dropout of two-layer heads, or None to leave it out.
    """
    used = jnp.arange(states.shape[0]) < head[1]
    states = jnp.where(used[:, None, None, None, None], states, jnp.zeros((), states.dtype))
    x = jnp.concatenate(list(states), axis=-1)
    x = (ops.flatten((), x) if variant.flat else ops.global_pool((), x)).astype(jnp.float32)

    def two_layers(x):
        y = jax.nn.relu(ops.dense((hidden, hidden_bias), x))
        return y if key is None else ops.head_dropout(key, y)

    rows = classifier.shape[0]
    wide = functools.partial(_padded, count=rows)
    x = lax.cond(head[2] > 1, lambda x: wide(two_layers(x).T), lambda x: wide(x.T), x).T
    return ops.dense((classifier, classifier_bias), x)


def _stem_rows(tables: Tables, stem):
    mats, vecs = tables.mats["s0"], tables.vecs["s0"]
    return _rows(mats, stem[1], STEM_MATS), _rows(vecs, stem[2], STEM_VECS)


def _fold(key, i):
    return None if key is None else jax.random.fold_in(key, i)


def _one(tree, i):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _own(tables: Tables, i):
    """The tensors that belong to network i alone."""
    return _one((tables.stem, tables.positions, tables.hidden, tables.hidden_bias,
                 tables.classifier, tables.classifier_bias), i)


def _run_forward(variant: Variant, layout: Layout, tables: Tables, program: Programs, own, images):
    files = {name: jnp.zeros((f.registers, images.shape[0], f.pixels, f.pixels, f.channels),
                             images.dtype) for name, f in layout.files.items()}
    first = _stem(variant, own[0], own[1], *_stem_rows(tables, program.stem), program.stem,
                  program.norm, images)
    files["s0"] = lax.dynamic_update_slice_in_dim(files["s0"], first, 0, 0)
    for group in layout.groups:
        files = _forward_group(group, program.forward[group.name],
                               program.forward_count[group.name], tables, program.norm, files)
    return files


def _last(variant: Variant, files, head):
    return lax.dynamic_slice_in_dim(files[f"s{variant.stages - 1}"], head[0], variant.max_concat)


def logits(variant: Variant, tables: Tables, programs: Programs, images: jax.Array) -> jax.Array:
    """Runs every network of a meta-batch on the same images.

    Args:
      variant: the class of the networks (static).
      tables: their parameters.
      programs: the networks.
      images: [B, S, S, 3], normalised; its dtype is the dtype of the computation.

    Returns:
      Logits, float32 [M, B, K].
    """
    layout = layout_of(variant)

    def run(_, i):
        program, own = _one(programs, i), _own(tables, i)
        files = _run_forward(variant, layout, tables, program, own, images)
        return None, _head(variant, *own[2:], program.head, _last(variant, files, program.head),
                           None)

    return lax.scan(run, None, jnp.arange(programs.norm.shape[0]))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_loss(variant: Variant, tables: Tables, programs: Programs, images: jax.Array,
              labels: jax.Array, key: jax.Array | None, smoothing: jax.Array | float = 0.0
              ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy of the networks of a meta-batch, differentiable in ``tables``.

    Args:
      variant: the class of the networks (static).
      tables: their parameters.
      programs: the networks.
      images: [B, S, S, 3], normalised; its dtype is the dtype of the computation.
      labels: int32 [B].
      key: PRNG key of the dropout in two-layer heads (consumed); None for no dropout.
      smoothing: label smoothing.

    Returns:
      The loss, and per network ``loss`` [M] and ``accuracy`` [M].
    """
    layout = layout_of(variant)

    def run(_, i):
        program, own = _one(programs, i), _own(tables, i)
        files = _run_forward(variant, layout, tables, program, own, images)
        out = _head(variant, *own[2:], program.head, _last(variant, files, program.head),
                    _fold(key, i))
        return None, _score(out, labels, smoothing)

    losses, accuracies = lax.scan(run, None, jnp.arange(programs.norm.shape[0]))[1]
    return jnp.mean(losses), {"loss": losses, "accuracy": accuracies}


def _score(out, labels, smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(labels, out.shape[-1]), smoothing)
    loss = jnp.mean(optax.softmax_cross_entropy(out, targets))
    return loss, jnp.mean((jnp.argmax(out, axis=-1) == labels).astype(jnp.float32))


def _mean_loss_fwd(variant, tables, programs, images, labels, key, smoothing):
    """Runs each network forwards and, at once, backwards, so that its registers are freed.

    The loss is linear in its cotangent, so the gradient can be computed here and scaled later.
    """
    layout, count = layout_of(variant), programs.norm.shape[0]

    def run(carry, i):
        g_mats, g_vecs = carry
        program, own = _one(programs, i), _own(tables, i)
        files = _run_forward(variant, layout, tables, program, own, images)

        def tail(states, *params):
            out = _head(variant, *params, program.head, states, _fold(key, i))
            loss, accuracy = _score(out, labels, smoothing)
            return loss / count, (loss, accuracy)

        _, pull, scores = jax.vjp(tail, _last(variant, files, program.head), *own[2:],
                                  has_aux=True)
        g_states, *g_head = pull(jnp.ones(()))
        cotangents = jax.tree.map(jnp.zeros_like, files)
        last = f"s{variant.stages - 1}"
        cotangents[last] = _write(cotangents[last], program.head[0], g_states)
        for group in reversed(layout.groups):
            cotangents, g_mats, g_vecs = _backward_group(
                group, program.backward[group.name], program.backward_count[group.name], tables,
                program.norm, files, cotangents, g_mats, g_vecs)

        def stem(kernel, positions, mats, vecs):
            return _stem(variant, kernel, positions, mats, vecs, program.stem, program.norm,
                         images)

        _, pull = jax.vjp(stem, own[0], own[1], *_stem_rows(tables, program.stem))
        g_kernel, g_positions, gm, gv = pull(cotangents["s0"][: variant.stem_slots])
        g_mats = {**g_mats, "s0": _write(g_mats["s0"], program.stem[1], gm)}
        g_vecs = {**g_vecs, "s0": _write(g_vecs["s0"], program.stem[2], gv)}
        return (g_mats, g_vecs), (scores, (g_kernel, g_positions, *g_head))

    zeros = jax.tree.map(jnp.zeros_like, (tables.mats, tables.vecs))
    (g_mats, g_vecs), (scores, g_own) = lax.scan(run, zeros, jnp.arange(count))
    stem, positions, hidden, hidden_bias, classifier, classifier_bias = g_own
    gradient = Tables(mats=g_mats, vecs=g_vecs, stem=stem, positions=positions, hidden=hidden,
                      hidden_bias=hidden_bias, classifier=classifier,
                      classifier_bias=classifier_bias)
    losses, accuracies = scores
    return (jnp.mean(losses), {"loss": losses, "accuracy": accuracies}), gradient


def _mean_loss_bwd(variant, gradient, cotangent):
    del variant
    scaled = jax.tree.map(lambda g: g * cotangent[0], gradient)
    return scaled, None, None, None, None, None


mean_loss.defvjp(_mean_loss_fwd, _mean_loss_bwd)


