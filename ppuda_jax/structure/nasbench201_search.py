"""Searches on NAS-Bench-201, and what its table says of their picks.

The worth of a cell comes from the table itself (validation accuracy after 12 epochs), from
predicted parameters, or from weights that all cells share.

Legend: `n` images, `S` seeds.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure.comparison import Budget, Progress, within
from ppuda_jax.structure.discretise import Choice, skip_count
from ppuda_jax.structure.search.loop import SearchResult, num_steps, search
from ppuda_jax.structure.search.named import METHODS
from ppuda_jax.structure.search.problem import Problem
from ppuda_jax.structure.search.sampling import (
    Sampled,
    random_search,
    regularised_evolution,
    uniform,
)
from ppuda_jax.structure.tasks import Task
from ppuda_jax.structure.weights import Judge, Source, shared

ALL_SKIPS: Choice = dict.fromkeys(nb.EDGES, nb.OPS.index("skip_connect"))
"""The cell that DARTS ends with."""
HEADER = ("pick of", "cell", *nb.DATASETS, "rank", "skips")
"""Columns of the comparison."""
SEARCHES: dict[str, Callable[..., Sampled]] = {
    "random": random_search,
    "evolution": regularised_evolution,
}
"""Searches by name."""
_COUNTS = dict.fromkeys(nb.EDGES, len(nb.OPS))


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
        """The cells of `HEADER`; the last rows are that of skip connections and all cells."""
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
        every = [nb.from_text(text) for text in table.cells]
        average = np.mean([skip_count(cell, nb.NAMES) for cell in every])
        rank = f"{(len(every) - 1) / 2:.0f}"
        return [*rows, ("all cells", "-", *nb.summary(table, every), rank, f"{average:.1f}")]

    def against_all(self, table: nb.Table) -> list[str]:
        """How far the picks of several seeds are above the mean of all cells on CIFAR-10."""
        mean = float(np.mean(table.column("cifar10", "test", 200)))
        lines = []
        for name, cells in self.picks:
            if len(cells) > 1:
                gains = np.array([table.accuracy(cell) for cell in cells]) - mean
                error = np.std(gains, ddof=1) / len(gains) ** 0.5
                lines.append(
                    f"{name}: {np.mean(gains):+.2f} ± {error:.2f} (standard error of {len(gains)} "
                    "picks) against the mean of all cells on CIFAR-10"
                )
        return lines


def by_table(
    table: nb.Table,
    methods: Sequence[str],
    *,
    queries: int,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> Found:
    """Searches that ask the table for validation accuracies after 12 epochs on CIFAR-10.

    Args:
      table: that is asked.
      methods: of `SEARCHES`.
      queries: of each search.
      seeds: a search each.
      progress: called before every search.

    Raises:
      ValueError: a method that does not exist.
    """

    def score(choice: Choice) -> float:
        return table.accuracy(choice, split="val", epochs=12)

    return Found(_sampled(score, methods, queries, seeds, progress))


def by_source(
    problem: Problem,
    source: Source,
    table: nb.Table,
    methods: Sequence[str],
    *,
    queries: int,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> Found:
    """Searches for the smallest loss with trained or predicted parameters.

    The notes say how many cells were scored in a minute, the rank correlation of loss and accuracy
    after training over all cells that were scored, and what the cell of skips is worth.
    `progress` is called before every search.

    Raises:
      ValueError: a method that does not exist.
    """
    losses: dict[str, float] = {}
    judge = functools.partial(Judge(problem), source)
    skips = judge(ALL_SKIPS)  # compiles, too
    start = time.perf_counter()

    def score(choice: Choice) -> float:
        text = nb.to_text(choice)
        if text not in losses:
            losses[text] = judge(choice).loss
        return -losses[text]

    picks = _sampled(score, methods, queries, seeds, progress)
    seconds = time.perf_counter() - start
    cells = [nb.from_text(text) for text in losses]
    correlation = _agreement(table, cells, list(losses.values()))
    return Found(
        picks,
        (
            f"{len(losses)} cells in {seconds:.0f} s: {60 * len(losses) / seconds:.0f} a minute",
            f"rank correlation of {source.name} loss and the table's accuracy: {correlation:.2f}",
            f"all skips: {source.name} accuracy {skips.score:.3f}, loss {skips.loss:.3f}",
        ),
    )


def by_sharing(
    task: Task,
    table: nb.Table,
    methods: Sequence[str],
    budget: Budget,
    *,
    compared: int = 100,
    progress: Progress | None = None,
) -> Found:
    """Searches of the loop on shared weights.

    The notes say how well the shared weights of a method's seeds rank uniform cells, and how often
    it ended with the cell of skips.

    Args:
      task: of cells.
      table: that the ranks are compared with.
      methods: of `search.named.METHODS`.
      budget: of every method; its searches continue where they were interrupted.
      compared: uniform cells that are ranked, the same for all methods and seeds.
      progress: called after every epoch.

    Raises:
      ValueError: a method that does not exist.
    """
    _check(methods, METHODS)
    steps = budget.epochs * num_steps(task.problem, budget.settings)
    rng = np.random.default_rng(0)
    connected = task.problem.supernet.connected
    uniform_cells = [uniform(_COUNTS, rng) for _ in range(compared)]
    drawn = [cell for cell in uniform_cells if connected(cell)]
    picks, notes, judge = [], [], Judge(task.problem)
    for name in methods:
        method = METHODS[name](task.problem, task.optimizers, steps)
        folder = None if budget.folder is None else budget.folder / name
        move = within(progress, methods, name)
        result = search(
            task.problem,
            method,
            budget.settings,
            budget.seeds,
            directory=folder,
            progress=functools.partial(_epoch_done, move, budget.epochs),
        )
        cells = tuple(result.choice(position) for position in range(len(budget.seeds)))
        picks.append((name, cells))
        agreement = []
        for position in range(len(budget.seeds)):
            state = jax.tree.map(lambda leaf, i=position: jnp.asarray(leaf[i]), result.state)
            source = shared(method.weights(state))
            losses = [judge(source, cell).loss for cell in drawn]
            agreement.append(_agreement(table, drawn, losses))
        notes.append(_shared_note(name, result, cells, agreement))
    return Found(tuple(picks), tuple(notes))


def _epoch_done(move: Callable[[float], None], epochs: int, epoch: int, _: object) -> None:
    move((epoch + 1) / epochs)


def _sampled(
    score: Callable[[Choice], float],
    methods: Sequence[str],
    queries: int,
    seeds: Sequence[int],
    progress: Progress | None,
) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    _check(methods, SEARCHES)
    picks = []
    for name in methods:
        move = within(progress, methods, name)
        cells: list[Choice] = []
        for seed in seeds:
            move(len(cells) / len(seeds))
            rng = np.random.default_rng(seed)
            cells.append(SEARCHES[name](score, _COUNTS, rng, queries=queries).best)
        picks.append((name, tuple(cells)))
    return tuple(picks)


def _check(methods: Sequence[str], known: dict) -> None:
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        raise ValueError(f"methods must be of {tuple(known)}, received {tuple(methods)}")


def _shared_note(
    name: str, result: SearchResult, cells: Sequence[Choice], agreement: Sequence[float]
) -> str:
    history = result.history
    collapsed = sum(cell == ALL_SKIPS for cell in cells)
    eigenvalue = np.mean(history.eigenvalue[:, -1])
    hessian = "" if np.isnan(eigenvalue) else f"Hessian's largest eigenvalue {eigenvalue:.3f}, "
    return (
        f"{name}: validation accuracy {np.mean(history.score[:, -1]):.3f}, {hessian}"
        f"{collapsed} of {len(cells)} all skips; rank correlation of shared loss and the table's "
        f"accuracy {np.mean(agreement):.2f} ± {np.std(agreement):.2f}"
    )


def _agreement(table: nb.Table, cells: Sequence[Choice], losses: Sequence[float]) -> float:
    """Rank correlation of minus the losses and the accuracies after 200 epochs on CIFAR-10."""
    return _spearman([-loss for loss in losses], [table.accuracy(cell) for cell in cells])


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation; nan where one is constant."""
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)
