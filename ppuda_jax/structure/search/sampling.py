"""Searches that only ask what a network is worth: random search and regularised evolution.

The answer may come from a table, from shared weights, from training, or from predicted weights.

Legend: `K` functions of an edge.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge

Score = Callable[[Choice], float]
"""What a network is worth, the larger the better."""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A finished search.

    Attributes:
      best: the network of the largest score, the first of several.
      score: its score.
      history: every network that was asked for, with its score, in order.
    """

    best: Choice
    score: float
    history: tuple[tuple[Choice, float], ...]


def random_search(
    score: Score, num_functions: Mapping[Edge, int], rng: np.random.Generator, *, queries: int
) -> Sampled:
    """Asks for uniform networks.

    Args:
      score: of a network.
      num_functions: K of every edge.
      rng: source of randomness.
      queries: networks to ask for.

    Raises:
      ValueError: no queries or no edges.
    """
    _check(num_functions, queries)
    drawn = [_uniform(num_functions, rng) for _ in range(queries)]
    return _finished([(choice, score(choice)) for choice in drawn])


def regularised_evolution(
    score: Score,
    num_functions: Mapping[Edge, int],
    rng: np.random.Generator,
    *,
    queries: int,
    population: int = 10,
    tournament: int = 3,
) -> Sampled:
    """Ageing evolution (Real et al. 2019): the best of a tournament has a child, the oldest dies.

    A child differs from its parent by the function of one edge.

    Args:
      score: of a network.
      num_functions: K of every edge.
      rng: source of randomness.
      queries: networks to ask for, the first population among them.
      population: networks that are alive.
      tournament: networks that are drawn, without replacement, for a parent.

    Raises:
      ValueError: no edges, no edge with a choice, or numbers that do not fit together.
    """
    _check(num_functions, queries)
    if not 1 <= tournament <= population <= queries:
        raise ValueError(
            "tournament, population and queries must not fall, from 1 up, received "
            f"{tournament}, {population} and {queries}"
        )
    if all(count < 2 for count in num_functions.values()):
        raise ValueError("nothing can change: no edge has more than one function")
    alive: deque[tuple[Choice, float]] = deque()
    history: list[tuple[Choice, float]] = []
    while len(history) < queries:
        if len(alive) < population:
            choice = _uniform(num_functions, rng)
        else:
            drawn = rng.choice(population, tournament, replace=False)
            parent, _ = max((alive[i] for i in drawn), key=lambda pair: pair[1])
            choice = _mutated(parent, num_functions, rng)
            alive.popleft()
        alive.append((choice, score(choice)))
        history.append(alive[-1])
    return _finished(history)


def _uniform(num_functions: Mapping[Edge, int], rng: np.random.Generator) -> Choice:
    return {edge: int(rng.integers(count)) for edge, count in sorted(num_functions.items())}


def _mutated(parent: Choice, num_functions: Mapping[Edge, int], rng: np.random.Generator) -> Choice:
    edges = [edge for edge, count in sorted(num_functions.items()) if count > 1]
    edge = edges[rng.integers(len(edges))]
    other = int(rng.integers(num_functions[edge] - 1))
    return {**parent, edge: other + (other >= parent[edge])}


def _finished(history: list[tuple[Choice, float]]) -> Sampled:
    best, score = max(history, key=lambda pair: pair[1])
    return Sampled(best, score, tuple(history))


def _check(num_functions: Mapping[Edge, int], queries: int) -> None:
    if queries < 1:
        raise ValueError(f"queries must be at least 1, received {queries}")
    if not num_functions or min(num_functions.values()) < 1:
        raise ValueError(f"every edge needs a function, received {dict(num_functions)}")
