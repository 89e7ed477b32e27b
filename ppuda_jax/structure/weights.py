"""Where the weights of a network come from: the one interface of all families and searches.

A network is scored, compared or put into an ensemble with weights from a `Source`:

- `trained`: from the start, for each network by itself;
- `shared`: those that a search trained for all networks at once;
- `predicted`: by a hypernetwork from the network's graph, without training.

What differs between networks is data, so that one compiled program serves all of them.

Legend: `K` functions of an edge.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.search.loop import SearchSettings, run_steps
from ppuda_jax.structure.search.one_shot import fixed
from ppuda_jax.structure.search.problem import Problem, Worth
from ppuda_jax.structure.supernet import Numbers


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights of the networks of a supernet.

    Attributes:
      name: what reports call it.
      inputs: `(choice, seed) -> inputs`, what the weights are made from, as arrays whose shapes do
        not depend on the choice.
      weights: `inputs -> weights` of the supernet; pure. What the network does not have may be
        anything.
    """

    name: str
    inputs: Callable[[Choice, int], Any]
    weights: Callable[[Any], Any]

    @functools.cached_property
    def _compiled(self) -> Callable[[Any], Any]:
        return jax.jit(self.weights)

    def of(self, choice: Choice, seed: int = 0) -> Any:
        """The weights of one network."""
        return self._compiled(self.inputs(choice, seed))


class Predictor(Protocol):
    """A hypernetwork for the networks of one supernet."""

    def inputs(self, choice: Choice) -> Any:
        """The hypernetwork's parameters, and what it reads of a network, as arrays."""
        ...

    def weights(self, inputs: Any) -> Any:
        """Weights of the supernet from `inputs`; pure."""
        ...


def trained(
    problem: Problem, optimizer: optax.GradientTransformation, settings: SearchSettings
) -> Source:
    """Every network is trained from the start on the training objects; the seed draws its weights.

    Args:
      problem: its validation objects are not used.
      optimizer: of the weights.
      settings: the budget.
    """

    def inputs(choice: Choice, seed: int) -> tuple[jax.Array, dict[Edge, jax.Array]]:
        return jax.random.key(seed), as_numbers(choice)

    def weights(inputs: tuple[jax.Array, dict[Edge, jax.Array]]) -> Any:
        key, numbers = inputs
        method = fixed(problem, optimizer, numbers)

        def epoch(state: Any, number: jax.Array) -> tuple[Any, None]:
            return run_steps(problem, method, settings, state, key, number), None

        start = method.init(jax.random.fold_in(key, 0))
        state, _ = jax.lax.scan(epoch, start, jnp.arange(settings.epochs))
        return method.weights(state)

    return Source("trained", inputs, weights)


def shared(weights: Any) -> Source:
    """All networks have the same weights, of which each uses its part.

    Args:
      weights: of the supernet: `method.weights(result.state)` of one seed of a search.
    """
    return Source("shared", lambda choice, seed: weights, _as_they_are)


def _as_they_are(weights: Any) -> Any:
    # One function, so that what is compiled serves all shared weights.
    return weights


def predicted(predictor: Predictor) -> Source:
    """A hypernetwork predicts the weights of each network; the seed has no effect."""
    return Source("predicted", lambda choice, seed: predictor.inputs(choice), predictor.weights)


def as_numbers(choice: Choice) -> dict[Edge, jax.Array]:
    """A choice as data."""
    return {edge: jnp.asarray(number, jnp.int32) for edge, number in choice.items()}


class Judge:
    """What networks are worth on a problem's validation objects."""

    def __init__(self, problem: Problem) -> None:
        """Nothing is compiled before the first network."""
        self._problem = problem

        def run(weights: Callable[[Any], Any], inputs: Any, numbers: Numbers) -> Worth:
            return problem.evaluate(weights(inputs), numbers)

        self._run = jax.jit(run, static_argnums=0)

    def __call__(self, source: Source, choice: Choice, seed: int = 0) -> Worth:
        """Loss and score of a network; the worst there are if nothing reaches its output.

        Args:
          source: of its weights.
          choice: the network.
          seed: of the source.
        """
        if not self._problem.supernet.connected(choice):
            return Worth(float("inf"), float("-inf"))
        worth = self._run(source.weights, source.inputs(choice, seed), as_numbers(choice))
        return Worth(float(worth.loss), float(worth.score))
