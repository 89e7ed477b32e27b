"""Both ends of a network in the executor: the stem before the groups, the head after them.

Legend: `B` images, `S` pixels of an image, `H` of a feature map, `C` channels, `K`
classes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.executor.columns import HeadCode, StemCode
from ppuda_jax.executor.layout import STEM_KERNELS, Variant
from ppuda_jax.nets import norms, ops
from ppuda_jax.nets.context import OpContext


def padded(rows: jax.Array, count: int) -> jax.Array:
    """Rows [n, ...] with zeros up to [count, ...]."""
    return jnp.pad(rows, [(0, count - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))


def _stride(variant: Variant) -> int:
    return 1 if variant.image_size == 32 else 4


def _early_stride(variant: Variant) -> int:
    """Stride of each of the first two convolutions of the ImageNet style."""
    return _stride(variant) // 2 or 1


def _halved(variant: Variant) -> bool:
    return variant.size * _stride(variant) != variant.image_size


class Stem(NamedTuple):
    """Parameters of a stem, or their cotangents.

    Attributes:
      kernel: the first convolution, see `arrays.Tables`.
      positions: positional encoding.
      mats: [STEM_MATS, C, C] further convolutions.
      vecs: [STEM_VECS, C] norms.
    """

    kernel: jax.Array
    positions: jax.Array
    mats: jax.Array
    vecs: jax.Array


class StemMaps(NamedTuple):
    """What the convolutions of a stem give, before their norms.

    They are kept so that the gradient runs none of them twice. Those that the network's stem does
    not have are zeros, and empty where no network of the variant has them.

    Attributes:
      simple: [B, H', H', slots * C], the only one of a simple stem.
      first: [B, H', H', C / 2], of the ImageNet style.
      second: [B, H'', H'', C].
      third: [B, H, H, C].
    """

    simple: jax.Array
    first: jax.Array
    second: jax.Array
    third: jax.Array


class StemInputs(NamedTuple):
    """What a stem runs on, besides its parameters.

    Attributes:
      code: which stem, int32 [] each.
      gate: float32 [], 1 if the network has norms, else 0.
      images: [B, S, S, 3].
    """

    code: StemCode
    gate: jax.Array
    images: jax.Array


def run_stem(
    variant: Variant, context: OpContext, params: Stem, inputs: StemInputs
) -> tuple[jax.Array, StemMaps]:
    """Runs the stem.

    Args:
      variant: the class of the network (static).
      context: further static choices.
      params: its parameters.
      inputs: what it runs on.

    Returns:
      Its outputs [slots, B, H, H, C], and what `pull_stem` needs.
    """
    code, gate, images = inputs
    none = jnp.zeros((0,), images.dtype)
    if variant.attention:
        return _patches(variant, context, params.kernel, params.positions, images), StemMaps(
            *[none] * 4
        )
    simple, first = lax.switch(code.kind, _first_convs(variant, context, images), params.kernel)
    if not _halved(variant):
        maps = _simple_outputs(variant, context, gate, simple, params.vecs)
        return maps, StemMaps(simple, none, none, none)

    def run_simple(simple, first):
        del first
        return _simple_outputs(variant, context, gate, simple, params.vecs), *zeros

    def run_published(simple, first):
        del simple
        second = _second_conv(variant, context, gate, first, params.mats, params.vecs)
        third = _third_conv(variant, context, gate, second, params.mats, params.vecs)
        return (
            _published_outputs(variant, context, inputs, second, third, params.mats, params.vecs),
            second,
            third,
        )

    _, *shapes = jax.eval_shape(run_published, simple, first)
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    maps, second, third = lax.cond(_is_published(code), run_published, run_simple, simple, first)
    return maps, StemMaps(simple, first, second, third)


def pull_stem(
    variant: Variant,
    context: OpContext,
    params: Stem,
    inputs: StemInputs,
    kept: StemMaps,
    g: jax.Array,
) -> Stem:
    """Cotangents of the parameters, given that of the outputs; see `run_stem`."""
    kernel, positions, mats, vecs = params
    code, gate, images = inputs
    if variant.attention:
        _, pull = jax.vjp(lambda k, p: _patches(variant, context, k, p, images), kernel, positions)
        g_kernel, g_positions = pull(g)
        return Stem(g_kernel, g_positions, jnp.zeros_like(mats), jnp.zeros_like(vecs))

    def pull_simple(g):
        _, pull = jax.vjp(
            lambda x, v: _simple_outputs(variant, context, gate, x, v), kept.simple, vecs
        )
        g_simple, g_vecs = pull(g)
        return g_simple, jnp.zeros_like(kept.first), jnp.zeros_like(mats), g_vecs

    def pull_published(g):
        _, last = jax.vjp(
            functools.partial(_published_outputs, variant, context, inputs),
            kept.second,
            kept.third,
            mats,
            vecs,
        )
        g_second, g_third, *g_last = last(g)
        _, third = jax.vjp(
            functools.partial(_third_conv, variant, context, gate), kept.second, mats, vecs
        )
        g_before, *g_later = third(g_third)
        _, second = jax.vjp(
            functools.partial(_second_conv, variant, context, gate), kept.first, mats, vecs
        )
        g_first, *g_early = second(g_second + g_before)
        sums = [a + b + c for a, b, c in zip(g_last, g_later, g_early, strict=True)]
        return jnp.zeros_like(kept.simple), g_first, *sums

    if _halved(variant):
        *g_maps, g_mats, g_vecs = lax.cond(_is_published(code), pull_published, pull_simple, g)
    else:
        *g_maps, g_mats, g_vecs = pull_simple(g)

    def pull_first(conv, g_maps):
        return jax.vjp(conv, kernel)[1](tuple(g_maps))[0]

    pulls = [functools.partial(pull_first, conv) for conv in _first_convs(variant, context, images)]
    g_kernel = lax.switch(code.kind, pulls, g_maps)
    return Stem(g_kernel, jnp.zeros_like(positions), g_mats, g_vecs)


def _is_published(code: StemCode) -> jax.Array:
    return code.kind >= len(STEM_KERNELS)


def _patches(
    variant: Variant, context: OpContext, kernel: jax.Array, positions: jax.Array, images: jax.Array
):
    """The stem of a ViT."""
    x = ops.patch_conv((kernel.astype(images.dtype),), images, context=context)
    x = ops.pos_enc((positions[None],), x, context=context)
    return padded(x[None], variant.stem_slots)


def _first_convs(variant: Variant, context: OpContext, images: jax.Array):
    """First convolutions by kind of stem: kernel -> (`StemMaps.simple`, `StemMaps.first`)."""

    def conv(kernel, k, published):
        kernel = kernel[:k, :k].astype(images.dtype)
        if published:
            kernel = kernel[..., : variant.width // 2]
            return ops.stem_conv((kernel,), images, stride=_early_stride(variant), context=context)
        return ops.stem_conv((kernel,), images, stride=_stride(variant), context=context)

    def one(kernel, k, published):
        shape = jax.eval_shape(functools.partial(conv, k=k, published=not published), kernel)
        if not _halved(variant):
            shape = jax.ShapeDtypeStruct((0,), images.dtype)
        own, other = conv(kernel, k, published), jnp.zeros(shape.shape, shape.dtype)
        return (other, own) if published else (own, other)

    kinds = (False, True) if _halved(variant) else (False,)
    return [functools.partial(one, k=k, published=kind) for kind in kinds for k in STEM_KERNELS]


def _simple_outputs(
    variant: Variant, context: OpContext, gate: jax.Array, simple: jax.Array, vecs: jax.Array
):
    """Norm (and pool) of a simple stem's map."""
    used = variant.simple_slots
    norm = norms.norm_pool if _halved(variant) else norms.batch_norm
    x = norm(simple, vecs[:used].reshape(-1), vecs[used : 2 * used].reshape(-1), gate, context)
    parts = jnp.moveaxis(x.reshape(*x.shape[:-1], used, variant.width), -2, 0)
    return padded(parts, variant.stem_slots)


def _second_conv(variant, context, gate, first, mats, vecs):
    half = variant.width // 2
    x = norms.batch_norm(first, vecs[0, :half], vecs[1, :half], gate, context)
    kernel = mats[:9, :half].reshape(3, 3, half, variant.width).astype(x.dtype)
    return ops.stem_conv((kernel,), x, stride=_early_stride(variant), relu=True, context=context)


def _third_conv(variant, context, gate, second, mats, vecs):
    x = norms.batch_norm(second, vecs[2], vecs[3], gate, context)
    kernel = mats[9:18].reshape(3, 3, *mats.shape[1:]).astype(x.dtype)
    return ops.stem_conv((kernel,), x, stride=2, relu=True, context=context)


def _published_outputs(variant, context, inputs, second, third, mats, vecs):
    code, gate, _ = inputs
    half = variant.width // 2
    x = norms.batch_norm(second, vecs[2], vecs[3], gate, context)
    halves = mats[18:20, None, None, :, :half].astype(x.dtype)
    reduced = ops.factorized_reduce(
        (halves[0], halves[1], vecs[6], vecs[7], gate), x, context=context
    )
    x = jnp.where(code.preprocess > 0, reduced, ops.subsample((), x, context=context))
    y = norms.batch_norm(third, vecs[4], vecs[5], gate, context)
    return padded(jnp.stack([x, y]), variant.stem_slots)


class Head(NamedTuple):
    """Parameters of a head, or their cotangents; see `arrays.Tables` for the shapes.

    Attributes:
      hidden: first of two dense layers.
      hidden_bias: its bias.
      classifier: last dense layer.
      classifier_bias: its bias.
    """

    hidden: jax.Array
    hidden_bias: jax.Array
    classifier: jax.Array
    classifier_bias: jax.Array


def head_logits(
    variant: Variant,
    context: OpContext,
    params: Head,
    code: HeadCode,
    states: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """The head: the last cell's states to logits.

    Args:
      variant: the class of the network (static).
      context: further static choices.
      params: its parameters.
      code: its numbers, int32 [] each.
      states: [slots, B, H, H, C]; those past the network's own are ignored.
      key: PRNG key for the dropout of two-layer heads, or None to leave it out.

    Returns:
      Logits [B, K] in the dtype of the parameters.
    """
    hidden, hidden_bias, classifier, classifier_bias = params
    used = jnp.arange(states.shape[0]) < code.states
    states = jnp.where(used[:, None, None, None, None], states, jnp.zeros((), states.dtype))
    x = jnp.concatenate(list(states), axis=-1)
    x = (ops.flatten if variant.flat else ops.global_pool)((), x, context=context)
    x = x.astype(classifier.dtype)

    def two_layers(x):
        y = jax.nn.relu(ops.dense((hidden, hidden_bias), x))
        return y if key is None else ops.head_dropout(key, y)

    rows = classifier.shape[0]
    wide = functools.partial(padded, count=rows)
    x = lax.cond(code.layers > 1, lambda x: wide(two_layers(x).T), lambda x: wide(x.T), x).T
    return ops.dense((classifier, classifier_bias), x)
