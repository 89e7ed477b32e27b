"""Networks trained from the start: what a choice is worth.

Legend: `S` seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.search.loop import SearchSettings, run_steps
from ppuda_jax.structure.search.one_shot import fixed
from ppuda_jax.structure.search.problem import Problem

Trainer = Callable[[Sequence[int], dict[Edge, jax.Array]], Any]
"""(seeds, functions of every edge [S]) -> weights, leading axis S; compiled once."""


def trainer(
    problem: Problem, optimizer: optax.GradientTransformation, settings: SearchSettings
) -> Trainer:
    """Makes a function that trains networks of fixed choices on the training objects.

    Args:
      problem: its validation objects are not used.
      optimizer: of the weights.
      settings: the budget.
    """

    @jax.jit
    @jax.vmap
    def train(key: jax.Array, choice: dict[Edge, jax.Array]) -> Any:
        method = fixed(problem, optimizer, problem.supernet.vertex(choice))
        state = method.init(jax.random.fold_in(key, 0))

        def epoch(state: Any, number: jax.Array) -> tuple[Any, None]:
            return run_steps(problem, method, settings, state, key, number), None

        state, _ = jax.lax.scan(epoch, state, jnp.arange(settings.epochs))
        return method.weights(state)

    def run(seeds: Sequence[int], choices: dict[Edge, jax.Array]) -> Any:
        return train(jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)), choices)

    return run
