"""Networks trained from the start: what a choice is worth.

Legend: `S` seeds.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.search.loop import SearchSettings, run_steps
from ppuda_jax.structure.search.one_shot import fixed
from ppuda_jax.structure.search.problem import Problem


def train_fixed(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    settings: SearchSettings,
    choices: dict[Edge, jax.Array],
    seeds: Sequence[int],
) -> Any:
    """Trains networks of fixed choices from new weights, one per seed, on the training objects.

    Args:
      problem: its validation objects are not used.
      optimizer: of the weights.
      settings: the budget.
      choices: functions of every edge, int [S].
      seeds: of the networks.

    Returns:
      Weights, leading axis S.
    """

    def one(key: jax.Array, choice: dict[Edge, jax.Array]) -> Any:
        method = fixed(problem, optimizer, problem.supernet.vertex(choice))
        state = method.init(jax.random.fold_in(key, 0))

        def epoch(state: Any, number: jax.Array) -> tuple[Any, None]:
            return run_steps(problem, method, settings, state, key, number), None

        state, _ = jax.lax.scan(epoch, state, jnp.arange(settings.epochs))
        return method.weights(state)

    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return jax.jit(jax.vmap(one))(keys, choices)
