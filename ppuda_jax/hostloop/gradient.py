"""The gradient of a network that is driven from the host, in its pages or in its own parameters.

It is run forwards with its maps kept, and walked backwards: every step has a pullback that
recomputes inside the step alone.

Legend: `B` images, `S` pixels of an image, `K` classes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.hostloop.functions import Name, Source, StepFunctions
from ppuda_jax.hostloop.network import Network
from ppuda_jax.hostloop.pages import blocks_of
from ppuda_jax.hostloop.predictor import Pages
from ppuda_jax.hostloop.run import Call, calls_of_leaves, calls_of_pages
from ppuda_jax.hostloop.steps import Step, StepKey

T = TypeVar("T")

Maps = tuple[jax.Array, ...]
"""Feature maps [B, H, W, C]."""
Pull = Callable[[int, Maps, jax.Array], Maps]
"""(number of a step, its maps, cotangent of its output) -> cotangents of its maps."""


Score = Callable[[jax.Array], tuple[T, jax.Array]]
"""Logits [B, K] -> what is made of them, cotangent of the logits."""

Labelled = tuple[jax.Array, jax.Array]
"""Images [B, S, S, 3], normalised, in the dtype of the functions, and labels int32 [B]."""


class Scores(NamedTuple):
    """How one network does on a batch: float32 [] each."""

    loss: jax.Array
    accuracy: jax.Array


def pages_gradient(
    functions: StepFunctions,
    network: Network,
    pages: Pages,
    images: jax.Array,
    key: jax.Array | None,
    score: Score[T],
) -> tuple[T, Pages]:
    """What is made of a network's logits, and the gradient of its pages.

    Args:
      functions: those of the network's steps.
      network: the network.
      pages: its parameters.
      images: [B, S, S, 3] normalised, in the dtype of the functions.
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      score: what is made of the logits, with their cotangent.
    """
    calls = calls_of_pages(functions, network.steps, network.places, pages)
    gradient = {block: [jnp.zeros_like(page) for page in group] for block, group in pages.items()}

    def pull(number: int, maps: Maps, g: jax.Array) -> Maps:
        call = calls[number]
        owners = list(zip(blocks_of(call.step.key), network.places[number].pages, strict=True))
        written, g_maps = functions.get("pullback", call.step.key)(
            tuple(gradient[block][page] for block, page in owners),
            *call.params,
            maps,
            _key_of(call.step, key),
            g,
        )
        for (block, page), rows in zip(owners, written, strict=True):
            gradient[block][page] = rows
        return g_maps

    scores = walk(calls, images, key, score, pull)
    return scores, {block: tuple(group) for block, group in gradient.items()}


def request_gradient(functions: StepFunctions, source: Source, steps: Sequence[Step]) -> None:
    """Starts to compile what a network's gradient needs and is not compiled yet."""
    keys = [step.key for step in steps]
    functions.request(source, keys)
    pullback: Name = "pullback" if source == "pages" else "leaf_pullback"
    functions.request(pullback, [key for key in reversed(keys) if not _is_plain_sum(key)])


def leaf_gradient(
    functions: StepFunctions,
    steps: Sequence[Step],
    leaves: Sequence[jax.Array],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    smoothing: jax.Array | float = 0.0,
) -> tuple[Scores, list[jax.Array]]:
    """Scores of a network, and the gradient of its loss in its parameters.

    Args:
      functions: those of the network's steps.
      steps: the network.
      leaves: its parameters, in the order of `plan.params`.
      images: [B, S, S, 3] normalised, in the dtype of the functions.
      labels: int32 [B].
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      smoothing: label smoothing.
    """
    score = score_labels(labels, smoothing, 1.0)
    scores, gradient, _ = leaves_gradient(functions, steps, leaves, images, key, score)
    return scores, gradient


def leaves_gradient(
    functions: StepFunctions,
    steps: Sequence[Step],
    leaves: Sequence[jax.Array],
    images: jax.Array,
    key: jax.Array | None,
    score: Score[T],
) -> tuple[T, list[jax.Array], jax.Array | None]:
    """What is made of a network's logits, and the gradient of its parameters and of its images.

    Args:
      functions: those of the network's steps.
      steps: the network; `seeing_images` for the gradient of the images.
      leaves: its parameters, in the order of `plan.params`.
      images: [B, S, S, 3] normalised, in the dtype of the functions.
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      score: what is made of the logits, with their cotangent.

    Returns:
      Scores; gradient of the parameters; gradient of the images, None without `seeing_images`.
    """
    calls = calls_of_leaves(functions, steps, leaves)
    gradient: dict[int, jax.Array] = {}
    of_images: list[jax.Array] = []

    def pull(number: int, maps: Maps, g: jax.Array) -> Maps:
        call = calls[number]
        pullback = functions.get("leaf_pullback", call.step.key)
        g_leaves, g_maps = pullback(*call.params, maps, _key_of(call.step, key), g)
        gradient.update(zip(call.step.params, g_leaves, strict=True))
        of_images.extend(g for g, value in zip(g_maps, call.step.inputs, strict=False) if not value)
        return g_maps

    scores = walk(calls, images, key, score, pull)
    total = functools.reduce(_add, of_images) if of_images else None
    return scores, [gradient[number] for number in range(len(leaves))], total


def seeing_images(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with cotangents of the image, which training does not need."""
    return tuple(step._replace(key=step.key._replace(from_image=False)) for step in steps)


def score_labels(
    labels: jax.Array, smoothing: jax.Array | float, share: jax.Array | float
) -> Score[Scores]:
    """Scores logits by labels; the cotangent is that of `share` times the cross-entropy."""
    return lambda logits: _score(logits, labels, smoothing, share)


def walk(
    calls: Sequence[Call],
    images: jax.Array,
    key: jax.Array | None,
    score: Score[T],
    pull: Pull,
) -> T:
    """Runs a network forwards with its maps kept, and backwards through `pull`."""
    values: dict[int, jax.Array] = {0: images}
    for call in calls:
        maps = tuple(values[value] for value in call.step.inputs)
        values[call.step.output] = call.function(*call.params, maps, _key_of(call.step, key))
    output = calls[-1].step.output
    scores, g_logits = score(values[output])
    cotangents = {output: g_logits}
    for number in reversed(range(len(calls))):
        step = calls[number].step
        g = cotangents.pop(step.output)
        del values[step.output]
        if _is_plain_sum(step.key):
            g_maps: Maps = (g,) * len(step.inputs)
        else:
            g_maps = pull(number, tuple(values[value] for value in step.inputs), g)
        if not step.key.from_image:
            for value, g_map in zip(step.inputs, g_maps, strict=True):
                known = cotangents.get(value)
                cotangents[value] = g_map if known is None else _add(known, g_map)
    return scores


def _is_plain_sum(key: StepKey) -> bool:
    """Whether a step passes its cotangent on as it is."""
    return key.kind == "sum" and all(len(slots) == 1 for slots in key.slots)


def _key_of(step: Step, key: jax.Array | None) -> jax.Array | None:
    return key if step.key.kind == "dense" and step.key.relu else None


@jax.jit
def _score(
    logits: jax.Array, labels: jax.Array, smoothing: jax.Array, share: jax.Array
) -> tuple[Scores, jax.Array]:
    def mean_loss(logits: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    loss, pull = jax.vjp(mean_loss, logits)
    accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
    return Scores(loss, accuracy), pull(share.astype(loss.dtype))[0]


_add = jax.jit(jnp.add)
