"""Searches with a budget in queries: any space, any score, a history that is kept.

A query is one network whose score is asked for. What a network is worth may come from a proxy, a
regressor or a table.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.structure.search.sampling import Sampled, evolve, try_all

T = TypeVar("T")
METHODS = ("random", "evolution", "rank")
"""Uniform networks; regularised evolution; networks without repeats, in the order of the space."""


class Space(Protocol[T]):
    """Where networks come from."""

    def draw(self, rng: np.random.Generator, /) -> T:
        """A random network."""

    def mutate(self, network: T, rng: np.random.Generator, /) -> T:
        """A child of a network."""

    def first(self, count: int, rng: np.random.Generator, /) -> Sequence[T]:
        """So many different networks."""

    def record(self, network: T, /) -> Any:
        """A network, JSON-ready."""

    def read(self, record: Any, /) -> T:
        """The inverse of `record`."""


@dataclasses.dataclass(frozen=True)
class Query:
    """One network that was asked for; a line of a file.

    Attributes:
      method: of the search.
      score_name: what it was asked for.
      seed: of the search.
      number: of the query.
      network: see `Space.record`.
      score: its worth.
    """

    method: str
    score_name: str
    seed: int
    number: int
    network: Any
    score: float

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells it from the others."""
        return self.method, self.score_name, self.seed, self.number


class History(Generic[T]):
    """The queries of searches in a file; a search that is there to its end is not run again."""

    def __init__(
        self,
        space: Space[T],
        path: str | os.PathLike[str] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens or starts a file.

        Args:
          space: of the networks.
          path: JSONL file; None keeps nothing.
          identity: what else decides scores; JSON-ready.

        Raises:
          ValueError: the file is of other searches.
        """
        self._space = space
        self._file = None if path is None else ResultFile(path, identity or {}, Query)

    def find(self, method: str, score_name: str, seed: int, queries: int) -> Sampled[T] | None:
        """A search that is there to its end."""
        if self._file is None:
            return None
        keys = [(method, score_name, seed, number) for number in range(queries + 1)]
        found = [self._file.get(key) for key in keys]
        if any(query is None for query in found[:-1]) or found[-1] is not None:
            return None
        pairs = [(self._space.read(q.network), q.score) for q in found if q is not None]
        best, score = max(pairs, key=lambda pair: pair[1])
        return Sampled(best, score, tuple(pairs))

    def add(self, method: str, score_name: str, seed: int, result: Sampled[T]) -> None:
        """Keeps a search."""
        if self._file is not None:
            self._file.extend(
                Query(method, score_name, seed, number, self._space.record(network), score)
                for number, (network, score) in enumerate(result.history)
            )


def search(
    space: Space[T],
    score: Callable[[T], float],
    method: str,
    *,
    queries: int,
    seed: int,
    score_name: str,
    history: History[T] | None = None,
) -> Sampled[T]:
    """Runs one search.

    Args:
      space: of networks.
      score: what a network is worth, the larger the better.
      method: one of `METHODS`.
      queries: networks that it may ask for.
      seed: of its randomness.
      score_name: of the score, for the history.
      history: where it is kept.

    Raises:
      ValueError: an unknown method, or numbers that do not fit together.
    """
    if method not in METHODS:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, received {method!r}")
    known = history.find(method, score_name, seed, queries) if history else None
    if known is not None:
        return known
    rng = np.random.default_rng(seed)
    if method == "evolution":
        result = evolve(
            score,
            lambda: space.draw(rng),
            lambda parent: space.mutate(parent, rng),
            rng,
            queries=queries,
        )
    elif method == "random":
        result = try_all(score, lambda: space.draw(rng), queries=queries)
    else:
        networks = iter(space.first(queries, rng))
        result = try_all(score, lambda: next(networks), queries=queries)
    if history is not None:
        history.add(method, score_name, seed, result)
    return result
