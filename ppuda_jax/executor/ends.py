"""Both ends of a network in the executor: the stem before the groups, the head after them.

Legend: ``B`` images, ``S`` pixels of an image, ``H`` of a feature map, ``C`` channels, ``K``
classes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.executor.layout import STEM_KERNELS, Variant
from ppuda_jax.nets import norms, ops


def padded(rows: jax.Array, count: int) -> jax.Array:
    """Rows [n, ...] with zeros up to [count, ...]."""
    return jnp.pad(rows, [(0, count - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))


def _stride(variant: Variant) -> int:
    return 1 if variant.image_size == 32 else 4


def _halved(variant: Variant) -> bool:
    return variant.size * _stride(variant) != variant.image_size


def _simple_convs(variant: Variant, images: jax.Array):
    def conv(kernel, k):
        kernel = kernel[:k, :k].astype(images.dtype)
        return ops.stem_conv((kernel,), images, stride=_stride(variant))

    return [functools.partial(conv, k=k) for k in STEM_KERNELS]


def first_map(variant: Variant, kernel: jax.Array, stem: jax.Array, images: jax.Array
              ) -> jax.Array:
    """What a simple stem's convolution gives: [B, H, H, slots * C]; zeros for other stems.

    It is the one expensive map of a stem, so it is kept for the gradient of ``stem_maps``.
    """
    if variant.attention:
        return jnp.zeros((0,), images.dtype)
    convs = _simple_convs(variant, images)
    shape = jax.eval_shape(convs[0], kernel)
    return lax.switch(jnp.minimum(stem[0], len(convs)),
                      [*convs, lambda _: jnp.zeros(shape.shape, shape.dtype)], kernel)


def first_map_pullback(variant: Variant, kernel: jax.Array, stem: jax.Array, images: jax.Array,
                       g: jax.Array) -> jax.Array:
    """Cotangent of the kernel, given that of ``first_map``."""
    if variant.attention:
        return jnp.zeros_like(kernel)

    def pull(conv, g):
        return jax.vjp(conv, kernel)[1](g)[0]

    pulls = [functools.partial(pull, conv) for conv in _simple_convs(variant, images)]
    return lax.switch(jnp.minimum(stem[0], len(pulls)), [*pulls, lambda _: jnp.zeros_like(kernel)],
                      g)


def stem_maps(variant: Variant, first: jax.Array, kernel: jax.Array, positions: jax.Array,
              mats: jax.Array, vecs: jax.Array, stem: jax.Array, gate: jax.Array,
              images: jax.Array) -> jax.Array:
    """The stem's outputs.

    Args:
      variant: the class of the network (static).
      first: see ``first_map``.
      kernel: the first convolution, see ``run.Tables``.
      positions: positional encoding.
      mats: [STEM_MATS, C, C] further convolutions.
      vecs: [STEM_VECS, C] norms.
      stem: see ``program.Program``.
      gate: 1 if the network has norms, else 0.
      images: [B, S, S, 3].

    Returns:
      [slots, B, H, H, C].
    """
    slots = variant.stem_slots
    kernel, mats = kernel.astype(images.dtype), mats.astype(images.dtype)
    if variant.attention:
        x = ops.patch_conv((kernel,), images)
        return padded(ops.pos_enc((positions[None],), x)[None], slots)

    def simple(first):
        width = variant.width
        used = first.shape[-1] // width
        norm = norms.norm_pool if _halved(variant) else norms.batch_norm
        x = norm(first, vecs[:used].reshape(-1), vecs[used : 2 * used].reshape(-1), gate)
        parts = jnp.moveaxis(x.reshape(*x.shape[:-1], used, width), -2, 0)
        return padded(parts, slots)

    if not _halved(variant):
        return simple(first)
    published = [functools.partial(_published, variant, kernel, mats, vecs, stem, gate, images, k)
                 for k in STEM_KERNELS]
    return lax.switch(jnp.maximum(stem[0] - len(STEM_KERNELS) + 1, 0),
                      [simple, *(lambda _, run=run: run() for run in published)], first)


def _published(variant, kernel, mats, vecs, stem, gate, images, k):
    """The ImageNet-style stem: three convolutions, the last two after a ReLU."""
    width = variant.width
    half, taps, stride = width // 2, mats.reshape(-1, width, width), _stride(variant) // 2 or 1
    x = ops.stem_conv((kernel[:k, :k, :, :half], vecs[0, :half], vecs[1, :half], gate),
                      images, stride=stride)
    second = taps[:9, :half].reshape(3, 3, half, width)
    x = ops.stem_conv((second, vecs[2], vecs[3], gate), x, stride=stride, relu=True)
    third = taps[9:18].reshape(3, 3, width, width)
    y = ops.stem_conv((third, vecs[4], vecs[5], gate), x, stride=2, relu=True)
    halves = taps[18:20, :, :half].reshape(2, 1, 1, width, half)
    reduced = ops.factorized_reduce((halves[0], halves[1], vecs[6], vecs[7], gate), x)
    x = jnp.where(stem[3] > 0, reduced, ops.subsample((), x))
    return padded(jnp.stack([x, y]), variant.stem_slots)


def head_logits(variant: Variant, hidden: jax.Array, hidden_bias: jax.Array,
                classifier: jax.Array, classifier_bias: jax.Array, head: jax.Array,
                states: jax.Array, key: jax.Array | None) -> jax.Array:
    """The head: the last cell's states to logits.

    Args:
      variant: the class of the network (static).
      hidden: first of two dense layers, see ``run.Tables``.
      hidden_bias: its bias.
      classifier: last dense layer.
      classifier_bias: its bias.
      head: see ``program.Program``.
      states: [slots, B, H, H, C]; those past the network's own are ignored.
      key: PRNG key for the dropout of two-layer heads, or None to leave it out.

    Returns:
      Logits [B, K] in the dtype of the parameters.
    """
    used = jnp.arange(states.shape[0]) < head[1]
    states = jnp.where(used[:, None, None, None, None], states, jnp.zeros((), states.dtype))
    x = jnp.concatenate(list(states), axis=-1)
    x = (ops.flatten((), x) if variant.flat else ops.global_pool((), x)).astype(classifier.dtype)

    def two_layers(x):
        y = jax.nn.relu(ops.dense((hidden, hidden_bias), x))
        return y if key is None else ops.head_dropout(key, y)

    rows = classifier.shape[0]
    wide = functools.partial(padded, count=rows)
    x = lax.cond(head[2] > 1, lambda x: wide(two_layers(x).T), lambda x: wide(x.T), x).T
    return ops.dense((classifier, classifier_bias), x)
