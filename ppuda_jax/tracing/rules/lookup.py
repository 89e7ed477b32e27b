"""Rules for lookups and for writing into a part of a value."""

import dataclasses

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.patterns import norms
from ppuda_jax.tracing.rules import products
from ppuda_jax.tracing.rules.elementwise import default, flatten_joined, output_shape
from ppuda_jax.tracing.rules.movement import resized, windows
from ppuda_jax.tracing.values import (
    Act,
    Const,
    Joined,
    Value,
    Weight,
    settle,
    unknown_labels,
)


def gather(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Lookups: tables indexed by data (embeddings), parameters indexed by constants."""
    table, index = ins[0], ins[1]
    shape, numbers = output_shape(eqn), eqn.params["dimension_numbers"]
    if isinstance(table, Joined):
        table = flatten_joined(table)
    if isinstance(table, Weight) and isinstance(index, Act):
        return products.embed(tracer, eqn, table, index)
    if isinstance(table, Weight):
        return table.map(lambda v: _gathered(eqn, v, index, numbers, shape))
    if isinstance(table, Act):
        act = settle(table)
        labels = list(unknown_labels(shape))
        kept = [
            i
            for i in range(len(act.labels))
            if i not in numbers.collapsed_slice_dims and i not in numbers.operand_batching_dims
        ]
        for target, i in zip(numbers.offset_dims, kept, strict=False):
            labels[target] = resized(act.labels[i], shape[target])
        result = act.plain(tuple(labels))
        if isinstance(index, Act):
            return norms.combine(tracer.graph, "gather", result, index.plain(result.labels))
        return result
    return default(tracer, eqn, ins)


def _gathered(eqn, view, index, numbers, shape):
    """A parameter indexed by constants: unknown along the looked-up axes."""
    sizes = eqn.params["slice_sizes"]
    value = getattr(index, "value", None)
    if value is not None and value.size == len(numbers.start_index_map):
        starts = [0] * len(sizes)
        for start, axis in zip(np.ravel(value), numbers.start_index_map, strict=True):
            starts[axis] = min(max(int(start), 0), view.shape[axis] - sizes[axis])
        view = windows(view, starts, sizes, (1,) * len(sizes))
        view = view.drop(numbers.collapsed_slice_dims)
        return view if view.shape == shape else view.reshape(shape)
    axes = list(view.opaque(shape).axes)
    kept = [
        i
        for i in range(len(sizes))
        if i not in numbers.collapsed_slice_dims and i not in numbers.operand_batching_dims
    ]
    for target, i in zip(numbers.offset_dims, kept, strict=False):
        if sizes[i] == view.shape[i]:
            axes[target] = view.axes[i]
    return dataclasses.replace(view, axes=tuple(axes))


def update(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """dynamic_update_slice and scatters: what is written leads to the result."""
    first, second = ins[0], ins[1] if "dynamic" in eqn.primitive.name else ins[2]
    if isinstance(first, Const) and isinstance(second, Act):
        return second.plain(unknown_labels(output_shape(eqn)))
    if isinstance(second, Const) and isinstance(first, Act):
        return first.plain(first.labels)
    joined = tracer.join(tracer.data(first, None), tracer.data(second, None))
    if isinstance(joined, Act):
        return joined.plain(unknown_labels(output_shape(eqn)))
    return default(tracer, eqn, ins)
