"""What a search method is to the loop: a state that is a pytree, and how a step changes it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.supernet import Numbers

Logits = dict[Edge, jax.Array]
"""Logits of the functions of every edge, [K] each."""
State = Any
"""A pytree: whatever a method keeps between steps."""
Choose = Callable[[State, jax.Array, Callable[[Numbers], jax.Array]], dict[Edge, jax.Array]]
"""(state, key, score of a network on the validation objects) -> the function of every edge."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A search method; all functions are pure and are mapped over seeds.

    Attributes:
      name: what reports call it.
      init: key -> state.
      step: (state, training batch, validation batch, key, number of the step []) -> state.
      logits: of a state: softmax gives the weights of functions that are discretised.
      weights: of a state: what a chosen network is evaluated with.
      choose: a choice that is not what the logits are discretised to; None for that.
      temperature: of the relaxation, for reports; None without one.
    """

    name: str
    init: Callable[[jax.Array], State]
    step: Callable[[State, Objects, Objects, jax.Array, jax.Array], State]
    logits: Callable[[State], Logits]
    weights: Callable[[State], Any]
    choose: Choose | None = None
    temperature: optax.Schedule | None = None


def update(
    optimizer: optax.GradientTransformation, gradient: Any, state: optax.OptState, params: Any
) -> tuple[Any, optax.OptState]:
    """One step of an optimiser: new parameters and state."""
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state
