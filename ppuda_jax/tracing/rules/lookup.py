"""Rules for reading and writing at an index."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import Labels, axis_labels, resized, resized_all, unknown_labels
from ppuda_jax.tracing.patterns import convolutions, gates
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.rules.movement import Movement, move, select_window, windows
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused, sourceless
from ppuda_jax.tracing.views import REPEATED, View


@rule("gather", kind=Kind.LOOKUP)
def gather(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Tables indexed by data (embeddings), parameters and data indexed by constants."""
    table, index = ins[0], ins[1]
    if isinstance(table, Act) and isinstance(index, Act) and table.is_made and index.from_input:
        reason = "multiplied with other parameters into one table"
        tracer.graph.refuse_behind(sources(tracer.graph, table), reason)
        return index.on(sources(tracer.graph, index), unknown_labels(eqn.shape))
    if isinstance(table, Joined):
        return _joined(tracer, eqn, table, ins)
    if isinstance(table, Weight) and isinstance(index, Act):
        return _embed(tracer, eqn, table, index)
    if isinstance(table, Weight):
        return table.map(lambda view: _gathered(eqn, view, index))
    if isinstance(table, Act):
        act = table.settled()
        labels = list(unknown_labels(eqn.shape))
        for target, i in _kept_axes(eqn):
            labels[target] = resized(act.labels[i], eqn.shape[target])
        result = act.moved(tuple(labels))
        if isinstance(index, Act):
            return gates.combine(tracer.graph, eqn, result, index.moved(result.labels))
        return result
    return contract(tracer, eqn, ins)


def _joined(tracer: Interpreter, eqn: Equation, table: Joined, ins: list[Value]) -> Result:
    reason = "joined with others into one table"
    if any(isinstance(value, Act) for value in ins[1:]):
        return contract(tracer, eqn, [tracer.met(refused(table.shape, (table,), reason)), *ins[1:]])
    return refused(eqn.shape, (table,), reason)


def _kept_axes(eqn: Equation) -> Sequence[tuple[int, int]]:
    """(axis of the result, axis of the table) of all axes that are not looked up."""
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [i for i in range(len(eqn.params["slice_sizes"])) if i not in gone]
    return list(zip(numbers.offset_dims, kept, strict=False))


def _gathered(eqn: Equation, view: View, index: Value) -> View:
    """A parameter indexed by constants: unknown along the looked-up axes."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    value = index.value if isinstance(index, Const) else None
    if value is not None and value.size == len(numbers.start_index_map):
        starts = [0] * len(sizes)
        for start, axis in zip(np.ravel(value), numbers.start_index_map, strict=True):
            starts[axis] = min(max(int(start), 0), view.shape[axis] - sizes[axis])
        view = windows(view, starts, sizes, (1,) * len(sizes))
        view = view.drop(numbers.collapsed_slice_dims)
        return view if view.shape == eqn.shape else view.reshape(eqn.shape)
    axes = list(view.opaque(eqn.shape).axes)
    for target, i in _kept_axes(eqn):
        if sizes[i] == view.shape[i]:
            axes[target] = view.axes[i]
    return dataclasses.replace(view, axes=tuple(axes))


def _embed(tracer: Interpreter, eqn: Equation, table: Weight, index: Act) -> Act:
    """A table looked up by data: a dense layer on one-hot rows."""
    numbers, shape = eqn.params["dimension_numbers"], eqn.shape
    labels = [
        axis_labels("b" if i == 0 and len(shape) > 2 else f"s{i}", n) for i, n in enumerate(shape)
    ]
    for i in numbers.offset_dims:
        labels[i] = axis_labels("c", shape[i])
    # An index into an axis that is taken whole can only be zero, as vmap fills it in.
    sizes = eqn.params["slice_sizes"]
    looked = {i for i in numbers.start_index_map if sizes[i] != table.shape[i]}
    return _lookup(tracer, table, index, looked, tuple(labels))


def _lookup(
    tracer: Interpreter, table: Weight, index: Act, looked: set[int], labels: Labels
) -> Act:
    axes = [tuple(d for d in axis if d.is_leaf) for axis in table.view.axes]
    outs = tuple(d for i, axis in enumerate(axes) if i not in looked for d in axis)
    rows = tuple(d for i, axis in enumerate(axes) if i in looked for d in axis)
    graph = tracer.graph
    result = convolutions.kernel(graph, index, table, "conv", (outs, rows), labels)
    if sum(bool(axis) for i, axis in enumerate(axes) if i not in looked) > 1:
        graph.matrices |= {node for node in result.src if isinstance(node, int)}
    return result


def _starts(ins: list[Value]) -> list[int | None]:
    """The start indices that are known."""
    known = (index.value if isinstance(index, Const) else None for index in ins[1:])
    return [None if value is None else int(value) for value in known]


def _window(eqn: Equation, view: View, ins: list[Value]) -> View:
    counts, starts = eqn.params["slice_sizes"], []
    for start, size, count in zip(_starts(ins), view.shape, counts, strict=True):
        if start is None:
            return view.opaque(counts)
        starts.append(min(max(start, 0), size - count))
    return windows(view, starts, counts, (1,) * len(counts))


_DYNAMIC_SLICE = Movement(
    _window,
    lambda eqn, labels: resized_all(labels, eqn.params["slice_sizes"]),
    lambda eqn, joined, ins: select_window(joined, _starts(ins), eqn.shape),
)


@rule("dynamic_slice", kind=Kind.LOOKUP)
def dynamic_slice(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A window; a row of a table if data says which."""
    table, *starts = ins
    if not isinstance(table, Weight) or not any(isinstance(start, Act) for start in starts):
        return move(_DYNAMIC_SLICE, tracer, eqn, ins)
    counts = eqn.shape
    looked = {i for i, n in enumerate(counts) if n != table.shape[i]}
    if any(counts[i] != 1 for i in looked):
        tracer.refuse(refused(table.shape, (table,), "a part of it is chosen by data"))
        return sourceless(unknown_labels(counts))
    index = next(start for start in starts if isinstance(start, Act))
    labels = [axis_labels("c", n) for n in counts]
    return _lookup(tracer, table, index, looked, tuple(labels))


@rule("dynamic_update_slice", kind=Kind.LOOKUP)
def update_slice(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A part at an index is overwritten."""
    return _update(tracer, eqn, ins[0], ins[1])


@rule(
    *("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max"),
    kind=Kind.LOOKUP,
)
def scatter(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Parts at indices are overwritten, or combined with what is there."""
    return _update(tracer, eqn, ins[0], ins[2])


def _update(tracer: Interpreter, eqn: Equation, first: Value, second: Value) -> Result:
    """What is written leads to the result.

    A parameter of which constants overwrite a part keeps its role. One that is written into an
    array, or into another parameter, is followed no further; beside data it is a token.
    """
    if isinstance(first, Const) and isinstance(second, Act):
        return second.moved(unknown_labels(eqn.shape))
    if isinstance(second, Const) and isinstance(first, (Act, Weight)):
        return first.moved(first.labels) if isinstance(first, Act) else first
    if isinstance(first, (Weight, Joined)) and isinstance(second, Act):
        return _into_parameter(tracer, eqn, first, second)
    if not isinstance(first, Act):
        reason = "written into a part of another array before its use"
        return refused(eqn.shape, (first, second), reason)
    other = tracer.data(second, _written_labels(first, second))
    joined = tracer.join(first, other)
    return joined.moved(unknown_labels(eqn.shape)) if isinstance(joined, Act) else first


def _written_labels(first: Act, second: Value) -> Labels | None:
    """The part that is written lies along the last axes of what it is written into."""
    rank = len(second.shape)
    if not rank or rank > len(first.labels):
        return None
    return resized_all(first.labels[-rank:], second.shape)


def _into_parameter(
    tracer: Interpreter, eqn: Equation, first: Weight | Joined, second: Act
) -> Result:
    """A memory into which data is written is a token if it is the same for all images."""
    repeated = isinstance(first, Weight) and any(
        digit.axis == REPEATED for axis in first.view.axes for digit in axis
    )
    labels = unknown_labels(eqn.shape)
    if not repeated:
        tracer.refuse(refused(first.shape, (first,), "data is written into a part of it"))
        return second.moved(labels)
    joined = tracer.join(tracer.data(first), second)
    return joined.moved(labels) if isinstance(joined, Act) else second.moved(labels)
