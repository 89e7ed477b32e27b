"""Searches on NAS-Bench-201, and what its table says of their picks.

The worth of a cell comes from the table itself (validation accuracy after 12 epochs), from
predicted parameters, or from weights that all cells share.

Legend: `n` images, `S` seeds.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.data.datasets import load_images
from ppuda_jax.data.images import normalise
from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure.discretise import Choice, skip_count
from ppuda_jax.structure.nasbench201_net import Skeleton, supernet
from ppuda_jax.structure.nasbench201_predicted import PredictedScorer
from ppuda_jax.structure.search import one_shot
from ppuda_jax.structure.search.loop import SearchSettings, num_steps, search
from ppuda_jax.structure.search.method import Method
from ppuda_jax.structure.search.problem import Objects, Problem, classification
from ppuda_jax.structure.search.sampling import Sampled, random_search, regularised_evolution

ALL_SKIPS: Choice = dict.fromkeys(nb.EDGES, nb.OPS.index("skip_connect"))
"""The cell that DARTS ends with."""
HEADER = ("pick of", "cell", *nb.DATASETS, "rank", "skips")
SEARCHES: dict[str, Callable[..., Sampled]] = {
    "random": random_search,
    "evolution": regularised_evolution,
}
_WEIGHT_RATE, _STRUCTURE_RATE = 0.05, 0.02


@dataclasses.dataclass(frozen=True)
class Found:
    """What the searches found.

    Attributes:
      picks: (name, cells), a cell per seed.
      notes: lines that go with the table.
    """

    picks: tuple[tuple[str, tuple[Choice, ...]], ...]
    notes: tuple[str, ...] = ()

    def rows(self, table: nb.Table) -> list[tuple[object, ...]]:
        """The cells of `HEADER`; the last row is the cell of skip connections alone."""
        picks = (*self.picks, ("all skips", (ALL_SKIPS,)))
        rows: list[tuple[object, ...]] = []
        for name, cells in picks:
            ranks = [table.rank(cell) for cell in cells]
            skips = [skip_count(cell, nb.NAMES) for cell in cells]
            shown = nb.to_text(cells[int(np.argmin(ranks))])
            rows.append(
                (
                    name,
                    shown,
                    *nb.summary(table, cells),
                    f"{np.median(ranks):.0f}",
                    " ".join(map(str, skips)) if len(skips) <= 5 else f"{np.mean(skips):.1f}",
                )
            )
        return rows


def by_table(
    table: nb.Table, methods: Sequence[str], *, queries: int, seeds: Sequence[int]
) -> Found:
    """Searches that ask the table for validation accuracies after 12 epochs on CIFAR-10.

    Raises:
      ValueError: a method that does not exist.
    """

    def score(choice: Choice) -> float:
        return table.accuracy(choice, split="val", epochs=12)

    return Found(_sampled(score, methods, queries, seeds))


def by_prediction(
    scorer: PredictedScorer,
    table: nb.Table,
    methods: Sequence[str],
    *,
    queries: int,
    seeds: Sequence[int],
) -> Found:
    """Searches for the smallest loss with predicted parameters.

    The notes say how many cells were scored in a minute, the rank correlation of loss and accuracy
    after training over all cells that were scored, and what the cell of skips is worth.

    Raises:
      ValueError: a method that does not exist.
    """
    losses: dict[str, float] = {}
    skips = scorer.score(ALL_SKIPS)  # compiles, too
    start = time.perf_counter()

    def score(choice: Choice) -> float:
        text = nb.to_text(choice)
        if text not in losses:
            losses[text] = scorer.score(choice).loss
        return -losses[text]

    picks = _sampled(score, methods, queries, seeds)
    seconds = time.perf_counter() - start
    cells = [nb.from_text(text) for text in losses]
    accuracies = [table.accuracy(cell) for cell in cells]
    correlation = _spearman([-loss for loss in losses.values()], accuracies)
    return Found(
        picks,
        (
            f"{len(losses)} cells in {seconds:.0f} s: {60 * len(losses) / seconds:.0f} a minute",
            f"rank correlation of predicted loss and trained accuracy: {correlation:.2f}",
            f"all skips: predicted accuracy {skips.accuracy:.3f}, loss {skips.loss:.3f}",
        ),
    )


def by_sharing(
    problem: Problem,
    methods: Sequence[str],
    settings: SearchSettings,
    seeds: Sequence[int],
) -> Found:
    """Searches of the loop on shared weights.

    Raises:
      ValueError: a method that does not exist.
    """
    _check(methods, SHARED)
    steps = settings.epochs * num_steps(problem, settings)
    picks = []
    notes = []
    for name in methods:
        result = search(problem, SHARED[name](problem, steps), settings, seeds)
        cells = tuple(result.choice(position) for position in range(len(seeds)))
        picks.append((name, cells))
        last = result.history.eigenvalue[:, -1]
        collapsed = sum(cell == ALL_SKIPS for cell in cells)
        notes.append(
            f"{name}: validation accuracy {np.mean(result.history.score[:, -1]):.3f}, Hessian's "
            f"largest eigenvalue {np.mean(last):.3f}, {collapsed} of {len(cells)} all skips"
        )
    return Found(tuple(picks), tuple(notes))


def image_problem(
    dataset: str, data_dir: str | None, skeleton: Skeleton, max_images: int | None
) -> Problem:
    """Images for a search on shared weights, half of them for structures.

    Raises:
      ValueError, FileNotFoundError: no such images, or fewer than two.
    """
    images = load_images(dataset, "train", data_dir, max_images=max_images)
    if len(images) < 2:
        raise ValueError(f"two halves need at least 2 training images, received {len(images)}")
    x = normalise(jnp.asarray(images.images), images.spec)
    y = jnp.asarray(images.labels)
    half = len(images) // 2
    return classification(
        supernet(skeleton), Objects(x[:half], y[:half]), Objects(x[half:], y[half:])
    )


def _weights() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(_WEIGHT_RATE, momentum=0.9))


SHARED: dict[str, Callable[[Problem, int], Method]] = {
    "darts": lambda problem, steps: one_shot.darts(
        problem, _weights(), optax.adam(_STRUCTURE_RATE)
    ),
    "gdas": lambda problem, steps: one_shot.gdas(
        problem,
        _weights(),
        optax.adam(_STRUCTURE_RATE),
        optax.linear_schedule(*one_shot.GDAS_TEMPERATURE, steps),
    ),
    "random": lambda problem, steps: one_shot.random_sharing(problem, _weights(), candidates=20),
}
"""Searches on shared weights: (problem, steps of the search) -> method."""


def _sampled(
    score: Callable[[Choice], float], methods: Sequence[str], queries: int, seeds: Sequence[int]
) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    _check(methods, SEARCHES)
    counts = dict.fromkeys(nb.EDGES, len(nb.OPS))
    return tuple(
        (
            name,
            tuple(
                SEARCHES[name](score, counts, np.random.default_rng(seed), queries=queries).best
                for seed in seeds
            ),
        )
        for name in methods
    )


def _check(methods: Sequence[str], known: dict) -> None:
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        raise ValueError(f"methods must be of {tuple(known)}, received {tuple(methods)}")


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation; nan where one is constant."""
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)
