"""Rules for reading and writing at an index."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import axis_labels, resized, unknown_labels
from ppuda_jax.tracing.patterns import convolutions, gates
from ppuda_jax.tracing.rules.movement import windows
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused
from ppuda_jax.tracing.views import View


@rule("gather", kind=Kind.LOOKUP)
def gather(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Tables indexed by data (embeddings), parameters and data indexed by constants."""
    table, index = ins[0], ins[1]
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
    looked = set(numbers.start_index_map)
    axes = [tuple(d for d in axis if d.is_leaf) for axis in table.view.axes]
    outs = tuple(d for i, axis in enumerate(axes) if i not in looked for d in axis)
    rows = tuple(d for i, axis in enumerate(axes) if i in looked for d in axis)
    graph = tracer.graph
    return convolutions.kernel(graph, index, table, "conv", (outs, rows), tuple(labels))


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
    """What is written leads to the result."""
    if isinstance(first, Const) and isinstance(second, Act):
        return second.moved(unknown_labels(eqn.shape))
    if isinstance(second, Const) and isinstance(first, Act):
        return first.moved(first.labels)
    joined = tracer.join(tracer.data(first, None), tracer.data(second, None))
    if isinstance(joined, Act):
        return joined.moved(unknown_labels(eqn.shape))
    return contract(tracer, eqn, [first, second])
