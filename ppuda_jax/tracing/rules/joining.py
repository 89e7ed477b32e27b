"""Rules that put values side by side and take them apart again."""

import dataclasses

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import (
    ANY,
    STACKED,
    Label,
    Labels,
    axis_labels,
    resized,
    resized_all,
)
from ppuda_jax.tracing.patterns import pools
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import PLAIN, Act, Event, Joined, Value, Weight, refused


@rule("split", kind=Kind.MOVEMENT)
def split(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Splits along one axis."""
    value, axis, start = ins[0], int(eqn.params["axis"]), 0
    results: list[Value] = []
    for size, shape in zip(map(int, eqn.params["sizes"]), eqn.shapes, strict=True):
        if isinstance(value, Weight):
            results.append(value.window(axis, start, size))
        elif isinstance(value, Joined):
            results.append(_part(value, axis, start, size, shape))
        elif isinstance(value, Act):
            labels = list(value.labels)
            labels[axis] = resized(labels[axis], size)
            results.append(_apart(value, tuple(labels)))
        start += size
    return results


def _part(joined: Joined, axis: int, start: int, size: int, shape: tuple[int, ...]) -> Value:
    if axis == joined.axis:
        return joined.select(start, size)
    return refused(shape, (joined,), "joined with others and split along another axis")


@rule("unstack", kind=Kind.MOVEMENT)
def unstack(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Takes the positions of an axis apart."""
    axis, value = int(eqn.params["axis"]), ins[0]
    results: list[Value] = []
    for i, shape in enumerate(eqn.shapes):
        if isinstance(value, Joined):
            part = _part(value, axis, i, 1, shape)
            results.append(part.row(axis, 0) if isinstance(part, Weight) else part)
        elif isinstance(value, Weight):
            results.append(value.row(axis, i))
        elif isinstance(value, Act):
            labels = (*value.labels[:axis], *value.labels[axis + 1 :])
            results.append(_apart(value.settled(), labels))
    return results


@rule(
    "concatenate",
    kind=Kind.MOVEMENT,
    fold=lambda eqn, *parts: np.concatenate(parts, axis=eqn.params["dimension"]),
)
def concatenate(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Joins data (a concat node), data and tokens, or parameters."""
    return _join(tracer, ins, int(eqn.params["dimension"]), eqn.shape)


@rule("stack", kind=Kind.MOVEMENT)
def stack(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Joins along a new axis."""
    axis, shape = int(eqn.params["axis"]), eqn.shape
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    where = [i for i in range(len(shape)) if i != axis]
    opened: list[Value] = []
    for value in ins:
        if isinstance(value, Weight):
            value = value.map(lambda v: v.broadcast(one, where))
        elif isinstance(value, Act):
            labels = (*value.labels[:axis], (Label(STACKED, 1),), *value.labels[axis:])
            value = dataclasses.replace(value.settled(), labels=labels)
        elif isinstance(value, Joined):
            value = refused(one, (value,), "joined with others and stacked")
        opened.append(value)
    return _join(tracer, opened, axis, shape)


def _join(tracer: Interpreter, ins: list[Value], axis: int, shape: tuple[int, ...]) -> Value:
    """Values side by side along an axis; those without elements add nothing."""
    ins = [value for value in ins if 0 not in value.shape] or ins
    acts = [value for value in ins if isinstance(value, Act)]
    if not acts:
        weights = [value for value in ins if isinstance(value, Weight)]
        if len(weights) == len(ins) > 1:
            return Joined(axis, tuple(weights))
        if len(weights) == len(ins):
            return weights[0]
        return refused(shape, ins, "joined with constants or with joined parameters")
    labels = _joined_labels(acts[0].labels, axis, shape)
    members: list[Act] = []
    for value in ins:
        if isinstance(value, (Weight, Joined)):
            value = tracer.data(value, resized_all(labels, value.shape))
        if isinstance(value, Act):
            members.append(value.settled())
    if len({member.src for member in members}) == 1:
        columns = pools.side_by_side(members)
        if columns is not None:
            return members[0].moved(labels).put(columns)
        return members[0].after(Event.CUT, labels)
    src = frozenset().union(*(sources(tracer.graph, member) for member in members))
    if len(src) > 1:
        src = frozenset((tracer.graph.add("concat", src),))
    return Act(
        src,
        labels,
        from_input=any(m.from_input for m in members),
        product=any(m.product for m in members),
    )


def _apart(act: Act, labels: Labels) -> Act:
    """A part of data: no longer one of the shifted slices of something."""
    return dataclasses.replace(act, labels=labels, state=act.state if act.taps is None else PLAIN)


def _joined_labels(labels: Labels, axis: int, shape: tuple[int, ...]) -> Labels:
    kind = labels[axis][-1].kind if labels[axis] else ANY
    return (*labels[:axis], axis_labels(kind, shape[axis]), *labels[axis + 1 :])
