"""Rules for primitives that move elements: layout, joining, splitting, lookups."""

import dataclasses
import math

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.patterns import norms, pools
from ppuda_jax.tracing.rules.elementwise import default, flatten_joined, output_shape
from ppuda_jax.tracing.values import (
    Act,
    Const,
    Joined,
    Label,
    Labels,
    Taps,
    Value,
    Weight,
    axis_labels,
    reshape_labels,
    settle,
)
from ppuda_jax.tracing.views import filler

STACKED = "j"
"""Label of an axis along which values were stacked."""


def layout(tracer: Interpreter, eqn, ins: list[Value]) -> Value | list[Value]:
    """Operations that move elements without computing."""
    value = ins[0]
    if isinstance(value, Const):
        return default(tracer, eqn, ins)
    change = LAYOUT[eqn.primitive.name]
    if isinstance(value, Joined):
        return _joined_layout(tracer, eqn, ins, value)
    if isinstance(value, Weight):
        return value.map(lambda v: change(eqn, v, ins))
    if eqn.primitive.name not in ("reshape", "broadcast_in_dim", "squeeze", "transpose"):
        value = settle(value)
    labels = change(eqn, value.labels, ins)
    shifted = _taps(eqn, value) if eqn.primitive.name == "slice" else None
    kept = value.taps if value.taps is not None and value.taps.how else None
    return dataclasses.replace(value, labels=labels, taps=shifted or kept, fresh=_kept(eqn, value))


def _kept(eqn, value: Act):
    names = ("reshape", "broadcast_in_dim", "squeeze", "transpose", "expand_dims")
    return value.fresh if eqn.primitive.name in names else None


def _transpose(eqn, x, ins):
    permutation = eqn.params["permutation"]
    if isinstance(x, tuple):
        return tuple(x[i] for i in permutation)
    return x.transpose(permutation)


def _reshape(eqn, x, ins):
    shape, order = output_shape(eqn), eqn.params.get("dimensions")
    if isinstance(x, tuple):
        return reshape_labels(x if order is None else tuple(x[i] for i in order), shape)
    return (x if order is None else x.transpose(order)).reshape(shape)


def _broadcast(eqn, x, ins):
    shape, where = output_shape(eqn), eqn.params["broadcast_dimensions"]
    if not isinstance(x, tuple):
        return x.broadcast(shape, where)
    labels = [axis_labels("1", n) for n in shape]
    for axis, target in zip(x, where, strict=True):
        if axis:
            labels[target] = axis
    return tuple(labels)


def _squeeze(eqn, x, ins):
    gone = {int(d) for d in eqn.params["dimensions"]}
    if isinstance(x, tuple):
        return tuple(axis for i, axis in enumerate(x) if i not in gone)
    return x.drop(gone)


def _slice(eqn, x, ins):
    starts, shape = eqn.params["start_indices"], output_shape(eqn)
    steps = eqn.params["strides"] or (1,) * len(shape)
    return windows(x, starts, shape, steps)


def windows(x, starts, counts, steps):
    """Takes `counts` positions of every axis from `starts` on."""
    if isinstance(x, tuple):
        return tuple(map(resized, x, counts))
    for axis, window in enumerate(zip(starts, counts, steps, strict=True)):
        x = x.window(axis, *(int(n) for n in window))
    return x


def resized(axis: tuple[Label, ...], count: int) -> tuple[Label, ...]:
    """The label of an axis of which a part is taken, or that is padded."""
    if math.prod(part.count for part in axis) == count:
        return axis
    kinds = {part.kind for part in axis}
    return axis_labels(axis[0].kind if len(kinds) == 1 else "?", count)


def _dynamic_slice(eqn, x, ins):
    counts, starts = eqn.params["slice_sizes"], []
    for index in ins[1:]:
        known = isinstance(index, Const) and index.value is not None
        starts.append(int(index.value) if known else None)
    if isinstance(x, tuple):
        return tuple(map(resized, x, counts))
    if None not in starts:
        limits = zip(starts, x.shape, counts, strict=True)
        starts = [min(max(s, 0), n - c) for s, n, c in limits]
        return windows(x, starts, counts, (1,) * len(counts))
    return x.opaque(counts)


def _rev(eqn, x, ins):
    if isinstance(x, tuple):
        return x
    for axis in eqn.params["dimensions"]:
        x = x.reverse(axis)
    return x


def _tile(eqn, x, ins):
    reps = eqn.params["reps"]
    if isinstance(x, tuple):
        return tuple(
            axis if n == 1 else (*axis_labels("1", int(n)), *axis)
            for n, axis in zip(reps, x, strict=True)
        )
    axes = tuple(
        axis if n == 1 else (filler(int(n)), *axis) for n, axis in zip(reps, x.axes, strict=True)
    )
    return dataclasses.replace(x, axes=axes)


def _pad(eqn, x, ins):
    shape = output_shape(eqn)
    if isinstance(x, tuple):
        return tuple(map(resized, x, shape))
    return x if x.shape == shape else x.opaque(shape)


LAYOUT = {
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "rev": _rev,
    "pad": _pad,
    "tile": _tile,
}


def _taps(eqn, value: Act) -> Taps | None:
    """Marks a slice that shifts the space axes."""
    starts = eqn.params["start_indices"]
    space = [i for i, axis in enumerate(value.labels) if len(axis) == 1 and axis[0].kind[0] == "s"]
    changed = [i for i, n in enumerate(output_shape(eqn)) if n != value.shape[i]]
    if not space or not changed or not set(changed) <= set(space):
        return None
    return Taps(frozenset((tuple(int(starts[i]) for i in space),)), "", value.key)


def _joined_layout(tracer: Interpreter, eqn, ins, value: Joined) -> Value:
    name, axis = eqn.primitive.name, value.axis
    if name == "transpose":
        permutation = tuple(eqn.params["permutation"])
        parts = (p.map(lambda v: v.transpose(permutation)) for p in value.parts)
        return Joined(permutation.index(axis), tuple(parts))
    if name == "squeeze" and axis not in eqn.params["dimensions"]:
        gone = {int(d) for d in eqn.params["dimensions"]}
        parts = (p.map(lambda v: v.drop(gone)) for p in value.parts)
        return Joined(axis - sum(d < axis for d in gone), tuple(parts))
    if name == "broadcast_in_dim":
        where, shape = eqn.params["broadcast_dimensions"], list(output_shape(eqn))
        parts = []
        for part in value.parts:
            shape[where[axis]] = part.shape[axis]
            parts.append(part.map(lambda v, s=tuple(shape): v.broadcast(s, where)))
        return Joined(int(where[axis]), tuple(parts))
    if name == "reshape" and eqn.params.get("dimensions") is None:
        target = _same_without_units(value.shape, output_shape(eqn), axis)
        if target is not None:
            shape, parts = list(output_shape(eqn)), []
            for part in value.parts:
                shape[target] = part.shape[axis]
                parts.append(part.map(lambda v, s=tuple(shape): v.reshape(s)))
            return Joined(target, tuple(parts))
    if name in ("slice", "dynamic_slice"):
        counts = output_shape(eqn)
        known = eqn.params.get("start_indices")
        starts = known or [getattr(index, "value", None) for index in ins[1:]]
        whole = all(
            c == n for i, (c, n) in enumerate(zip(counts, value.shape, strict=True)) if i != axis
        )
        if whole and starts[axis] is not None and not any(eqn.params.get("strides") or ()):
            chosen = value.select(int(starts[axis]), counts[axis])
            if chosen is not None:
                return chosen
    return layout(tracer, eqn, [flatten_joined(value), *ins[1:]])


def _same_without_units(before, after, axis: int) -> int | None:
    """Where an axis goes in a reshape that only adds or removes axes of size 1."""
    kept = [i for i, n in enumerate(before) if n != 1]
    targets = [i for i, n in enumerate(after) if n != 1]
    if axis not in kept or [before[i] for i in kept] != [after[i] for i in targets]:
        return None
    return targets[kept.index(axis)]


def split(tracer: Interpreter, eqn, ins: list[Value]) -> list[Value]:
    """Splits along one axis."""
    value, axis, start, results = ins[0], eqn.params["axis"], 0, []
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        size = int(size)
        if isinstance(value, Weight):
            results.append(value.map(lambda v, s=start, n=size: v.window(axis, s, n)))
        elif isinstance(value, Joined):
            part = value.select(start, size) if axis == value.axis else None
            shape = tuple(var.aval.shape)
            results.append(part or flatten_joined(value).map(lambda v, s=shape: v.opaque(s)))
        else:
            labels = list(value.labels)
            labels[axis] = resized(labels[axis], size)
            results.append(dataclasses.replace(value, labels=tuple(labels), taps=None))
        start += size
    return results


def concatenate(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Joins data (a concat node), data and tokens, or parameters."""
    return join(tracer, ins, int(eqn.params["dimension"]), output_shape(eqn))


def stack(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Joins along a new axis."""
    axis, shape = int(eqn.params["axis"]), output_shape(eqn)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    where = [i for i in range(len(shape)) if i != axis]
    opened: list[Value] = []
    for value in ins:
        if isinstance(value, Joined):
            value = flatten_joined(value)
        if isinstance(value, Weight):
            value = value.map(lambda v: v.broadcast(one, where))
        elif isinstance(value, Act):
            labels = (*value.labels[:axis], (Label(STACKED, 1),), *value.labels[axis:])
            value = dataclasses.replace(settle(value), labels=labels, taps=None)
        opened.append(value)
    return join(tracer, opened, axis, shape)


def unstack(tracer: Interpreter, eqn, ins: list[Value]) -> list[Value]:
    """Takes the positions of an axis apart."""
    axis, value = int(eqn.params["axis"]), ins[0]
    results: list[Value] = []
    for i in range(len(eqn.outvars)):
        if isinstance(value, Joined):
            part = value.select(i, 1) if axis == value.axis else None
            part = flatten_joined(value) if part is None else part
            results.append(part.map(lambda v: v.window(axis, 0, 1).drop((axis,))))
        elif isinstance(value, Weight):
            results.append(value.map(lambda v, i=i: v.window(axis, i, 1).drop((axis,))))
        else:
            labels = (*value.labels[:axis], *value.labels[axis + 1 :])
            results.append(dataclasses.replace(settle(value), labels=labels, taps=None))
    return results


def join(tracer: Interpreter, ins: list[Value], axis: int, shape) -> Value:
    """Values side by side along an axis."""
    graph = tracer.graph
    acts = [value for value in ins if isinstance(value, Act)]
    if not acts:
        weights = [flatten_joined(value) for value in ins if not isinstance(value, Const)]
        if len(weights) == len(ins) > 1:
            return Joined(axis, tuple(weights))
        return flatten_joined(weights[0]).map(lambda v: v.opaque(shape))
    labels = _concatenated(acts[0].labels, axis, shape)
    members = []
    for value in ins:
        if isinstance(value, (Weight, Joined)):
            marks = tuple(map(resized, labels, value.shape))
            value = tracer.data(value, marks)
        if isinstance(value, Act):
            members.append(settle(value))
    if len({member.key for member in members}) == 1:
        merged = members[0].plain(labels)
        columns = pools.side_by_side(members)
        return dataclasses.replace(merged, norm=members[0].norm, taps=columns)
    src = frozenset().union(*(norms.sources(graph, member) for member in members))
    if len(src) > 1:
        src = frozenset((graph.add("concat", src),))
    return Act(
        src,
        labels,
        from_input=any(m.from_input for m in members),
        product=any(m.product for m in members),
    )


def _concatenated(labels: Labels, axis: int, shape) -> Labels:
    kind = labels[axis][-1].kind if labels[axis] else "?"
    return (*labels[:axis], axis_labels(kind, shape[axis]), *labels[axis + 1 :])
