"""Searches that only ask what a network is worth: random search and regularised evolution.

The answer may come from a table, from shared weights, from training, or from predicted weights.

Legend: `K` functions of an edge.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge

T = TypeVar("T")
Score = Callable[[T], float]
"""What a network is worth, the larger the better."""


@dataclasses.dataclass(frozen=True)
class Sampled(Generic[T]):
    """A finished search in a space of networks T.

    Attributes:
      best: the network of the largest score, the first of several.
      score: its score.
      history: every network that was asked for, with its score, in order.
    """

    best: T
    score: float
    history: tuple[tuple[T, float], ...]


def try_all(score: Score[T], draw: Callable[[], T], *, queries: int) -> Sampled[T]:
    """Asks for one network after the other.

    Args:
      score: of a network.
      draw: the next network.
      queries: networks to ask for.

    Raises:
      ValueError: no queries.
    """
    _check_queries(queries)
    drawn = [draw() for _ in range(queries)]
    return _finished([(network, score(network)) for network in drawn])


def evolve(
    score: Score[T],
    draw: Callable[[], T],
    mutate: Callable[[T], T],
    rng: np.random.Generator,
    *,
    queries: int,
    population: int = 10,
    tournament: int = 3,
) -> Sampled[T]:
    """Ageing evolution (Real et al. 2019): the best of a tournament has a child, the oldest dies.

    Args:
      score: of a network.
      draw: a network of the first population.
      mutate: a child of a network.
      rng: source of randomness of the tournaments.
      queries: networks to ask for, the first population among them.
      population: networks that are alive.
      tournament: networks that are drawn, without replacement, for a parent.

    Raises:
      ValueError: numbers that do not fit together.
    """
    _check_queries(queries)
    if not 1 <= tournament <= population <= queries:
        raise ValueError(
            "tournament, population and queries must not fall, from 1 up, received "
            f"{tournament}, {population} and {queries}"
        )
    alive: deque[tuple[T, float]] = deque()
    history: list[tuple[T, float]] = []
    while len(history) < queries:
        if len(alive) < population:
            network = draw()
        else:
            drawn = rng.choice(population, tournament, replace=False)
            parent, _ = max((alive[i] for i in drawn), key=lambda pair: pair[1])
            network = mutate(parent)
            alive.popleft()
        alive.append((network, score(network)))
        history.append(alive[-1])
    return _finished(history)


def random_search(
    score: Score[Choice],
    num_functions: Mapping[Edge, int],
    rng: np.random.Generator,
    *,
    queries: int,
) -> Sampled[Choice]:
    """Asks for uniform networks.

    Args:
      score: of a network.
      num_functions: K of every edge.
      rng: source of randomness.
      queries: networks to ask for.

    Raises:
      ValueError: no queries or no edges.
    """
    _check(num_functions)
    return try_all(score, lambda: uniform(num_functions, rng), queries=queries)


def regularised_evolution(
    score: Score[Choice],
    num_functions: Mapping[Edge, int],
    rng: np.random.Generator,
    *,
    queries: int,
    population: int = 10,
    tournament: int = 3,
) -> Sampled[Choice]:
    """Ageing evolution, see `evolve`.

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
    _check(num_functions)
    if all(count < 2 for count in num_functions.values()):
        raise ValueError("nothing can change: no edge has more than one function")
    return evolve(
        score,
        lambda: uniform(num_functions, rng),
        lambda parent: mutated(parent, num_functions, rng),
        rng,
        queries=queries,
        population=population,
        tournament=tournament,
    )


def uniform(num_functions: Mapping[Edge, int], rng: np.random.Generator) -> Choice:
    """A uniform function on every edge."""
    return {edge: int(rng.integers(count)) for edge, count in sorted(num_functions.items())}


def mutated(parent: Choice, num_functions: Mapping[Edge, int], rng: np.random.Generator) -> Choice:
    """Another function on one edge that has a choice."""
    edges = [edge for edge, count in sorted(num_functions.items()) if count > 1]
    edge = edges[rng.integers(len(edges))]
    other = int(rng.integers(num_functions[edge] - 1))
    return {**parent, edge: other + (other >= parent[edge])}


def _finished(history: list[tuple[T, float]]) -> Sampled[T]:
    best, score = max(history, key=lambda pair: pair[1])
    return Sampled(best, score, tuple(history))


def _check_queries(queries: int) -> None:
    if queries < 1:
        raise ValueError(f"queries must be at least 1, received {queries}")


def _check(num_functions: Mapping[Edge, int]) -> None:
    if not num_functions or min(num_functions.values()) < 1:
        raise ValueError(f"every edge needs a function, received {dict(num_functions)}")
