"""Searches compared at one budget.

Every method searches for so many epochs of the training images; what it chose is trained from the
start for as many epochs on training and validation images, and tested. AdaNet, whose result is an
ensemble and not one network, divides the epochs among its candidates.

Legend: `S` seeds, `E` epochs.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.search import adanet as ada
from ppuda_jax.structure.search.loop import SearchResult, SearchSettings, num_steps, search
from ppuda_jax.structure.search.named import METHODS
from ppuda_jax.structure.search.problem import Problem, Worth
from ppuda_jax.structure.tasks import Task
from ppuda_jax.structure.weights import Judge, Source, trained

HEADER = (
    "method",
    "parameters",
    "test accuracy",
    "shared weights",
    "skips",
    "eigenvalue",
    "seconds",
)
"""Columns of the comparison."""
Progress = Callable[[float, str], None]
"""Called with the share that is done, and the method that is at work."""
_ADANET_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every method may use.

    Attributes:
      epochs: of the search, and of the training of what it chose.
      batch_size: images per step.
      seeds: of independent runs.
      folder: where searches are saved; None for nowhere.
      eigenvalue_steps: of power iteration for the Hessian; 0 leaves it out.
    """

    epochs: int
    batch_size: int = 64
    seeds: tuple[int, ...] = (0,)
    folder: pathlib.Path | None = None
    eigenvalue_steps: int = 10

    @property
    def settings(self) -> SearchSettings:
        """The same for the loop."""
        return SearchSettings(self.epochs, self.batch_size, self.eigenvalue_steps)


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of one method.

    Attributes:
      method: its name.
      seed: of the run.
      choice: the network in words.
      parameters: of it.
      flops: operations for one image.
      skips: layers that are left out; None of an ensemble.
      eigenvalue: largest of the Hessian of the validation loss in the logits, last epoch; None if
        left out.
      valid_score: accuracy with the search's weights on validation images; None without them.
      test_score: accuracy of the network, trained from the start, on test images.
      epochs: the network that was chosen after every epoch, in words; none of an ensemble.
    """

    method: str
    seed: int
    choice: str
    parameters: int
    flops: float
    skips: int | None
    eigenvalue: float | None
    valid_score: float | None
    test_score: float
    epochs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """All runs of one method.

    Attributes:
      method: its name.
      rows: a row per seed.
      seconds: of the search and the training.
      scores: validation accuracy of the choice of every epoch, [S, E]; None without epochs.
      sizes: its parameters, [S, E].
    """

    method: str
    rows: tuple[Row, ...]
    seconds: float
    scores: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def summary(self) -> tuple[object, ...]:
        """The cells of `HEADER`, means over the seeds with their deviations."""
        eigenvalues = [row.eigenvalue for row in self.rows if row.eigenvalue is not None]
        valid = [100 * row.valid_score for row in self.rows if row.valid_score is not None]
        skips = [row.skips for row in self.rows if row.skips is not None]
        return (
            self.method,
            _spread([row.parameters for row in self.rows], 0),
            _spread([100 * row.test_score for row in self.rows], 1),
            _spread(valid, 1),
            _spread(skips, 1),
            _spread(eigenvalues, 3),
            f"{self.seconds:.0f}",
        )


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):,.{digits}f} ± {np.std(values):,.{digits}f}"


def compare(
    task: Task, methods: Sequence[str], budget: Budget, *, progress: Progress | None = None
) -> list[MethodResult]:
    """Runs methods by name.

    Args:
      task: what is searched for.
      methods: of `search.named.METHODS`, and `adanet` where the task has candidates.
      budget: of each method.
      progress: called after every epoch of a search and every network that is tested.

    Raises:
      ValueError: a method that does not exist, or none.
    """
    judge = Judge(task.final)
    source = trained(task.final, task.optimizers.weights, budget.settings)
    runs: dict[str, Callable[[Callable[[float], None]], MethodResult]] = {
        name: functools.partial(_search, task, name, budget, functools.partial(judge, source))
        for name in METHODS
    }
    if task.candidates is not None:
        runs["adanet"] = functools.partial(_grow, task, task.candidates, budget)
    unknown = [name for name in methods if name not in runs]
    if unknown or not methods:
        raise ValueError(f"methods must be of {tuple(runs)}, received {tuple(methods)}")
    return [runs[name](within(progress, methods, name)) for name in methods]


def within(progress: Progress | None, methods: Sequence[str], name: str) -> Callable[[float], None]:
    """What one of several methods calls with the share of its own work that is done."""

    def move(share: float) -> None:
        if progress is not None:
            progress((methods.index(name) + share) / len(methods), name)

    move(0.0)
    return move


def _search(
    task: Task,
    name: str,
    budget: Budget,
    tested: Callable[[Choice, int], Worth],
    move: Callable[[float], None],
) -> MethodResult:
    start = time.perf_counter()
    problem = task.problem
    steps = budget.epochs * num_steps(problem, budget.settings)
    folder = None if budget.folder is None else budget.folder / name
    method = METHODS[name](problem, task.optimizers, steps)
    result = search(
        problem,
        method,
        budget.settings,
        budget.seeds,
        directory=folder,
        progress=lambda epoch, _: move((epoch + 1) / budget.epochs / 2),
    )
    rows = []
    for position, seed in enumerate(budget.seeds):
        score = tested(result.choice(position), seed).score
        rows.append(_row(problem, name, result, position, score))
        move((1 + len(rows) / len(budget.seeds)) / 2)
    seconds = time.perf_counter() - start
    history = result.history
    return MethodResult(
        name, tuple(rows), seconds, np.asarray(history.score), np.asarray(history.size)
    )


def _row(
    problem: Problem, name: str, result: SearchResult, position: int, test_score: float
) -> Row:
    last = jax.tree.map(lambda leaf: leaf[position, -1], result.history)
    epochs = len(result.history.loss[position])
    return Row(
        name,
        result.seeds[position],
        problem.supernet.describe(result.choice(position)),
        int(last.size),
        float(last.flops),
        int(last.skips),
        None if np.isnan(last.eigenvalue) else float(last.eigenvalue),
        float(last.score),
        test_score,
        tuple(problem.supernet.describe(result.choice(position, e)) for e in range(epochs)),
    )


def _grow(
    task: Task,
    candidates: Callable[[Source], ada.Generator],
    budget: Budget,
    move: Callable[[float], None],
) -> MethodResult:
    start = time.perf_counter()
    epochs = max(1, budget.epochs // (2 * _ADANET_ROUNDS))
    settings = SearchSettings(epochs, budget.batch_size, 0)
    run = functools.partial(
        ada.adanet,
        candidates(trained(task.final, task.optimizers.weights, settings)),
        ada.ComplexityRegularizedEnsembler(adanet_lambda=1e-3),
        task.final.train,
        task.final.loss,
        iterations=_ADANET_ROUNDS,
    )
    rows = []
    for seed in budget.seeds:
        found = run(jax.random.key(seed))
        tested = float(task.final.score(found.predict(task.final.valid.x), task.final.valid.y))
        names = " + ".join(member.name for member in found.members)
        flops = 2.0 * found.parameters
        rows.append(Row("adanet", seed, names, found.parameters, flops, None, None, None, tested))
        move(len(rows) / len(budget.seeds))
    return MethodResult("adanet", tuple(rows), time.perf_counter() - start)
