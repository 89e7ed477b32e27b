"""Runs a network step by step from the host.

Legend: `B` images, `S` pixels of an image, `K` classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.hostloop.functions import Function, Source, StepFunctions
from ppuda_jax.hostloop.pages import Place, blocks_of
from ppuda_jax.hostloop.predictor import Pages
from ppuda_jax.hostloop.steps import Step


class Call(NamedTuple):
    """One step, ready to run.

    Attributes:
      step: what it is.
      function: compiled.
      params: pages or leaves, with the first rows of the parameters.
      freed: maps that no later step reads.
    """

    step: Step
    function: Function
    params: tuple[tuple[jax.Array, ...], jax.Array]
    freed: tuple[int, ...]


def calls_of_pages(
    functions: StepFunctions, steps: Sequence[Step], places: Sequence[Place], pages: Pages
) -> tuple[Call, ...]:
    """A network with the parameters in `pages`; compiles what is not compiled yet."""
    functions.request("pages", (step.key for step in steps))
    params = [
        tuple(
            pages[block][page] for block, page in zip(blocks_of(step.key), place.pages, strict=True)
        )
        for step, place in zip(steps, places, strict=True)
    ]
    return _calls(functions, "pages", steps, params, [place.starts for place in places])


def calls_of_leaves(
    functions: StepFunctions, steps: Sequence[Step], leaves: Sequence[jax.Array]
) -> tuple[Call, ...]:
    """A network with its parameters in the order of `plan.params`."""
    functions.request("leaves", (step.key for step in steps))
    params = [tuple(leaves[number] for number in step.params) for step in steps]
    starts = [np.zeros(len(step.params), np.int32) for step in steps]
    return _calls(functions, "leaves", steps, params, starts)


def _calls(
    functions: StepFunctions,
    source: Source,
    steps: Sequence[Step],
    params: Sequence[tuple[jax.Array, ...]],
    starts: Sequence[np.ndarray],
) -> tuple[Call, ...]:
    return tuple(
        Call(step, functions.get(source, step.key), (own, jnp.asarray(first)), freed)
        for step, own, first, freed in zip(steps, params, starts, last_uses(steps), strict=True)
    )


def last_uses(steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """Of each step, the maps that no later step reads."""
    seen: set[int] = set()
    freed = []
    for step in reversed(steps):
        new = tuple(value for value in dict.fromkeys(step.inputs) if value not in seen)
        seen.update(new)
        freed.append(new)
    return freed[::-1]


def run(calls: Sequence[Call], images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Runs a network.

    Args:
      calls: the network.
      images: [B, S, S, 3], normalised, in the dtype of the functions.
      rng: key of the dropout; for functions that have dropout only.

    Returns:
      Logits [B, K].
    """
    values: dict[int, jax.Array] = {0: images}
    for call in calls:
        step = call.step
        maps = tuple(values[value] for value in step.inputs)
        key = rng if step.key.kind == "dense" and step.key.relu else None
        values[step.output] = call.function(*call.params, maps, key)
        for value in call.freed:
            del values[value]
    return values[calls[-1].step.output]
