"""What training a network gives: accuracy against steps, and what is read off such a curve."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
      step: updates so far.
      accuracy: share of the evaluated images that is right.
      loss: mean cross-entropy on them.
      train_loss: mean objective of the steps since the last point; NaN at the first.
      seconds: of training so far, without compilation and evaluation.
    """

    step: int
    accuracy: float
    loss: float
    train_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """Training of one network.

    Attributes:
      points: evaluations, the first before any step.
      diverged_at: step whose loss was not finite, where training ended; None if there was none.
      params: the parameters at the end, those before the last finite evaluation if it diverged.
      state: what else the network keeps, such as running statistics.
    """

    points: tuple[Point, ...]
    diverged_at: int | None = None
    params: Any = dataclasses.field(default=None, repr=False, compare=False)
    state: Any = dataclasses.field(default=(), repr=False, compare=False)

    @property
    def steps(self) -> np.ndarray:
        """Int [E]: where the network was evaluated."""
        return np.array([point.step for point in self.points])

    @property
    def accuracy(self) -> np.ndarray:
        """Float [E]."""
        return np.array([point.accuracy for point in self.points])

    @property
    def final(self) -> float:
        """Accuracy at the end."""
        return self.points[-1].accuracy

    @property
    def area(self) -> float:
        """Mean accuracy over the steps: area under the curve, divided by its length."""
        return area(self.steps, self.accuracy)

    def steps_to(self, target: float) -> float:
        """First step at which the accuracy reaches a target, between points on a line.

        Returns:
          Steps; infinity if it never does.
        """
        return steps_to(self.steps, self.accuracy, target)

    def to_dict(self) -> dict[str, Any]:
        """The curve without the parameters, JSON-ready."""
        return {
            "points": [[_json(v) for v in dataclasses.astuple(point)] for point in self.points],
            "diverged_at": self.diverged_at,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Curve":
        """The inverse of `to_dict`."""
        points = tuple(Point(*map(_number, point)) for point in values["points"])
        return cls(points, values["diverged_at"])


def area(steps: np.ndarray, accuracy: np.ndarray) -> float:
    """See `Curve.area`, for arrays [E]."""
    if len(steps) == 1:
        return float(accuracy[0])
    return float(np.trapezoid(accuracy, steps) / (steps[-1] - steps[0]))


def steps_to(steps: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """See `Curve.steps_to`, for arrays [E]."""
    reached = np.flatnonzero(accuracy >= target)
    if not len(reached):
        return math.inf
    after = int(reached[0])
    if after == 0:
        return float(steps[0])
    low, high = accuracy[after - 1], accuracy[after]
    share = (target - low) / (high - low)
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


def _json(value: Any) -> Any:
    return None if math.isnan(value) else value


def _number(value: Any) -> Any:
    return math.nan if value is None else value
