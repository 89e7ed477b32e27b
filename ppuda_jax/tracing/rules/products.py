"""Products: dense layers, convolutions, attention, embeddings.

A product of data and a parameter is a `conv` (or `sep_conv`, `dil_conv`) node whose kernel is
bound by following the parameter's layout; a product of two pieces of data is attention or is
contracted.
"""

import dataclasses
import math

from ppuda_jax.tracing.patterns import norms, pools
from ppuda_jax.tracing.values import (
    Act,
    Const,
    Joined,
    Label,
    Labels,
    Value,
    Weight,
    axis_labels,
    settle,
    unknown_labels,
)
from ppuda_jax.tracing.views import UNKNOWN, Axis, Digit, View, filler


def dot_general(tracer, eqn, ins: list[Value]) -> Value:
    """Products with contracted and batch axes."""
    (contract, batch) = eqn.params["dimension_numbers"]
    sides = [(tuple(map(int, c)), tuple(map(int, b))) for c, b in zip(contract, batch, strict=True)]
    first, second = ins
    if isinstance(first, (Weight, Joined)) and isinstance(second, (Weight, Joined)):
        return _two_parameters(tracer, first, second, sides)
    if isinstance(first, Const) or isinstance(second, Const):
        return _with_const(first, second, sides)
    if isinstance(first, Act) and isinstance(second, Act):
        return _two_data(tracer, first, second, sides)
    if isinstance(first, Act):
        return _dense(tracer, first, second, sides[0], sides[1], data_first=True)
    return _dense(tracer, second, first, sides[1], sides[0], data_first=False)


def _free(rank: int, side) -> tuple[int, ...]:
    return tuple(i for i in range(rank) if i not in side[0] and i not in side[1])


# --- data times parameter ---------------------------------------------------------------------


def _dense(tracer, act: Act, weight, act_side, weight_side, data_first: bool) -> Act:
    if isinstance(weight, Joined):
        return _joined_dense(tracer, act, weight, act_side, weight_side, data_first)
    act = settle(act)
    view = weight.view
    ins = _digits(view, weight_side[0])
    groups = _digits(view, weight_side[1])
    outs = _digits(view, _free(len(view.axes), weight_side))
    labels = _dense_labels(act, weight, act_side, weight_side, data_first)
    if not ins and not outs and groups:
        return _scaled(tracer, act, weight, act_side, weight_side, data_first)
    kind = "sep_conv" if groups else "conv"
    contracted = tuple(part for i in act_side[0] for part in act.labels[i])
    canonical = ((*groups, *outs), *(_patches(contracted, ins) or _columns(act, ins)))
    result = kernel(tracer, act, weight, kind, canonical, labels)
    return dataclasses.replace(
        result,
        product=act.product and len(outs) == len(ins) == 1 and outs[0].count == ins[0].count <= 32,
    )


def _digits(view: View, axes) -> Axis:
    return tuple(d for i in axes for d in view.axes[i] if d.is_leaf)


def _patches(contracted: tuple[Label, ...], ins: Axis) -> tuple[Axis, ...] | None:
    """Tells height, width and channels of a kernel that meets separate patches of the data."""
    same = [part.count for part in contracted] == [digit.count for digit in ins]
    axes = {digit.axis for digit in ins}
    if not same or len(ins) != 3 or len(axes) != 3 or "c" in [p.kind for p in contracted[:2]]:
        return None
    height, width, channels = ins
    return ((channels,), (height,), (width,))


def _columns(act: Act, ins: Axis) -> tuple[Axis, ...]:
    """Tells kernel positions from channels if the data are the columns of a convolution."""
    taps = act.taps
    if taps is None or taps.how != pools.COLUMNS:
        return (ins,)
    count, places = 1, []
    for digit in ins:
        if count == len(taps.offsets):
            break
        places.append(digit)
        count *= digit.count
    rest = ins[len(places) :]
    if count != len(taps.offsets) or len(places) > 2:
        return (ins,)
    if len(places) == 1 and len({offset[0] for offset in taps.offsets}) == 1:
        places.insert(0, None)
    pair = [() if place is None else (place,) for place in (*places, None)[:2]]
    return (rest, *pair)


def _scaled(tracer, act, weight, act_side, weight_side, data_first) -> Act:
    """A product without contraction is a scale along the batch axes."""
    rank = len(act.labels)
    free = _free(rank, act_side)
    labels = tuple(act.labels[i] for i in (*act_side[1], *free))
    shape = tuple(math.prod(p.count for p in axis) for axis in labels)
    count = len(weight_side[1])
    scaled = weight.map(
        lambda v: (
            v.transpose(
                (*weight_side[1], *(i for i in range(len(v.axes)) if i not in weight_side[1]))
            )
            .drop(range(count, len(v.axes)))
            .broadcast(shape, range(count))
        )
    )
    result = norms.scale(tracer.graph, dataclasses.replace(act, labels=labels), scaled)
    extra = [()] * (len(weight.view.axes) - count - len(weight_side[0]))
    dropped = set(act_side[0])
    kept = [
        axis
        for i, axis in zip((*act_side[1], *free), result.labels, strict=True)
        if i not in dropped
    ]
    kept = kept + extra if data_first else kept[:count] + extra + kept[count:]
    return dataclasses.replace(result, labels=tuple(kept))


def _joined_dense(tracer, act, joined, act_side, weight_side, data_first) -> Act:
    """Kernels side by side (or stacked): one node each."""
    src: frozenset = frozenset()
    act = settle(act)
    base = Act(norms.sources(tracer.graph, act), act.labels, from_input=act.from_input)
    for part in joined.parts:
        result = _dense(tracer, base, part, act_side, weight_side, data_first)
        src |= norms.sources(tracer.graph, result)
    labels = _dense_labels(act, joined, act_side, weight_side, data_first)
    return Act(src, labels, from_input=act.from_input)


def _dense_labels(act: Act, weight, act_side, weight_side, data_first: bool) -> Labels:
    batch = [
        _as_features(act.labels[i]) if _varies(weight, j) else act.labels[i]
        for i, j in zip(act_side[1], weight_side[1], strict=True)
    ]
    free = [_as_space(act.labels[i], i) for i in _free(len(act.labels), act_side)]
    outs = [axis_labels("c", weight.shape[i]) for i in _free(len(weight.shape), weight_side)]
    return tuple(batch + free + outs if data_first else batch + outs + free)


def _varies(weight, axis: int) -> bool:
    if isinstance(weight, Joined):
        return True
    return any(d.is_leaf for d in weight.view.axes[axis])


def _as_features(axis: tuple[Label, ...]) -> tuple[Label, ...]:
    return tuple(Label("c", part.count) for part in axis)


def _as_space(axis: tuple[Label, ...], number: int) -> tuple[Label, ...]:
    """Axes that a kernel does not touch are positions (the first one may be the batch)."""
    return tuple(Label(f"s{number}", part.count) if part.kind in "c?" else part for part in axis)


def kernel(tracer, act: Act, weight: Weight, kind: str, groups, labels: Labels) -> Act:
    """Creates the node of a kernel, or reuses the one of a shared kernel.

    Args:
      tracer: the interpreter.
      act: the data.
      weight: the parameter.
      kind: kind of the node.
      groups: digits of the canonical axes: (out, in) or (out, in, height, width).
      labels: labels of the result.

    Returns:
      The result.
    """
    graph, view = tracer.graph, weight.view
    result = Act(act.src, labels, from_input=act.from_input)
    if graph.shared(view) is not None:
        src = norms.sources(graph, act)
        return dataclasses.replace(result, src=src)
    if view.coverage <= 1 and not view.leaf_digits and not view.fixed:
        used = [a for a in view.axes if a]
        if used:
            graph.refuse(view.leaf, "transformed before its use in a way that is not followed")
            return dataclasses.replace(result, src=norms.sources(graph, act))
    node = graph.add(kind, norms.sources(graph, act))
    graph.bind(node, "kernel", view, groups)
    result = dataclasses.replace(result, src=frozenset((node,)))
    return _gains(graph, result, weight)


def _gains(graph, act: Act, weight: Weight) -> Act:
    """Scales that were multiplied into a kernel become scales of its result."""
    for view, how in weight.others:
        if view.leaf == weight.view.leaf:
            continue
        if how in ("mul", "div", "rsqrt") and graph.shared(view) is None and view.leaf_digits:
            node = graph.add("ln", act.src)
            graph.bind(node, "norm_scale", view, (view.leaf_digits,))
            act = dataclasses.replace(act, src=frozenset((node,)))
        elif graph.shared(view) is None:
            graph.refuse(view.leaf, f"merged into a kernel ({how}) before its use")
    return act


def conv(tracer, eqn, ins: list[Value]) -> Value:
    """Convolutions in any layout: grouped, dilated, transposed, of any rank."""
    data, weight = ins
    numbers = eqn.params["dimension_numbers"]
    shape = tuple(eqn.outvars[0].aval.shape)
    if isinstance(weight, Joined):
        weight = _hidden(weight)
    if isinstance(data, (Weight, Joined)):
        if isinstance(weight, Const):
            return _hidden(data).map(lambda v: v.opaque(shape))
        data = tracer.data(data)
    if isinstance(data, Const):
        if isinstance(weight, Act):
            return weight.plain(unknown_labels(shape))
        data = Act(frozenset(), unknown_labels(data.shape), from_input=False)
    data = settle(data)
    labels: list = [()] * len(shape)
    out = tuple(int(i) for i in numbers.out_spec)
    labels[out[0]] = _batch_label(data.labels[int(numbers.lhs_spec[0])], shape[out[0]])
    labels[out[1]] = axis_labels("c", shape[out[1]])
    for i, axis in enumerate(out[2:]):
        labels[axis] = (Label(f"s{i}", shape[axis]),)
    if not isinstance(weight, Weight):
        src = norms.sources(tracer.graph, data)
        if isinstance(weight, Act):
            src |= norms.sources(tracer.graph, weight)
        return Act(src, tuple(labels), from_input=data.from_input)
    spec = [int(i) for i in numbers.rhs_spec]
    view = weight.view
    space = [_digits(view, (i,)) for i in spec[2:]]
    space = (
        [tuple(d for part in space[:-1] for d in part), space[-1]]
        if len(space) > 2
        else ([*space, (), ()][:2])
    )
    kind = "conv"
    if eqn.params["feature_group_count"] > 1:
        dilated = min(eqn.params["rhs_dilation"] or (1,)) > 1
        kind = "dil_conv" if dilated else "sep_conv"
    groups = (_digits(view, (spec[0],)), _digits(view, (spec[1],)), *space)
    return kernel(tracer, data, weight, kind, groups, tuple(labels))


def _batch_label(axis: tuple[Label, ...], count: int) -> tuple[Label, ...]:
    if math.prod(part.count for part in axis) == count:
        return tuple(Label("b", p.count) if p.kind in "?1" else p for p in axis)
    return axis_labels("b", count)


def _hidden(value) -> Weight:
    """Parameters whose layout is given up."""
    if isinstance(value, Weight):
        return value
    others = tuple((part.view, "concatenate") for part in value.parts[1:])
    head = value.parts[0]
    return dataclasses.replace(head.map(lambda v: v.opaque(value.shape)), others=others)


def embed(tracer, eqn, table: Weight, index: Act) -> Act:
    """A table looked up by data: a dense layer on one-hot rows."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, view = tuple(eqn.outvars[0].aval.shape), table.view
    labels = [
        axis_labels("b" if i == 0 and len(shape) > 2 else f"s{i}", n) for i, n in enumerate(shape)
    ]
    for i in numbers.offset_dims:
        labels[i] = axis_labels("c", shape[i])
    looked = tuple(numbers.start_index_map)
    kept = tuple(i for i in range(len(sizes)) if i not in looked)
    groups = (_digits(view, kept), _digits(view, looked))
    return kernel(tracer, index, table, "conv", groups, tuple(labels))


# --- products without a parameter, or with two ------------------------------------------------


def _two_data(tracer, first: Act, second: Act, sides) -> Act:
    graph = tracer.graph
    first, second = settle(first), settle(second)
    labels = _product_labels(first.labels, second.labels, sides)
    from_input = first.from_input or second.from_input
    src = norms.sources(graph, first) | norms.sources(graph, second)
    if not src:
        return Act(src, labels, from_input=from_input)
    over_space = any(
        part.kind[0] == "s"
        for act, (contracted, _) in ((first, sides[0]), (second, sides[1]))
        for i in contracted
        for part in act.labels[i]
    )
    if not sides[0][0]:
        marks = {"product": first.product or second.product, "soft": first.soft or second.soft}
        return Act(src, labels, from_input=from_input, **marks)
    if first.product or second.product or ((first.soft or second.soft) and over_space):
        node = graph.add("msa", src)
        return Act(frozenset((node,)), labels, from_input=from_input)
    return Act(src, labels, product=True, from_input=from_input)


def _product_labels(first: Labels, second: Labels, sides) -> Labels:
    batch = [
        first[i] if first[i] and first[i][0].kind not in "?1" else second[j]
        for i, j in zip(sides[0][1], sides[1][1], strict=True)
    ]
    free = [first[i] for i in _free(len(first), sides[0])]
    return tuple(batch + free + [second[i] for i in _free(len(second), sides[1])])


def _with_const(first: Value, second: Value, sides) -> Value:
    """A fixed linear map: of data, or of a parameter before its use."""
    swapped = isinstance(first, Const)
    value, const = (second, first) if swapped else (first, second)
    mine, other = (sides[1], sides[0]) if swapped else sides
    if isinstance(value, Act):
        act = settle(value)
        spare = [p.kind for i in mine[0] for p in act.labels[i]] or ["?"]
        free = [act.labels[i] for i in _free(len(act.labels), mine)]
        new = [axis_labels(spare[0], const.shape[i]) for i in _free(len(const.shape), other)]
        batch = [act.labels[i] for i in mine[1]]
        return act.plain(tuple(batch + (new + free if swapped else free + new)))
    weight = _hidden(value)
    view = weight.view
    batch_axes = [view.axes[i] for i in mine[1]]
    free_axes = [view.axes[i] for i in _free(len(view.axes), mine)]
    new_axes: list[tuple[Digit, ...]] = [
        (filler(const.shape[i], UNKNOWN),) if const.shape[i] > 1 else ()
        for i in _free(len(const.shape), other)
    ]
    axes = batch_axes + (new_axes + free_axes if swapped else free_axes + new_axes)
    return weight.map(lambda v: dataclasses.replace(v, axes=tuple(axes)))


def _two_parameters(tracer, first, second, sides) -> Value:
    """A learnt token times a kernel; or a parameter times itself."""
    first, second = _hidden(first), _hidden(second)
    if first.view.leaf == second.view.leaf:
        main, mine, other, their = (
            (first, sides[0], second, sides[1])
            if first.view.coverage >= second.view.coverage
            else (second, sides[1], first, sides[0])
        )
        kept = [main.view.axes[i] for i in (*mine[1], *_free(len(main.shape), mine))]
        extra = [
            (filler(other.shape[i], UNKNOWN),) if other.shape[i] > 1 else ()
            for i in _free(len(other.shape), their)
        ]
        if main is second:
            batch = len(mine[1])
            kept = kept[:batch] + extra + kept[batch:]
            extra = []
        return main.map(lambda v: dataclasses.replace(v, axes=tuple(kept + extra)))
    repeated = any(not d.is_leaf for axis in second.view.axes for d in axis)
    if repeated:
        return _dense(tracer, tracer.data(second), first, sides[1], sides[0], data_first=False)
    return _dense(tracer, tracer.data(first), second, sides[0], sides[1], data_first=True)
