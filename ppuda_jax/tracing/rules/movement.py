"""Rules for primitives that move elements of one value: they act on views and on labels alike."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import (
    SAME,
    Labels,
    axis_labels,
    broadcast_labels,
    reshape_labels,
    resized_all,
    without,
)
from ppuda_jax.tracing.patterns import pools
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Fold, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Event, Joined, Value, Weight, refused
from ppuda_jax.tracing.views import View, filler


@dataclasses.dataclass(frozen=True)
class Movement:
    """What a primitive does to each description of a value.

    Attributes:
      view: layout of a parameter afterwards.
      labels: meaning of the axes of data afterwards.
      joined: a concatenation of parameters afterwards; None where its parts are cut.
      event: what it is to the state of data.
    """

    view: Callable[[Equation, View, list[Value]], View]
    labels: Callable[[Equation, Labels], Labels]
    joined: Callable[[Equation, Joined, list[Value]], Value | None] = lambda eqn, x, ins: None
    event: Event = Event.CUT


def move(movement: Movement, tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Applies a movement to whatever the value is."""
    value = ins[0]
    if isinstance(value, Weight):
        return value.map(lambda view: movement.view(eqn, view, ins))
    if isinstance(value, Joined):
        moved = movement.joined(eqn, value, ins)
        if moved is None:
            reason = f"joined with others and taken apart in another way ({eqn.name})"
            return refused(eqn.shape, (value,), reason)
        return moved
    if not isinstance(value, Act):
        return contract(tracer, eqn, ins)
    labels = movement.labels(eqn, value.labels)
    if movement.event is Event.SHIFTED_SLICE:
        return pools.shifted(value, labels, eqn.params["start_indices"])
    if movement.event is Event.CUT:
        value = value.settled()
    return value.after(movement.event, labels)


def moves(name: str, movement: Movement, fold: Fold | None = None) -> None:
    """Registers a movement."""
    rule(name, kind=Kind.MOVEMENT, fold=fold)(functools.partial(move, movement))


def _part(change: Callable[[View], View]) -> Callable[[Weight], Weight]:
    return lambda part: part.map(change)


# --- transpose, squeeze, broadcast, reshape ---------------------------------------------------


def _transposed(eqn: Equation, joined: Joined, ins: list[Value]) -> Value:
    permutation = tuple(eqn.params["permutation"])
    return joined.map(permutation.index(joined.axis), _part(lambda v: v.transpose(permutation)))


moves(
    "transpose",
    Movement(
        lambda eqn, view, ins: view.transpose(eqn.params["permutation"]),
        lambda eqn, labels: tuple(labels[i] for i in eqn.params["permutation"]),
        _transposed,
        Event.RENAME,
    ),
)


def _squeezed(eqn: Equation, joined: Joined, ins: list[Value]) -> Value | None:
    gone = {int(d) for d in eqn.params["dimensions"]}
    if joined.axis in gone:
        return None
    axis = joined.axis - sum(d < joined.axis for d in gone)
    return joined.map(axis, _part(lambda v: v.drop(gone)))


moves(
    "squeeze",
    Movement(
        lambda eqn, view, ins: view.drop(map(int, eqn.params["dimensions"])),
        lambda eqn, labels: without(labels, map(int, eqn.params["dimensions"])),
        _squeezed,
        Event.RENAME,
    ),
    fold=lambda eqn, x: x.reshape(eqn.shape),
)


def _broadcast_joined(eqn: Equation, joined: Joined, ins: list[Value]) -> Value:
    where = eqn.params["broadcast_dimensions"]
    target = int(where[joined.axis])

    def spread(part: Weight) -> Weight:
        shape = (*eqn.shape[:target], part.shape[joined.axis], *eqn.shape[target + 1 :])
        return part.map(lambda v: v.broadcast(shape, where))

    return joined.map(target, spread)


def _fold_broadcast(eqn: Equation, x: np.ndarray) -> np.ndarray:
    view = [1] * len(eqn.shape)
    for size, target in zip(x.shape, eqn.params["broadcast_dimensions"], strict=True):
        view[target] = size
    return np.broadcast_to(x.reshape(view), eqn.shape)


moves(
    "broadcast_in_dim",
    Movement(
        lambda eqn, view, ins: view.broadcast(eqn.shape, eqn.params["broadcast_dimensions"]),
        lambda eqn, labels: broadcast_labels(labels, eqn.shape, eqn.params["broadcast_dimensions"]),
        _broadcast_joined,
        Event.RENAME,
    ),
    fold=_fold_broadcast,
)


def _ordered(eqn: Equation, rank: int) -> Sequence[int]:
    order = eqn.params.get("dimensions")
    return range(rank) if order is None else order


def _reshaped(eqn: Equation, joined: Joined, ins: list[Value]) -> Value | None:
    if eqn.params.get("dimensions") is not None:
        return None
    axis = joined.axis
    target = _same_without_units(joined.shape, eqn.shape, axis)
    if target is None:
        return None

    def reshape(part: Weight) -> Weight:
        shape = (*eqn.shape[:target], part.shape[axis], *eqn.shape[target + 1 :])
        return part.map(lambda v: v.reshape(shape))

    return joined.map(target, reshape)


def _same_without_units(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Where an axis goes in a reshape that only adds or removes axes of size 1."""
    kept = [i for i, n in enumerate(before) if n != 1]
    targets = [i for i, n in enumerate(after) if n != 1]
    if axis not in kept or [before[i] for i in kept] != [after[i] for i in targets]:
        return None
    return targets[kept.index(axis)]


moves(
    "reshape",
    Movement(
        lambda eqn, view, ins: view.transpose(_ordered(eqn, len(view.axes))).reshape(eqn.shape),
        lambda eqn, labels: reshape_labels(
            tuple(labels[i] for i in _ordered(eqn, len(labels))), eqn.shape
        ),
        _reshaped,
        Event.RENAME,
    ),
    fold=lambda eqn, x: x.reshape(eqn.shape),
)
rule("expand_dims", kind=Kind.MOVEMENT, fold=lambda eqn, x: x.reshape(eqn.shape))(contract)


# --- slices, reversal, padding ----------------------------------------------------------------


def windows(view: View, starts: Sequence[int], counts: Sequence[int], steps: Sequence[int]) -> View:
    """Takes `counts` positions of every axis from `starts` on."""
    for axis, window in enumerate(zip(starts, counts, steps, strict=True)):
        view = view.window(axis, *map(int, window))
    return view


def _steps(eqn: Equation) -> Sequence[int]:
    return eqn.params.get("strides") or (1,) * len(eqn.shape)


def select_window(joined: Joined, starts: Sequence[Any], counts: Sequence[int]) -> Value | None:
    """A window of a concatenation along the joined axis alone."""
    axis = joined.axis
    others = [i for i in range(len(counts)) if i != axis]
    if starts[axis] is None or any(counts[i] != joined.shape[i] for i in others):
        return None
    return joined.select(int(starts[axis]), counts[axis])


def _sliced(eqn: Equation, joined: Joined, ins: list[Value]) -> Value | None:
    if any(step != 1 for step in _steps(eqn)):
        return None
    return select_window(joined, eqn.params["start_indices"], eqn.shape)


def _fold_slice(eqn: Equation, x: np.ndarray) -> np.ndarray:
    limits = eqn.params["limit_indices"]
    where = zip(eqn.params["start_indices"], limits, _steps(eqn), strict=True)
    return x[tuple(slice(*window) for window in where)]


moves(
    "slice",
    Movement(
        lambda eqn, view, ins: windows(view, eqn.params["start_indices"], eqn.shape, _steps(eqn)),
        lambda eqn, labels: resized_all(labels, eqn.shape),
        _sliced,
        Event.SHIFTED_SLICE,
    ),
    fold=_fold_slice,
)


def _reverse(eqn: Equation, view: View, ins: list[Value]) -> View:
    for axis in eqn.params["dimensions"]:
        view = view.reverse(axis)
    return view


moves("rev", Movement(_reverse, lambda eqn, labels: labels))
moves(
    "pad",
    Movement(
        lambda eqn, view, ins: view if view.shape == eqn.shape else view.opaque(eqn.shape),
        lambda eqn, labels: resized_all(labels, eqn.shape),
    ),
)


def _tile(eqn: Equation, view: View, ins: list[Value]) -> View:
    axes = tuple(
        axis if n == 1 else (filler(int(n)), *axis)
        for n, axis in zip(eqn.params["reps"], view.axes, strict=True)
    )
    return dataclasses.replace(view, axes=axes)


moves(
    "tile",
    Movement(
        _tile,
        lambda eqn, labels: tuple(
            axis if n == 1 else (*axis_labels(SAME, int(n)), *axis)
            for n, axis in zip(eqn.params["reps"], labels, strict=True)
        ),
    ),
)
