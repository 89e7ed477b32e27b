"""Products with contraction: dense layers and attention.

A product of data and a parameter is a `conv` (or `sep_conv`) node whose kernel is bound by
following the parameter's layout; a product of two pieces of data is attention or is contracted.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ppuda_jax.tracing.contractions import CONTRACTION
from ppuda_jax.tracing.interpreter import Interpreter, fitted
from ppuda_jax.tracing.labels import (
    ANY,
    SAME,
    STACKED,
    Label,
    Labels,
    axis_labels,
    label_shape,
    unknown_labels,
    without,
)
from ppuda_jax.tracing.labels import Axis as LabelAxis
from ppuda_jax.tracing.patterns import attention, convolutions, norms
from ppuda_jax.tracing.patterns.attention import Side, free_axes
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import TABLE, Equation, Kind, Result, rule, shape_of
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused, sourceless
from ppuda_jax.tracing.views import UNKNOWN, Axis, View, filler


@rule("dot_general", kind=Kind.LINEAR_MAP)
def dot_general(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Products with contracted and batch axes."""
    contracted, batch = eqn.params["dimension_numbers"]
    sides: tuple[Side, Side] = (
        (tuple(map(int, contracted[0])), tuple(map(int, batch[0]))),
        (tuple(map(int, contracted[1])), tuple(map(int, batch[1]))),
    )
    first, second = ins
    if isinstance(first, Act) and isinstance(second, Act):
        return attention.product(tracer.graph, first, second, sides)
    if isinstance(first, Act) and isinstance(second, (Weight, Joined)):
        return _dense(tracer, first, second, _Dense(sides[0], sides[1], data_first=True))
    if isinstance(second, Act) and isinstance(first, (Weight, Joined)):
        return _dense(tracer, second, first, _Dense(sides[1], sides[0], data_first=False))
    if isinstance(first, Const):
        if isinstance(second, Weight) and _is_signal(first, second, sides[0]):
            return _dense(tracer, _signal(first), second, _Dense(*sides, data_first=True))
        return _with_const(eqn, second, first, sides[1], sides[0], const_first=True)
    if isinstance(second, Const):
        if isinstance(first, Weight) and _is_signal(second, first, sides[1]):
            how = _Dense(sides[1], sides[0], data_first=False)
            return _dense(tracer, _signal(second), first, how)
        return _with_const(eqn, first, second, sides[0], sides[1], const_first=False)
    if isinstance(first, Weight) and isinstance(second, Weight):
        return _two_parameters(tracer, eqn, first, second, sides)
    return contract(tracer, eqn, ins)


@rule(CONTRACTION, kind=Kind.LINEAR_MAP)
def multiply_and_sum(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A multiplication and a sum over axes of its result, written out."""
    shape, axes = shape_of(eqn.params["product"]), tuple(map(int, eqn.params["axes"]))
    first, second = (fitted(value, shape) for value in ins)
    for act, weight in ((first, second), (second, first)):
        if isinstance(act, Act) and isinstance(weight, Weight):
            weight = weight.fit(shape)
            over = _contracted(act, weight, axes)
            if over:
                act = _multiplied_and_summed(tracer, act, weight, over)
                rest = [i - sum(j < i for j in over) for i in axes if i not in over]
                return _with_rule("reduce_sum", tracer, eqn.outs, [act], axes=rest)
    product = _with_rule("mul", tracer, [eqn.params["product"]], [first, second])
    return _with_rule("reduce_sum", tracer, eqn.outs, [product], axes=axes)


def _with_rule(
    name: str, tracer: Interpreter, outs: Sequence[Any], ins: list[Value], **params: Any
) -> Value:
    """The result of another equation."""
    return tracer.apply(Equation(name, params, outs, [True], TABLE[name]), ins)[0]


def _contracted(act: Act, weight: Weight, axes: Sequence[int]) -> tuple[int, ...]:
    """The axes that a kernel and data share in a sum.

    None where branches that were stacked are weighted, and where a parameter meets data as a
    function of itself: there is no decoder for it in any role.
    """
    over = tuple(i for i in axes if i in weight.view.varying())
    stacked = all(part.kind == STACKED for i in over for part in act.labels[i])
    return () if weight.curve or (stacked and act.taps is None) else over


def _multiplied_and_summed(
    tracer: Interpreter, act: Act, weight: Weight, over: tuple[int, ...]
) -> Act:
    """The dense layer that a multiplication and a sum are: each keeps the axes that it has."""
    rank = len(act.labels)
    varying = weight.view.varying()
    repeated = [i for i in varying if {part.kind for part in act.labels[i]} == {SAME}]
    outs = [i for i in repeated if i not in over]
    mine = [i for i in range(rank) if i not in outs]
    kept = [i for i in mine if i not in over]
    batch = [i for i in kept if i in varying]
    theirs = [*batch, *over, *outs]
    how = _Dense(
        (tuple(map(mine.index, over)), tuple(map(mine.index, batch))),
        (tuple(map(theirs.index, over)), tuple(map(theirs.index, batch))),
        data_first=True,
    )
    data = dataclasses.replace(act, labels=without(act.labels, outs))
    rest = [i for i in range(rank) if i not in theirs]
    kernel = weight.map(
        lambda view: view.transpose((*theirs, *rest)).drop(range(len(theirs), rank))
    )
    result = _dense(tracer, data, kernel, how)
    order = [*batch, *(i for i in kept if i not in batch), *outs]
    ordered = sorted(range(len(order)), key=order.__getitem__)
    return dataclasses.replace(result, labels=tuple(result.labels[i] for i in ordered))


# --- data times parameter ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Dense:
    """How data meets a kernel.

    Attributes:
      data: axes of the data.
      weight: axes of the kernel.
      data_first: the data is the first argument.
    """

    data: Side
    weight: Side
    data_first: bool

    def ordered(self) -> "_Dense":
        """The same with the contracted axes as they lie in the data; `einsum` sorts by name."""
        pairs = sorted(zip(self.data[0], self.weight[0], strict=True))
        data, weight = (tuple(side) for side in zip(*pairs, strict=True)) if pairs else ((), ())
        return _Dense((data, self.data[1]), (weight, self.weight[1]), self.data_first)


def _dense(tracer: Interpreter, act: Act, weight: Weight | Joined, how: _Dense) -> Act:
    act, how = act.settled(), how.ordered()
    if isinstance(weight, Joined):
        return _joined_dense(tracer, act, weight, how)
    view = weight.view
    ins = _digits(view, how.weight[0])
    groups = _digits(view, how.weight[1])
    outs = _digits(view, free_axes(len(view.axes), how.weight))
    if not ins and not outs and groups:
        return _scaled(tracer, act, weight, how)
    contracted = [part for i in how.data[0] for part in act.labels[i]]
    tracer.graph.moved_over(convolutions.patched(contracted))
    places = convolutions.patches(contracted, ins) or convolutions.columns(act, contracted, ins)
    kind = "sep_conv" if groups else "conv"
    canonical = ((*groups, *outs), *places)
    labels = _dense_labels(act, weight, how)
    result = convolutions.kernel(
        tracer.graph, act, weight, kind, canonical, labels, batch=how.weight[1]
    )
    if kind == "conv" and view.fixed:
        result = convolutions.of_tap(act, result)
    # A small square kernel may mix the heads of attention logits: they stay logits.
    square = len(outs) == len(ins) == 1 and outs[0].count == ins[0].count <= 32
    return dataclasses.replace(result, product=act.product and square)


def _digits(view: View, axes: tuple[int, ...]) -> Axis:
    return tuple(d for i in axes for d in view.axes[i] if d.is_leaf)


def _scaled(tracer: Interpreter, act: Act, weight: Weight, how: _Dense) -> Act:
    """A product without contraction is a scale along the batch axes."""
    free = free_axes(len(act.labels), how.data)
    labels = tuple(act.labels[i] for i in (*how.data[1], *free))
    shape, batch = label_shape(labels), how.weight[1]
    count = len(batch)

    def along_batch(view: View) -> View:
        rest = (i for i in range(len(view.axes)) if i not in batch)
        view = view.transpose((*batch, *rest)).drop(range(count, len(view.axes)))
        return view.broadcast(shape, range(count))

    data = dataclasses.replace(act, labels=labels)
    result = norms.scale(tracer.graph, data, weight.map(along_batch))
    extra: list[LabelAxis] = [()] * (len(weight.view.axes) - count - len(how.weight[0]))
    numbered = zip((*how.data[1], *free), result.labels, strict=True)
    kept = [axis for i, axis in numbered if i not in how.data[0]]
    kept = kept + extra if how.data_first else kept[:count] + extra + kept[count:]
    return dataclasses.replace(result, labels=tuple(kept))


def _joined_dense(tracer: Interpreter, act: Act, joined: Joined, how: _Dense) -> Act:
    """Kernels side by side (or stacked): one node each."""
    src: frozenset[int] = frozenset()
    base = act.on(sources(tracer.graph, act))
    for part in joined.parts:
        src |= sources(tracer.graph, _dense(tracer, base, part, how))
    return act.on(src, _dense_labels(act, joined, how))


def _dense_labels(act: Act, weight: Weight | Joined, how: _Dense) -> Labels:
    batch = [
        _as_features(act.labels[i]) if _varies(weight, j) else act.labels[i]
        for i, j in zip(how.data[1], how.weight[1], strict=True)
    ]
    free = [_as_space(act.labels[i], i) for i in free_axes(len(act.labels), how.data)]
    outs = [axis_labels("c", weight.shape[i]) for i in free_axes(len(weight.shape), how.weight)]
    return tuple(batch + free + outs if how.data_first else batch + outs + free)


def _varies(weight: Weight | Joined, axis: int) -> bool:
    if isinstance(weight, Joined):
        return True
    return any(d.is_leaf for d in weight.view.axes[axis])


def _as_features(axis: LabelAxis) -> LabelAxis:
    return tuple(Label("c", part.count) for part in axis)


def _as_space(axis: LabelAxis, number: int) -> LabelAxis:
    """Axes that a kernel does not touch are positions (the first one may be the batch)."""
    return tuple(
        dataclasses.replace(part, kind=f"s{number}") if part.kind in ("c", ANY) else part
        for part in axis
    )


def _is_signal(const: Const, weight: Weight, side: Side) -> bool:
    """Whether a constant stands where data will be, as the first state of a recurrence does.

    Several rows meet a whole matrix by their last axis. What resizes positions meets them by the
    positions, beside other axes; what a spectral norm multiplies with is stored by the model.
    """
    rank = len(const.shape)
    rows = math.prod(const.shape[i] for i in range(rank) if i not in side[0])
    axes = weight.view.axes
    whole = len(axes) == 2 and all(digit.is_leaf for axis in axes for digit in axis)
    return whole and side == ((rank - 1,), ()) and rows > 1 and not const.state


def _signal(const: Const) -> Act:
    return sourceless(unknown_labels(const.shape))


# --- products without data --------------------------------------------------------------------


def _with_const(
    eqn: Equation, value: Value, const: Const, mine: Side, other: Side, const_first: bool
) -> Value:
    """A fixed linear map: of data, or of a parameter before its use."""
    new = [const.shape[i] for i in free_axes(len(const.shape), other)]
    if isinstance(value, Act):
        act = value.settled()
        kinds = [p.kind for i in mine[0] for p in act.labels[i]] or ["?"]
        free = [act.labels[i] for i in free_axes(len(act.labels), mine)]
        fresh = [axis_labels(kinds[0], n) for n in new]
        batch = [act.labels[i] for i in mine[1]]
        return act.moved(tuple(batch + (fresh + free if const_first else free + fresh)))
    if not isinstance(value, Weight):
        return refused(eqn.shape, (value,), "joined with others and multiplied by a constant")

    def mapped(view: View) -> View:
        batch = [view.axes[i] for i in mine[1]]
        free = [view.axes[i] for i in free_axes(len(view.axes), mine)]
        fresh: list[Axis] = [(filler(n, UNKNOWN),) if n > 1 else () for n in new]
        axes = batch + (fresh + free if const_first else free + fresh)
        return dataclasses.replace(view, axes=tuple(axes))

    return value.map(mapped)


def _two_parameters(
    tracer: Interpreter, eqn: Equation, first: Weight, second: Weight, sides: tuple[Side, Side]
) -> Value:
    """A learnt token times a kernel; or a parameter times itself."""
    if first.view.leaf == second.view.leaf:
        return _with_itself(first, second, sides)
    swapped = _looks_learnt(second) > _looks_learnt(first)
    data, weight = (second, first) if swapped else (first, second)
    if 1 in (len(first.shape), len(second.shape)) and len(eqn.shape) > 1:
        return refused(eqn.shape, (first, second), "several kernels mixed by learnt weights")
    token = tracer.data(data)
    if not isinstance(token, Act):
        return refused(eqn.shape, (first, second), "a product of two parameters")
    own, others = (sides[1], sides[0]) if swapped else sides
    return _dense(tracer, token, weight, _Dense(own, others, data_first=not swapped))


def _looks_learnt(weight: Weight) -> tuple[bool, bool, bool]:
    """What tells a learnt query from a kernel.

    It is repeated, or was computed with before, or is one vector.
    """
    repeated = any(not d.is_leaf for axis in weight.view.axes for d in axis)
    return repeated, bool(weight.others or weight.function), len(weight.shape) == 1


def _with_itself(first: Weight, second: Weight, sides: tuple[Side, Side]) -> Weight:
    """A parameter times itself, as in the iterations of a spectral norm."""
    main, mine, other, their = first, sides[0], second, sides[1]
    if first.view.coverage < second.view.coverage:
        main, mine, other, their = second, sides[1], first, sides[0]
    count = len(mine[1])
    kept = [main.view.axes[i] for i in (*mine[1], *free_axes(len(main.shape), mine))]
    extra: list[Axis] = [
        (filler(other.shape[i], UNKNOWN),) if other.shape[i] > 1 else ()
        for i in free_axes(len(other.shape), their)
    ]
    axes = kept[:count] + extra + kept[count:] if main is second else kept + extra
    return main.map(lambda view: dataclasses.replace(view, axes=tuple(axes)))
