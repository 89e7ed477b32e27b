"""Searches compared at one budget on the family of perceptrons.

Every method searches for so many epochs of the training images; what it chose is trained from the
start for as many epochs on training and validation images, and tested. AdaNet, whose result is an
ensemble and not one network, divides the epochs among its candidates.

Legend: `n` images, `S` seeds, `E` epochs.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.data.datasets import load_images
from ppuda_jax.structure.criteria import elbo, one_level
from ppuda_jax.structure.mlp import mlp
from ppuda_jax.structure.mlp_candidates import SameOrDeeper
from ppuda_jax.structure.objective import TwoLevel
from ppuda_jax.structure.search import adanet as ada
from ppuda_jax.structure.search import one_shot
from ppuda_jax.structure.search.loop import SearchResult, SearchSettings, num_steps, search
from ppuda_jax.structure.search.method import Method
from ppuda_jax.structure.search.problem import Objects, Problem, classification
from ppuda_jax.structure.search.training import trainer
from ppuda_jax.structure.search.variational import WarmUp, variational

HEADER = (
    "method",
    "parameters",
    "test accuracy",
    "shared weights",
    "skips",
    "eigenvalue",
    "seconds",
)
_WEIGHT_RATE, _STRUCTURE_RATE = 1e-3, 1e-2  # of Adam, as published for this family
_VIRTUAL_RATE = 0.025  # of the step of second order, as DARTS has it
_CLIP = 1.0  # of every entry of a gradient, as published
_PRIOR_TEMPERATURE = 0.2
_CENTRED_PRIOR = 0.1  # there are hundreds of weights for every object
_ADANET_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every method may use.

    Attributes:
      epochs: of the search, and of the training of what it chose.
      batch_size: images per step.
      seeds: of independent runs.
      folder: where searches are saved; None for nowhere.
    """

    epochs: int
    batch_size: int = 64
    seeds: tuple[int, ...] = (0,)
    folder: pathlib.Path | None = None

    @property
    def settings(self) -> SearchSettings:
        """The same for the loop."""
        return SearchSettings(self.epochs, self.batch_size)


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of perceptrons on images.

    Attributes:
      problem: for searches.
      final: training and validation images together, tested on the test images.
    """

    problem: Problem
    final: Problem


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
      eigenvalue: largest of the Hessian of the validation loss in the logits, last epoch.
      valid_score: accuracy with the search's weights on validation images; None without them.
      test_score: accuracy of the network, trained from the start, on test images.
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


def image_task(
    dataset: str,
    data_dir: str | None = None,
    *,
    widths: Sequence[int],
    layers: int,
    max_images: int | None = None,
) -> Task:
    """Images in grey, one vector each, and the perceptrons on them.

    Half of the training images are for weights and half for structures, as DARTS has it. The
    digits, which come enlarged, are taken at their own 8x8 pixels.

    Args:
      dataset: any name that `load_images` takes.
      data_dir: TFDS folder.
      widths: of a layer.
      layers: most hidden layers.
      max_images: only the first training images.

    Raises:
      ValueError, FileNotFoundError: no such images, or fewer than two.
    """
    stride = 4 if dataset == "digits" else 1
    parts = []
    train = load_images(dataset, "trainval", data_dir, max_images=max_images)
    test = load_images(dataset, "test", data_dir)
    for images in (train, test):
        grey = (
            images.images[:, ::stride, ::stride].mean(-1, dtype=np.float32).reshape(len(images), -1)
        )
        parts.append((grey, images.labels))
    if len(train) < 2:
        raise ValueError(f"two halves need at least 2 training images, received {len(train)}")
    mean, std = parts[0][0].mean(), parts[0][0].std()
    whole, tested = (
        Objects(jnp.asarray((grey - mean) / std), jnp.asarray(labels)) for grey, labels in parts
    )
    half = len(train) // 2
    supernet = mlp(whole.x.shape[1], train.spec.num_classes, widths, layers)
    problem = classification(
        supernet, Objects(whole.x[:half], whole.y[:half]), Objects(whole.x[half:], whole.y[half:])
    )
    return Task(problem, classification(supernet, whole, tested))


def compare(task: Task, methods: Sequence[str], budget: Budget) -> list[MethodResult]:
    """Runs methods by name.

    Raises:
      ValueError: a method that does not exist, or none.
    """
    known = (*METHODS, "adanet")
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        raise ValueError(f"methods must be of {known}, received {tuple(methods)}")
    return [
        _grow(task, budget) if name == "adanet" else _search(task, name, budget) for name in methods
    ]


def _weights() -> optax.GradientTransformation:
    return optax.chain(optax.clip(_CLIP), optax.adam(_WEIGHT_RATE))


def _logits() -> optax.GradientTransformation:
    return optax.chain(optax.clip(_CLIP), optax.adam(_STRUCTURE_RATE))


def _variational(problem: Problem, objective: TwoLevel, warm_up: WarmUp | None = None) -> Method:
    rates = optax.partition(
        {"weights": _weights(), "logits": _logits()},
        lambda params: dataclasses.replace(
            jax.tree.map(lambda _: "weights", params),
            logits=jax.tree.map(lambda _: "logits", params.logits),
        ),
    )
    return variational(problem, objective, rates, rates, std=0.01, warm_up=warm_up)


def _non_centred(problem: Problem, steps: int) -> Method:
    del steps
    return _variational(
        problem, TwoLevel(_no_likelihood, elbo(), _PRIOR_TEMPERATURE, tied_temperatures=True)
    )


def _centred(problem: Problem, steps: int) -> Method:
    """Units that a structure leaves out have a narrow prior, so that fewer units cost less."""
    objective = TwoLevel(
        _no_likelihood,
        one_level(_CENTRED_PRIOR),
        _PRIOR_TEMPERATURE,
        form="centred",
        floor=0.01,
        tied_temperatures=True,
    )
    return _variational(problem, objective, WarmUp(max(1, steps // 2), log_precision=0.0))


def _no_likelihood(weights: Any, structure: Any) -> jax.Array:
    raise ValueError("the search puts the likelihood of its objects in this place")


def _cooling(ends: tuple[float, float], steps: int) -> optax.Schedule:
    return optax.linear_schedule(*ends, steps)


METHODS: dict[str, Callable[[Problem, int], Method]] = {
    "darts": lambda problem, steps: one_shot.darts(problem, _weights(), _logits()),
    "darts_second_order": lambda problem, steps: one_shot.darts(
        problem, _weights(), _logits(), rate=_VIRTUAL_RATE
    ),
    "gdas": lambda problem, steps: one_shot.gdas(
        problem, _weights(), _logits(), _cooling(one_shot.GDAS_TEMPERATURE, steps)
    ),
    "snas": lambda problem, steps: one_shot.snas(
        problem, _weights(), _logits(), _cooling(one_shot.SNAS_TEMPERATURE, steps)
    ),
    "random": lambda problem, steps: one_shot.random_sharing(problem, _weights()),
    "variational": _non_centred,
    "variational_centred": _centred,
}
"""Methods of the loop: (problem, steps of the search) -> method."""


def _search(task: Task, name: str, budget: Budget) -> MethodResult:
    start = time.perf_counter()
    problem = task.problem
    steps = budget.epochs * num_steps(problem, budget.settings)
    folder = None if budget.folder is None else budget.folder / name
    method = METHODS[name](problem, steps)
    result = search(problem, method, budget.settings, budget.seeds, directory=folder)
    choices = {edge: numbers[:, -1] for edge, numbers in result.history.choice.items()}
    scores = _trained_scores(task, choices, budget)
    rows = tuple(
        _row(problem, name, result, position, float(scores[position]))
        for position in range(len(budget.seeds))
    )
    seconds = time.perf_counter() - start
    history = result.history
    return MethodResult(name, rows, seconds, np.asarray(history.score), np.asarray(history.size))


def _trained_scores(task: Task, choices: Any, budget: Budget) -> jax.Array:
    weights = trainer(task.final, _weights(), budget.settings)(budget.seeds, choices)

    def score(weights: Any, choice: Any) -> jax.Array:
        return task.final.score_of(weights, task.final.supernet.vertex(choice), task.final.valid)

    return jax.jit(jax.vmap(score))(weights, choices)


def _row(
    problem: Problem, name: str, result: SearchResult, position: int, test_score: float
) -> Row:
    last = jax.tree.map(lambda leaf: leaf[position, -1], result.history)
    return Row(
        name,
        result.seeds[position],
        problem.supernet.describe(result.choice(position)),
        int(last.size),
        float(last.flops),
        int(last.skips),
        float(last.eigenvalue),
        float(last.score),
        test_score,
    )


def _grow(task: Task, budget: Budget) -> MethodResult:
    start = time.perf_counter()
    epochs = max(1, budget.epochs // (2 * _ADANET_ROUNDS))
    settings = SearchSettings(epochs, budget.batch_size, 0)
    supernet = task.final.supernet
    middle = 1 + (supernet.num_functions[0, 1] - 1) // 2  # of the widths
    run = functools.partial(
        ada.adanet,
        SameOrDeeper(supernet, middle, trainer(task.final, _weights(), settings)),
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
    return MethodResult("adanet", tuple(rows), time.perf_counter() - start)
