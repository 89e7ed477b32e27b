"""Batch-norm statistics from data: fills Flax `batch_stats` for predicted parameters.

The paper evaluates on the statistics of each test batch; statistics gathered over many training
batches are better (appendix C.1: 71.7 against 66.9 % on CIFAR-10).

Modules keep more than moving averages in that collection: `nn.SpectralNorm` the vectors of its
power iteration, others counters or ranges. A moving average is told by what it does: it depends on
the batch, nothing else depends on it, and it is affine in its own old value. All other leaves go
through the batches as the network updates them.

Legend: `B` images a batch. Leaves of the collection go by their number in the flattened tree.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_COLLECTION = "batch_stats"
_FAR = 1e3  # an old value that no statistic is near to: tells averages from maxima and minima
_TOLERANCE = 1e-3  # of momenta that are measured on old values of +-_FAR
_REPAIR = (
    "pass the argument that puts it into training mode, e.g. "
    "calibrate(net.apply, variables, batches, train=True)."
)
_LOG = logging.getLogger(__name__)


def calibrate(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    batches: Iterable[jax.Array],
    **kwargs: Any,
) -> dict[str, Any]:
    """Averages the batch statistics of a Flax network over batches.

    Works with any momentum, which is measured by running the network on several old values. What
    is compiled serves later calls with an equal `apply_fn` and `kwargs`.

    Args:
      apply_fn: called as `apply_fn(variables, batch, mutable=["batch_stats"], **kwargs)`, must
        return (output, updated collections): a Flax `net.apply`.
      variables: `{"params": ...}`; the moving averages in a collection "batch_stats" in it are
        replaced, its other leaves go on from their values.
      batches: arrays [B, ...] of inputs, as the network expects them.
      **kwargs: what puts the network into training mode, e.g. `train=True` or
        `use_running_average=False`; leaves that are no arrays must be hashable.

    Returns:
      `variables` with "batch_stats" averaged over the batches. What is no moving average is as the
      network leaves it after the last batch.

    Raises:
      ValueError: if there is no batch, or the network updates no statistics.

    Examples:
      >>> import flax.linen as nn
      >>> import jax, jax.numpy as jnp
      >>> import ppuda_jax as pj
      >>> norm = nn.BatchNorm(use_running_average=False)
      >>> batch = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> variables = norm.init(jax.random.key(0), batch)
      >>> pj.calibrate(norm.apply, variables, [batch])["batch_stats"]["mean"].round(2).tolist()
      [2.0, 20.0]
    """
    fixed = {name: value for name, value in variables.items() if name != _COLLECTION}
    network = _Network.of(apply_fn, fixed, kwargs)
    state: list[jax.Array] | None = None
    count = 0
    for batch in batches:
        if state is None:
            state, structure, momenta = _start(network, variables.get(_COLLECTION), batch)
            zeros = {i: jnp.zeros_like(state[i]) for i in momenta}
            total = zeros
        updated = network.update(structure, _replaced(state, zeros), batch)[1]
        total = {i: total[i] + updated[i] for i in momenta}
        state, count = updated, count + 1
    if state is None:
        raise ValueError("batches must hold at least one batch of inputs, received none.")
    averages = {
        i: (total[i] / count / (1 - keep)).astype(total[i].dtype) for i, keep in momenta.items()
    }
    return {**fixed, _COLLECTION: jax.tree.unflatten(structure, _replaced(state, averages))}


# --- running the network ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Call:
    """The part of a call that is compiled in.

    Attributes:
      apply_fn: the network.
      structure: of the keyword arguments.
      leaves: of the keyword arguments, None in the place of arrays.
    """

    apply_fn: Callable[..., Any]
    structure: Any
    leaves: tuple[Any, ...]


# One jitted function for all networks: its cache keeps what is compiled between calls.
@functools.partial(jax.jit, static_argnums=0)
def _run(call: _Call, arrays: Sequence[Any], fixed: Any, statistics: Any, batch: Any) -> Any:
    rest = iter(arrays)
    leaves = [next(rest) if leaf is None else leaf for leaf in call.leaves]
    kwargs = jax.tree.unflatten(call.structure, leaves)
    variables = {**fixed, _COLLECTION: statistics}
    output, updated = call.apply_fn(variables, batch, mutable=[_COLLECTION], **kwargs)
    return output, updated.get(_COLLECTION, {})


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network in training mode as a function of its statistics and a batch.

    Attributes:
      call: what is compiled in.
      arrays: arrays among the keyword arguments.
      fixed: all collections but the statistics.
    """

    call: _Call
    arrays: tuple[Any, ...]
    fixed: Mapping[str, Any]

    @classmethod
    def of(
        cls, apply_fn: Callable[..., Any], fixed: Mapping[str, Any], kwargs: Mapping[str, Any]
    ) -> "_Network":
        leaves, structure = jax.tree.flatten(dict(kwargs))
        is_array = [hasattr(leaf, "dtype") for leaf in leaves]
        static = tuple(None if a else leaf for a, leaf in zip(is_array, leaves, strict=True))
        arrays = tuple(leaf for a, leaf in zip(is_array, leaves, strict=True) if a)
        return cls(_Call(apply_fn, structure, static), arrays, fixed)

    def run(self, statistics: Any, batch: Any) -> Any:
        """(output, updated statistics)."""
        return _run(self.call, self.arrays, self.fixed, statistics, batch)

    def update(
        self, structure: Any, leaves: Sequence[jax.Array], batch: Any
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Leaves of the output and of the updated statistics."""
        output, updated = self.run(jax.tree.unflatten(structure, leaves), batch)
        return jax.tree.leaves(output), jax.tree.leaves(updated)

    def shapes(self, statistics: Any, batch: Any) -> Any:
        """Shapes of the updated statistics."""
        return jax.eval_shape(self.run, statistics, batch)[1]


def _start(
    network: _Network, given: Any, batch: Any
) -> tuple[list[jax.Array], Any, dict[int, float]]:
    """Where the statistics start: leaves, their structure, momentum of the moving averages."""
    given = given or {}
    shapes, structure = _flat(network.shapes(given, batch))
    if not shapes:
        raise ValueError(f"the network updated no {_COLLECTION}: {_REPAIR}")
    leaves, own_structure = _flat(given)
    complete = own_structure == structure
    if complete:
        state = [jnp.asarray(leaf) for leaf in leaves]
    else:
        state = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in shapes]
    momenta = _momenta(network, structure, state, batch)
    if not complete and len(momenta) < len(state):
        # Zeros serve moving averages only: the rest starts from the network's own values, which
        # costs the compilation of another call.
        state = jax.tree.leaves(network.run(given, batch)[1])
        momenta = _momenta(network, structure, state, batch)
    return state, structure, momenta


# --- telling moving averages from the rest ----------------------------------------------------


def _momenta(
    network: _Network, structure: Any, state: list[jax.Array], batch: Any
) -> dict[int, float]:
    """How much of its old value each moving average keeps; other leaves are left out."""

    def update(values: Mapping[int, jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        return network.update(structure, _replaced(state, values), batch)

    base = update({})
    without = network.update(structure, state, jax.tree.map(_spoilt, batch))[1]
    found = [
        i
        for i, (leaf, new) in enumerate(zip(base[1], without, strict=True))
        if jnp.issubdtype(leaf.dtype, jnp.floating) and bool(jnp.any(leaf != new))
    ]
    if not found:
        _check_progress(structure, state, base[1])
    while found:
        passive = _passive(update, state, base, found)
        momenta = _affine(update, state, passive)
        if list(momenta) == found:
            return momenta
        found = list(momenta)  # what was dropped may depend on what is left: look again
    return {}


def _spoilt(batch: Any) -> Any:
    """A batch that changes whatever depends on it."""
    if jnp.issubdtype(batch.dtype, jnp.floating):
        return jnp.full_like(batch, jnp.nan)
    return jnp.zeros_like(batch)


def _check_progress(structure: Any, old: Sequence[jax.Array], new: Sequence[jax.Array]) -> None:
    """Raises ValueError if an update changes nothing."""
    if any(bool(jnp.any(a != b)) for a, b in zip(old, new, strict=True)):
        _LOG.info("the network keeps no moving averages in %s", _COLLECTION)
        return
    names = jax.tree.leaves(
        jax.tree_util.tree_map_with_path(
            lambda path, _: jax.tree_util.keystr(path), jax.tree.unflatten(structure, list(old))
        )
    )
    raise ValueError(f"the network did not update {names[:3]}: {_REPAIR}")


def _passive(
    update: Callable[..., Any], state: Sequence[jax.Array], base: Any, chosen: Sequence[int]
) -> list[int]:
    """Those of some leaves on which nothing depends but their own update.

    Not-a-numbers spread to whatever depends on them; a set that spreads them is halved.
    """
    output, updated = update({i: jnp.full_like(state[i], jnp.nan) for i in chosen})
    others = [i for i in range(len(state)) if i not in chosen]
    pairs = [*zip(output, base[0], strict=True), *((updated[i], base[1][i]) for i in others)]
    if not any(_spread(new, old) for new, old in pairs):
        return list(chosen)
    if len(chosen) == 1:
        return []
    middle = len(chosen) // 2
    halves = (chosen[:middle], chosen[middle:])
    return [i for half in halves for i in _passive(update, state, base, half)]


def _spread(new: jax.Array, old: jax.Array) -> bool:
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return bool(jnp.any(new != old))
    return bool(jnp.any(jnp.isnan(new))) or bool(jnp.any(jnp.isnan(old)))


def _affine(
    update: Callable[..., Any], state: Sequence[jax.Array], chosen: Sequence[int]
) -> dict[int, float]:
    """Momentum of those of some leaves that are affine in their own old value."""
    if not chosen:
        return {}
    low, middle, high = (
        update({i: jnp.full_like(state[i], value) for i in chosen})[1]
        for value in (-_FAR, 0.0, _FAR)
    )
    momenta = {}
    for i in chosen:
        up, down = (high[i] - middle[i]) / _FAR, (middle[i] - low[i]) / _FAR
        keep = float(jnp.mean(up))
        deviation = max(float(jnp.max(jnp.abs(part - keep))) for part in (up, down))
        if deviation <= _TOLERANCE and -_TOLERANCE <= keep < 1 - 1e-6:
            momenta[i] = keep
    return momenta


def _flat(tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure of a pytree; the structure's type is opaque to type checkers."""
    return jax.tree.flatten(tree)


def _replaced(leaves: Sequence[jax.Array], values: Mapping[int, jax.Array]) -> list[jax.Array]:
    return [values.get(i, leaf) for i, leaf in enumerate(leaves)]
