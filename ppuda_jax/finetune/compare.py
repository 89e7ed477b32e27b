"""Compares where training starts, at the same budget, over networks and seeds.

Each initialisation and optimiser gets the learning rate that is best for it by the same protocol,
as a prediction wants a lower one. Networks, not seeds, are what varies: a network's value is its
mean over seeds, and differences are tested in pairs of one network (Wilcoxon).

Legend: `E` evaluations of a curve, `N` networks.
"""

import dataclasses
import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune.curve import Curve, area, steps_to
from ppuda_jax.finetune.inits import Init
from ppuda_jax.finetune.network import Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.side_by_side import side_by_side
from ppuda_jax.finetune.trainings import Trained, Trainings


@dataclasses.dataclass(frozen=True)
class Row:
    """One initialisation with one optimiser.

    Attributes:
      init: its name.
      optimizer: of optax.
      learning_rate: the one that was chosen.
      steps: int [E].
      mean: float [E], accuracy over networks.
      error: float [E], standard error of the mean over networks.
      start: accuracy before training.
      final: accuracy at the end.
      area: mean accuracy over the steps.
      reached: steps to the target, mean over networks that reach it; NaN if none does.
      reaching: share of networks that reach it.
      wins: share of networks that end above the first initialisation; NaN for itself.
      p_value: of the Wilcoxon test of final accuracies against it; NaN for itself, or for fewer
        than two networks that differ.
      worth: steps of the first initialisation that reach this one's accuracy before training.
      diverged: trainings with a loss that was not finite.
    """

    init: str
    optimizer: str
    learning_rate: float
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    error: tuple[float, ...]
    start: float
    final: float
    area: float
    reached: float
    reaching: float
    wins: float
    p_value: float
    worth: float
    diverged: int


def compare(
    networks: Sequence[tuple[EvalNet, Trainable]],
    inits: Mapping[str, Init],
    recipes: Mapping[str, Recipe],
    images: Callable[[int], TrainingImages],
    held_out: EvalImages,
    *,
    steps: int,
    every: int,
    seeds: int = 1,
    rate_factors: Sequence[float] = (),
    tuning: EvalImages | None = None,
    tuning_networks: int = 2,
    at_once: int = 1,
    results_path: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Trained], None] | None = None,
) -> tuple[Row, ...]:
    """Trains every network from every initialisation by every optimiser.

    Args:
      networks: what is trained.
      inits: by name; the first one is what the others are held against.
      recipes: by the name of the optimiser.
      images: training images by seed, in the recipes' batch size.
      held_out: what curves are measured on.
      steps: updates of each training.
      every: steps between evaluations.
      seeds: trainings of each kind, from seed 0.
      rate_factors: of the recipe's learning rate, to choose from for each initialisation and
        optimiser; none leaves it as it is.
      tuning: images that the choice is made on, which must not be `held_out`.
      tuning_networks: the first ones, on which rates are tried at the whole budget.
      at_once: trainings that run at the same time.
      results_path: JSONL file of trainings; those that it has already are not done again.
      identity: what else decides the results, for that file; JSON-ready.
      progress: called after each training as (done, in all, newest).

    Returns:
      A row for each optimiser and initialisation.

    Raises:
      ValueError: nothing to compare, rates without images to choose on, or a file of another
        comparison.
    """
    if not (networks and inits and recipes) or seeds < 1:
        raise ValueError(
            f"nothing to compare: {len(networks)} networks, {len(inits)} initialisations, "
            f"{len(recipes)} optimisers, {seeds} seeds"
        )
    if rate_factors and tuning is None:
        raise ValueError("learning rates are chosen on images of their own: give tuning=")
    tuned = list(networks[:tuning_networks]) if rate_factors else []
    kinds = [(o, i) for o in recipes for i in inits]
    total = len(kinds) * (len(networks) * seeds + len(tuned) * len(rate_factors))
    trainings = Trainings(
        images, recipes, steps=steps, every=every, path=results_path, identity=identity
    )
    work = _Work(trainings, inits, total, progress)
    rates = {kind: recipes[kind[0]].learning_rate for kind in kinds}
    if tuning is not None and rate_factors:
        rates = _best_rates(work, rates, rate_factors, tuned, tuning, at_once)
    jobs = [  # network by network, so that one that is interrupted has pairs
        work.job(*pair, kind, rates[kind], seed, held_out)
        for pair in networks
        for seed in range(seeds)
        for kind in kinds
    ]
    done = iter(side_by_side(jobs, at_once))
    by_network = [[[next(done) for _ in kinds] for _ in range(seeds)] for _ in networks]
    rows = [
        (*kind, rates[kind], [[of_seed[n] for of_seed in each] for each in by_network])
        for n, kind in enumerate(kinds)
    ]
    return tuple(_rows(rows, next(iter(inits)), every, steps))


Kind = tuple[str, str]
"""(optimiser, initialisation)."""


class _Work:
    """The trainings of a comparison, as jobs that report when they are done."""

    def __init__(
        self,
        trainings: Trainings,
        inits: Mapping[str, Init],
        total: int,
        progress: Callable[[int, int, Trained], None] | None,
    ) -> None:
        self._trainings, self._inits = trainings, inits
        self._total, self._progress = total, progress
        self._done, self._lock = itertools.count(1), threading.Lock()

    def job(
        self,
        net: EvalNet,
        network: Trainable,
        kind: Kind,
        rate: float,
        seed: int,
        where: EvalImages,
        part: str = "",
    ) -> Callable[[], Trained]:
        """One training."""
        optimizer, init = kind
        start = functools.partial(self._inits[init], network, seed)

        def train() -> Trained:
            trained = self._trainings.train(
                net, network, f"{init}{part}", start, optimizer, where, rate=rate, seed=seed
            )
            with self._lock:
                if self._progress:
                    self._progress(next(self._done), self._total, trained)
            return trained

        return train


def _best_rates(
    work: _Work,
    rates: Mapping[Kind, float],
    factors: Sequence[float],
    networks: Sequence[tuple[EvalNet, Trainable]],
    tuning: EvalImages,
    at_once: int,
) -> dict[Kind, float]:
    """The rate at which each kind is best on images of their own; of equal ones the first."""
    jobs = [
        work.job(*pair, kind, factor * rate, 0, tuning, " (tuning)")
        for kind, rate in rates.items()
        for factor in factors
        for pair in networks
    ]
    finals = np.array([_final(trained) for trained in side_by_side(jobs, at_once)])
    means = finals.reshape(len(rates), len(factors), len(networks)).mean(axis=2)
    pairs = zip(rates.items(), means.argmax(axis=1), strict=True)
    return {kind: factors[best] * rate for (kind, rate), best in pairs}


def _final(trained: Trained) -> float:
    """Accuracy at the end, below all others where training diverged."""
    curve = Curve.from_dict(trained.curve)
    return -1.0 if curve.diverged_at is not None else curve.final


def _rows(
    kinds: Sequence[tuple[str, str, float, Sequence[Sequence[Trained]]]],
    first: str,
    every: int,
    steps: int,
) -> list[Row]:
    grid = np.array(sorted({*range(0, steps, every), steps}))
    curves = {
        (optimizer, init): np.array(
            [np.mean([_on(grid, t) for t in trained], axis=0) for trained in done]
        )
        for optimizer, init, _, done in kinds
    }  # [N, E]
    rows = []
    for optimizer, init, rate, done in kinds:
        ours, base = curves[optimizer, init], curves[optimizer, first]
        mean = ours.mean(axis=0)
        error = ours.std(axis=0, ddof=1) / math.sqrt(len(ours)) if len(ours) > 1 else 0 * mean
        target = base[:, -1].mean()
        reached = np.array([steps_to(grid, curve, target) for curve in ours])
        reaching = np.isfinite(reached)
        other = init != first
        rows.append(
            Row(
                init,
                optimizer,
                rate,
                tuple(grid.tolist()),
                tuple(mean.tolist()),
                tuple(error.tolist()),
                float(mean[0]),
                float(mean[-1]),
                area(grid, mean),
                float(reached[reaching].mean()) if reaching.any() else math.nan,
                float(reaching.mean()),
                float(np.mean(ours[:, -1] > base[:, -1])) if other else math.nan,
                _wilcoxon(ours[:, -1], base[:, -1]) if other else math.nan,
                steps_to(grid, base.mean(axis=0), float(mean[0])),
                sum(t.curve["diverged_at"] is not None for each in done for t in each),
            )
        )
    return rows


def _on(grid: np.ndarray, trained: Trained) -> np.ndarray:
    """Accuracy [E] on a grid of steps; one that diverged stays where it was last evaluated."""
    curve = Curve.from_dict(trained.curve)
    return np.interp(grid, curve.steps, curve.accuracy)


def _wilcoxon(ours: np.ndarray, others: np.ndarray) -> float:
    differences = ours - others
    if np.count_nonzero(differences) < 2:
        return math.nan
    return float(scipy.stats.wilcoxon(differences).pvalue)
