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

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ppuda_jax.executor.ends import Stem, StemMaps, head_logits, pull_stem, run_stem
from ppuda_jax.executor.groups import (
    Files,
    Norms,
    empty_norms,
    pull_group,
    read_rows,
    run_group,
    write_rows,
)
from ppuda_jax.executor.layout import STEM_MATS, STEM_VECS, Layout, Variant, layout_of


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
      forward: group -> int32 [M, cap, 7], see `program.Program`.
      forward_count: group -> int32 [M].
      backward: group -> int32 [M, cap', 7].
      backward_count: group -> int32 [M].
      stem: int32 [M, 4], head: int32 [M, 3] (see `program.Program`).
      norm: float32 [M], 1 where a network has norms.
      registers: file -> int32 [M], registers in use.
    """

    forward: Mapping[str, jax.Array]
    forward_count: Mapping[str, jax.Array]
    backward: Mapping[str, jax.Array]
    backward_count: Mapping[str, jax.Array]
    stem: jax.Array
    head: jax.Array
    norm: jax.Array
    registers: Mapping[str, jax.Array]


def _stem_of(tables: Tables, own, stem) -> Stem:
    mats, vecs = tables.mats["s0"], tables.vecs["s0"]
    return Stem(
        own[0], own[1], read_rows(mats, stem[1], STEM_MATS), read_rows(vecs, stem[2], STEM_VECS)
    )


def _fold(key, i):
    return None if key is None else jax.random.fold_in(key, i)


def _one(tree, i):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _own(tables: Tables, i):
    """The tensors that belong to network i alone."""
    return _one(
        (
            tables.stem,
            tables.positions,
            tables.hidden,
            tables.hidden_bias,
            tables.classifier,
            tables.classifier_bias,
        ),
        i,
    )


def _empty_files(layout: Layout, images):
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
    layout: Layout,
    tables: Tables,
    program: Programs,
    own,
    images,
    files: Files,
    norms: Mapping[str, Norms] | None,
) -> tuple[Files, StemMaps, dict[str, Norms | None]]:
    """Runs the stem and all groups on cleared files: files, maps of the stem, norms.

    Norms are kept in the given buffers, or not at all without.
    """
    maps, stem_maps = run_stem(
        variant, _stem_of(tables, own, program.stem), program.stem, program.norm, images
    )
    files = {**files, "s0": write_rows(files["s0"], 0, maps)}
    kept = {}
    for group in layout.groups:
        files, kept[group.name] = run_group(
            group,
            program.forward[group.name],
            program.forward_count[group.name],
            tables.mats[group.mats],
            tables.vecs[group.vecs],
            program.norm,
            files,
            norms[group.name] if norms else None,
        )
    return files, stem_maps, kept


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
    return _logits(variant, tables, programs, images, None)


def _logits(variant, tables, programs, images, key):
    layout = layout_of(variant)

    def run(files, i):
        program, own = _one(programs, i), _own(tables, i)
        files, *_ = _run_forward(
            variant, layout, tables, program, own, images, _cleared(files, programs, i), None
        )
        last = _last(variant, files, program.head)
        return files, head_logits(variant, *own[2:], program.head, last, _fold(key, i))

    files = _empty_files(layout, images)
    return lax.scan(run, files, jnp.arange(programs.norm.shape[0]))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_loss(
    variant: Variant,
    tables: Tables,
    programs: Programs,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    smoothing: jax.Array | float = 0.0,
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

    Returns:
      The loss, and per network `loss` [M] and `accuracy` [M].
    """
    out = _logits(variant, tables, programs, images, key)
    losses, accuracies = jax.vmap(lambda row: _score(row, labels, smoothing))(out)
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
        g_mats, g_vecs, files, cotangents, norms = carry
        program, own = _one(programs, i), _own(tables, i)
        files, stem_maps, norms = _run_forward(
            variant, layout, tables, program, own, images, _cleared(files, programs, i), norms
        )
        cotangents = _cleared(cotangents, programs, i)

        def tail(states, *params):
            out = head_logits(variant, *params, program.head, states, _fold(key, i))
            loss, accuracy = _score(out, labels, smoothing)
            return loss / count, (loss, accuracy)

        _, pull, scores = jax.vjp(tail, _last(variant, files, program.head), *own[2:], has_aux=True)
        g_states, *g_head = pull(jnp.ones(()))
        last = f"s{variant.stages - 1}"
        g_last = write_rows(cotangents[last], program.head[0], g_states)
        cotangents = {**cotangents, last: g_last}
        for group in reversed(layout.groups):
            m, v = group.mats, group.vecs
            cotangents, gm, gv = pull_group(
                group,
                program.backward[group.name],
                program.backward_count[group.name],
                tables.mats[m],
                tables.vecs[v],
                program.norm,
                files,
                norms[group.name],
                cotangents,
                g_mats[m],
                g_vecs[v],
            )
            g_mats, g_vecs = {**g_mats, m: gm}, {**g_vecs, v: gv}

        g_stem = pull_stem(
            variant,
            _stem_of(tables, own, program.stem),
            program.stem,
            program.norm,
            images,
            stem_maps,
            cotangents["s0"][: variant.stem_slots],
        )
        g_mats = {**g_mats, "s0": write_rows(g_mats["s0"], program.stem[1], g_stem.mats)}
        g_vecs = {**g_vecs, "s0": write_rows(g_vecs["s0"], program.stem[2], g_stem.vecs)}
        return (
            (g_mats, g_vecs, files, cotangents, norms),
            (scores, (g_stem.kernel, g_stem.positions, *g_head)),
        )

    files = _empty_files(layout, images)
    cotangents = jax.tree.map(jnp.zeros_like, files)
    norms = {
        group.name: empty_norms(group, files, tables.vecs[group.vecs]) for group in layout.groups
    }
    zeros = jax.tree.map(jnp.zeros_like, (tables.mats, tables.vecs))
    carry, (scores, g_own) = lax.scan(run, (*zeros, files, cotangents, norms), jnp.arange(count))
    g_mats, g_vecs, *_ = carry
    stem, positions, hidden, hidden_bias, classifier, classifier_bias = g_own
    gradient = Tables(
        mats=g_mats,
        vecs=g_vecs,
        stem=stem,
        positions=positions,
        hidden=hidden,
        hidden_bias=hidden_bias,
        classifier=classifier,
        classifier_bias=classifier_bias,
    )
    losses, accuracies = scores
    return (jnp.mean(losses), {"loss": losses, "accuracy": accuracies}), gradient


def _mean_loss_bwd(variant, gradient, cotangent):
    del variant
    scaled = jax.tree.map(lambda g: g * cotangent[0], gradient)
    return scaled, None, None, None, None, None


mean_loss.defvjp(_mean_loss_fwd, _mean_loss_bwd)
