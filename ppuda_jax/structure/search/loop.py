"""The loop of all searches: epochs of compiled steps, several seeds at once, exact resume.

Every random number comes from (seed, epoch, step), so a state at the end of an epoch is all that
there is to continue from: a search that was killed and continued equals one that was not, bit for
bit.

Legend: `S` seeds, `E` epochs, `K` functions of an edge.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.hypergradients import hessian_eigenvalue
from ppuda_jax.structure.search.method import Method
from ppuda_jax.structure.search.problem import Objects, Problem
from ppuda_jax.structure.search.saved import SavedSearch


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The budget of a search.

    Attributes:
      epochs: over the training objects.
      batch_size: of training and validation objects; all objects where there are fewer.
      eigenvalue_steps: of power iteration for the report's Hessian; 0 leaves it out.

    Raises:
      ValueError: a number below its least.
    """

    epochs: int
    batch_size: int = 64
    eigenvalue_steps: int = 10

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("eigenvalue_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")


class EpochReport(NamedTuple):
    """What is known at the end of an epoch; in a history each field is [S, E, ...].

    Attributes:
      choice: number of the chosen function of every edge, int32.
      probabilities: weights of the functions of every edge, [..., K].
      loss: of the chosen network with the search's weights, on validation objects.
      score: likewise.
      size: its parameters.
      flops: its operations for one object.
      skips: its skip connections, int32.
      eigenvalue: the largest of the Hessian of the validation loss in the logits; nan if left out.
      temperature: of the relaxation; nan without one.
    """

    choice: dict[Edge, jax.Array]
    probabilities: dict[Edge, jax.Array]
    loss: jax.Array
    score: jax.Array
    size: jax.Array
    flops: jax.Array
    skips: jax.Array
    eigenvalue: jax.Array
    temperature: jax.Array


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
      method: its name.
      seeds: what it was run with.
      history: of all epochs, NumPy arrays [S, E, ...].
      state: of the method, leading axis S.
    """

    method: str
    seeds: tuple[int, ...]
    history: EpochReport
    state: Any

    def choice(self, seed: int, epoch: int = -1) -> Choice:
        """The network of a seed (by position) after an epoch."""
        return {edge: int(values[seed, epoch]) for edge, values in self.history.choice.items()}


def search(
    problem: Problem,
    method: Method,
    settings: SearchSettings,
    seeds: Sequence[int] = (0,),
    *,
    directory: str | os.PathLike[str] | None = None,
    progress: Callable[[int, EpochReport], None] | None = None,
) -> SearchResult:
    """Runs a search, or continues the one in `directory`.

    Args:
      problem: what is searched for.
      method: how.
      settings: the budget.
      seeds: of independent searches, which are run together.
      directory: where every epoch is saved; None for nowhere.
      progress: called after every epoch with its number and report, leaves [S, ...].

    Raises:
      ValueError: no seeds, one twice, or a directory with another search.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, received {list(seeds)}")
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    run_epoch = jax.jit(_all_seeds(problem, method, settings))
    # Not compiled: programs that draw many arrays take longer to compile than to run by operation.
    state = jax.vmap(lambda key: method.init(jax.random.fold_in(key, 0)))(keys)
    report = jax.eval_shape(run_epoch, state, keys, 0)[1]
    history = jax.tree.map(
        lambda leaf: np.zeros((leaf.shape[0], settings.epochs, *leaf.shape[1:]), leaf.dtype), report
    )
    first = 0
    saved = None
    if directory is not None:
        saved = SavedSearch(directory, _identity(problem, method, settings, seeds))
        first, (state, history) = saved.restore((state, history))
    for epoch in range(first, settings.epochs):
        state, report = run_epoch(state, keys, epoch)
        report = jax.tree.map(np.asarray, report)
        jax.tree.map(
            lambda rows, row, at=epoch: rows.__setitem__((slice(None), at), row), history, report
        )
        if saved is not None:
            saved.save(epoch + 1, (state, history))
        if progress is not None:
            progress(epoch, report)
    return SearchResult(method.name, tuple(seeds), history, state)


def _all_seeds(problem: Problem, method: Method, settings: SearchSettings) -> Callable:
    """One epoch of all seeds, together where that costs less than one after the other."""
    epoch = functools.partial(_epoch, problem, method, settings)
    if problem.supernet.apply_vertex is None:
        return jax.vmap(epoch, (0, 0, None))

    # Mapped over seeds a conditional computes all of its branches.
    def each(states: Any, keys: jax.Array, number: jax.Array) -> tuple[Any, EpochReport]:
        return jax.lax.map(lambda pair: epoch(pair[0], pair[1], number), (states, keys))

    return each


def _epoch(
    problem: Problem,
    method: Method,
    settings: SearchSettings,
    state: Any,
    key: jax.Array,
    epoch: jax.Array,
) -> tuple[Any, EpochReport]:
    """One epoch of one seed, and its report."""
    state = run_steps(problem, method, settings, state, key, epoch)
    number = (epoch + 1) * num_steps(problem, settings) - 1
    report_key = jax.random.fold_in(jax.random.fold_in(key, epoch + 1), 1)
    return state, _report(problem, method, settings, state, report_key, number)


def num_steps(problem: Problem, settings: SearchSettings) -> int:
    """Steps of an epoch; a batch that is not full is left out."""
    return len(problem.train.x) // min(settings.batch_size, len(problem.train.x))


def run_steps(
    problem: Problem,
    method: Method,
    settings: SearchSettings,
    state: Any,
    key: jax.Array,
    epoch: jax.Array,
) -> Any:
    """The steps of one epoch of one seed: the state behind them; `key` is the seed's."""
    key = jax.random.fold_in(jax.random.fold_in(key, epoch + 1), 0)
    order_key, valid_key, step_key = jax.random.split(key, 3)
    size = min(settings.batch_size, len(problem.train.x))
    steps = num_steps(problem, settings)
    train = _order(order_key, len(problem.train.x), steps, size)
    valid_size = min(settings.batch_size, len(problem.valid.x))
    valid = _order(valid_key, len(problem.valid.x), steps, valid_size)

    def step(state: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
        number, train_rows, valid_rows = batch
        state = method.step(
            state,
            problem.train.take(train_rows),
            problem.valid.take(valid_rows),
            jax.random.fold_in(step_key, number),
            epoch * steps + number,
        )
        return state, None

    return jax.lax.scan(step, state, (jnp.arange(steps), train, valid))[0]


def _order(key: jax.Array, count: int, steps: int, size: int) -> jax.Array:
    """Rows of the batches, [steps, size]: permutations one after the other."""
    rounds = -(-steps * size // count)
    keys = jax.random.split(key, rounds)
    rows = jax.vmap(lambda k: jax.random.permutation(k, count))(keys).reshape(-1)
    return rows[: steps * size].reshape(steps, size)


def _report(
    problem: Problem,
    method: Method,
    settings: SearchSettings,
    state: Any,
    key: jax.Array,
    number: jax.Array,
) -> EpochReport:
    supernet, weights, logits = problem.supernet, method.weights(state), method.logits(state)
    choose_key, eigen_key = jax.random.split(key)
    probabilities = {edge: jax.nn.softmax(values) for edge, values in logits.items()}
    if method.choose is None:
        choice = supernet.discretise(probabilities)
    else:
        choice = method.choose(state, choose_key, lambda n: problem.evaluate(weights, n).score)
    choice = {edge: number.astype(jnp.int32) for edge, number in choice.items()}
    structure, worth = supernet.vertex(choice), problem.evaluate(weights, choice)
    return EpochReport(
        choice,
        probabilities,
        worth.loss,
        worth.score,
        supernet.size(structure),
        supernet.flops(structure),
        _skips(problem, choice),
        _eigenvalue(problem, settings, weights, logits, eigen_key),
        jnp.asarray(jnp.nan if method.temperature is None else method.temperature(number), float),
    )


def _skips(problem: Problem, choice: dict[Edge, jax.Array]) -> jax.Array:
    supernet = problem.supernet
    parts = [
        jnp.array([name in supernet.skips for name in names])[choice[edge]].astype(jnp.int32)
        for edge, names in supernet.names.items()
    ]
    return sum(parts, start=jnp.zeros((), jnp.int32))


def _eigenvalue(
    problem: Problem, settings: SearchSettings, weights: Any, logits: Any, key: jax.Array
) -> jax.Array:
    if settings.eigenvalue_steps == 0:
        return jnp.asarray(jnp.nan)
    size = min(settings.batch_size, len(problem.valid.x))
    objects = problem.valid.take(jnp.arange(size))

    def loss(values: Any) -> jax.Array:
        structure = {edge: jax.nn.softmax(v) for edge, v in values.items()}
        return problem.loss_of(weights, structure, objects)

    return hessian_eigenvalue(loss, logits, key, settings.eigenvalue_steps)


def _identity(
    problem: Problem, method: Method, settings: SearchSettings, seeds: Sequence[int]
) -> dict[str, Any]:
    """What a saved search must have in common with one that continues it."""
    names = {f"{j}-{k}": list(names) for (j, k), names in problem.supernet.names.items()}
    state = jax.eval_shape(method.init, jax.random.key(0))
    return {
        "method": method.name,
        "settings": dataclasses.asdict(settings),
        "seeds": [int(seed) for seed in seeds],
        "functions": names,
        "objects": [_digest(problem.train), _digest(problem.valid)],
        "shapes": [str(leaf.shape) for leaf in jax.tree.leaves(state)],
    }


def _digest(objects: Objects) -> int:
    """A checksum of objects and targets."""
    return zlib.crc32(np.asarray(objects.y).tobytes(), zlib.crc32(np.asarray(objects.x).tobytes()))
