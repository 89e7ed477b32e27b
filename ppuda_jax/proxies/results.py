"""What proxies say of networks: a record per network and seed, and the file of such records."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ppuda_jax.proxies.base import UnsupportedError


@dataclasses.dataclass(frozen=True)
class Scored:
    """The proxies of one network at one initialisation; a line of a file.

    Attributes:
      name: of the network.
      seed: of its parameters.
      values: by proxy; more is better for most, and minus infinity is the least.
      seconds: by proxy, compilation excluded; proxies that come from one gradient share its time.
      failed: by proxy, why the network cannot be scored.
    """

    name: str
    seed: int
    values: Mapping[str, float]
    seconds: Mapping[str, float]
    failed: Mapping[str, str]

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the others."""
        return self.name, self.seed

    def has(self, proxies: Sequence[str]) -> bool:
        """Whether all of these were tried."""
        return all(name in self.values or name in self.failed for name in proxies)

    def merged(self, other: "Scored") -> "Scored":
        """With the proxies of another record of the same network and seed, which win."""
        return Scored(
            self.name,
            self.seed,
            {**self.values, **other.values},
            {**self.seconds, **other.seconds},
            {**{k: v for k, v in self.failed.items() if k not in other.values}, **other.failed},
        )


class Scorings:
    """Collects the proxies of one network, with their time; what fails is kept with its reason."""

    def __init__(self, name: str, seed: int) -> None:
        """Starts with nothing.

        Args:
          name: of the network.
          seed: of its parameters.
        """
        self._name, self._seed = name, seed
        self._values: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._failed: dict[str, str] = {}

    def add(self, names: Sequence[str], scores: Callable[[], Mapping[str, Any]]) -> None:
        """Computes proxies; `scores` returns those of `names`, compiled before or not at all."""
        started = time.perf_counter()
        try:
            found = jax.device_get(dict(scores()))
        except UnsupportedError as error:
            self._failed |= dict.fromkeys(names, str(error))
            return
        seconds = time.perf_counter() - started
        for name in names:
            value = float(found[name])
            if math.isnan(value):
                self._failed[name] = "the score is not a number"
            else:
                self._values[name], self._seconds[name] = value, seconds

    def fail(self, names: Sequence[str], reason: str) -> None:
        """Notes that the network cannot be scored."""
        self._failed |= dict.fromkeys(names, reason)

    def result(self, names: Sequence[str]) -> Scored:
        """The record, with these proxies alone."""

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name in names}

        return Scored(
            self._name, self._seed, kept(self._values), kept(self._seconds), kept(self._failed)
        )
