"""Recognition of norms, sums and gates where values meet elementwise.

The functions take the `GraphBuilder` and descriptions of values (`tracing.values`), create the
nodes that the vocabulary asks for, and return the description of the result.
"""

import dataclasses

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.patterns import pools
from ppuda_jax.tracing.patterns.tokens import position, refuse_others
from ppuda_jax.tracing.values import (
    Act,
    Const,
    Fresh,
    Labels,
    Stat,
    Weight,
    label_shape,
    merge_labels,
    settle,
)

ADDITIVE = ("add", "add_any", "sub")
MULTIPLICATIVE = ("mul", "div")


# --- turning lazily described data into nodes -------------------------------------------------


def sources(graph: GraphBuilder, act: Act) -> frozenset:
    """The nodes that data comes from, after creating the pools and norms it waits for."""
    src = _pool_sources(graph, act)
    stat = act.stat
    if stat is not None and act.pending is not None:
        base = Act(src, act.labels)
        if stat.scale is not None:
            base = scale(graph, base, stat.scale)
        if stat.bias is not None:
            base = shift(graph, base, stat.bias, "add")
        src = base.src
    return src


def _pool_sources(graph: GraphBuilder, act: Act) -> frozenset:
    act = settle(act)
    if act.pending is None:
        return act.src
    pending = act.pending
    if pending.node is None:
        window = None if pending.kind == "glob_avg" else pending.window
        pending.node = graph.add(pending.kind, sources(graph, pending.source), window)
        if pending.squeeze:
            graph.squeezes.add(pending.node)
    return frozenset((pending.node,))


# --- parameters that meet data elementwise ----------------------------------------------------


def scale(graph: GraphBuilder, act: Act, weight: Weight) -> Act:
    """Data times a parameter: the scale of a norm, or of a layer."""
    if act.stat is not None and act.norm is None:
        if act.stat.scale is None:
            return dataclasses.replace(act, stat=dataclasses.replace(act.stat, scale=weight))
        act = Act(sources(graph, act), act.labels, norm=act.norm, from_input=act.from_input)
    running = [view for view, how in weight.others if how in ("rsqrt", "sqrt", "pow")]
    for view in running:
        graph.refuse(view.leaf, "it looks like a running variance: not learnt by gradient")
    if running:
        _forget_running_mean(graph, act)
    kind = "bn" if running or weight.statistic else "bn" if act.norm is False else "ln"
    if weight.function in ("rsqrt", "sqrt") and not weight.others:
        graph.refuse(weight.view.leaf, "it looks like a running variance: not learnt by gradient")
        _forget_running_mean(graph, act)
        return dataclasses.replace(act, norm=False)
    use = graph.shared(weight.view)
    if use is not None:
        return dataclasses.replace(act, norm=None)
    node = graph.add(kind, sources(graph, act))
    graph.bind(node, "norm_scale", weight.view, (weight.view.leaf_digits,))
    for view, how in weight.others:
        graph.refuse(view.leaf, f"merged into a scale ({how})")
    fresh = None
    if act.norm is not None or kind == "bn":
        of = (act.key, *(act.stat.of if act.stat else ()))
        fresh = Fresh(node, of, weight.view.coverage)
    return Act(frozenset((node,)), act.labels, fresh=fresh, from_input=act.from_input)


def _forget_running_mean(graph: GraphBuilder, act: Act) -> None:
    """Undoes the bias node that subtracting a stored mean looked like."""
    for index in act.src:
        node = graph.nodes[index]
        uses = [u for u in graph.uses if u.node == index]
        if node.kind == "bias" and len(uses) == 1:
            graph.unbind(index, "it looks like a running mean: not learnt by gradient")


def shift(graph: GraphBuilder, act: Act, weight: Weight, how: str) -> Act:
    """Data plus (or minus) a parameter: bias of a norm, bias, or positional encoding."""
    weight = _unused_first(graph, weight)
    view = weight.view
    if act.fresh is not None and view.coverage == act.fresh.size and how != "sub":
        return _norm_bias(graph, act, weight)
    if act.norm is not None and len(view.varying()) <= 1 and not act.product:
        node = graph.add("ln" if act.norm else "bn", sources(graph, act))
        graph.bind(node, "norm_bias", view, (view.leaf_digits,))
        return Act(frozenset((node,)), act.labels, from_input=act.from_input)
    if act.stat is not None and act.stat.bias is None:
        return dataclasses.replace(act, stat=dataclasses.replace(act.stat, bias=weight))
    use = graph.shared(view)
    if use is not None:
        return dataclasses.replace(act, norm=None, fresh=None)
    refuse_others(graph, weight)
    if _varies_over_space(act, weight):
        node = position(graph, weight, act.labels)
        src = sources(graph, act) | {node}
        if not act.product:
            src = frozenset((graph.add("sum", src),))
        return Act(src, act.labels, product=act.product, from_input=act.from_input)
    node = graph.add("bias", sources(graph, act))
    graph.bind(node, "bias", view, (view.leaf_digits,))
    return Act(frozenset((node,)), act.labels, product=act.product, from_input=act.from_input)


def _unused_first(graph: GraphBuilder, weight: Weight) -> Weight:
    """Makes a leaf that has no node yet the main one, as in bias - mean * scale."""
    if not weight.others or graph.shared(weight.view) is None:
        return weight
    for view, how in weight.others:
        if view.coverage == weight.view.coverage and graph.shared(view) is None:
            rest = tuple(item for item in weight.others if item[0] is not view)
            return dataclasses.replace(weight, view=view, others=((weight.view, how), *rest))
    return weight


def _norm_bias(graph: GraphBuilder, act: Act, weight: Weight) -> Act:
    if graph.shared(weight.view) is None:
        graph.bind(act.fresh.node, "norm_bias", weight.view, (weight.view.leaf_digits,))
    return dataclasses.replace(act, fresh=None)


def _varies_over_space(act: Act, weight: Weight) -> bool:
    """Whether an added parameter varies over positions (rather than over features alone)."""
    if act.product:
        return weight.view.coverage > 1 or not weight.view.leaf_digits
    kinds = [{part.kind[0] for part in act.labels[i]} or {"c"} for i in weight.view.varying()]
    if len(kinds) == 1:
        return "s" in kinds[0] and "c" not in kinds[0]
    return any("c" not in kind for kind in kinds)


def tap(graph: GraphBuilder, act: Act, weight: Weight) -> Act | None:
    """One tap of a depthwise convolution written as shifted slices times kernel entries."""
    dims = len(next(iter(act.taps.offsets)))
    view = weight.view
    entries = sorted(view.fixed, key=lambda d: (d.axis, -d.stride))[-dims:]
    if not entries or act.taps.how:
        return None
    rest = [d for d in view.fixed if d not in entries]
    whole = [dataclasses.replace(d, start=0, count=d.full) for d in entries]
    full = dataclasses.replace(view, axes=(*view.axes, tuple(whole)), fixed=tuple(rest))
    use = graph.shared(full)
    if use is None:
        node = graph.add("sep_conv", sources(graph, dataclasses.replace(act, taps=None)))
        height = tuple(whole[:1])
        graph.bind(node, "kernel", full, (view.leaf_digits, (), height, tuple(whole[1:])))
    else:
        node = use.node
    (offset,) = act.taps.offsets
    spread = [o // d.start for o, d in zip(offset, entries, strict=False) if d.start]
    if spread and min(spread) > 1 and graph.nodes[node].kind == "sep_conv":
        graph.nodes[node].kind = "dil_conv"
    return Act(frozenset((node,)), act.labels, from_input=act.from_input)


# --- data that meets data elementwise ---------------------------------------------------------


def combine(graph: GraphBuilder, name: str, first: Act, second: Act) -> Act:
    """The result of an elementwise operation on two pieces of data."""
    if not first.src or not second.src:
        act = first if first.src or first.pending else second
        return act.plain(merge_labels(first.labels, second.labels))
    labels = merge_labels(first.labels, second.labels)
    taps = pools.merge_taps(name, first, second)
    if taps is not None:
        return dataclasses.replace(first, labels=labels, taps=taps, norm=None, fresh=None)
    first, second = settle(first), settle(second)
    for data, stat, swapped in ((first, second, False), (second, first, True)):
        if stat.stat is not None and _is_statistic_of(data, stat):
            return _normalise(graph, name, data, stat, labels, swapped)
    if first.stat and second.stat and set(first.stat.of) & set(second.stat.of):
        return _merge_statistics(first, second, labels)
    if first.key == second.key:
        return _same_source(first, second, labels)
    marks = {
        "product": first.product or second.product,
        "soft": first.soft or second.soft,
        "from_input": first.from_input or second.from_input,
    }
    src = sources(graph, first) | sources(graph, second)
    if name in ADDITIVE and not marks["product"]:
        return Act(frozenset((graph.add("sum", src),)), labels, from_input=marks["from_input"])
    if name == "mul":
        gated = _squeeze_excite(graph, first, second) or _squeeze_excite(graph, second, first)
        if gated is not None:
            return Act(frozenset((gated,)), labels, from_input=marks["from_input"])
    return Act(src, labels, **marks)


def _is_statistic_of(data: Act, stat: Act) -> bool:
    if data.fresh is not None and set(data.fresh.of) & set(stat.stat.of):
        return True
    if data.stat is not None and data.pending is None:
        return False
    return data.key in stat.stat.of


def _normalise(graph, name, data: Act, stat: Act, labels: Labels, swapped: bool) -> Act:
    """Data centred, normalised or shifted by one of its own statistics."""
    if name in MULTIPLICATIVE and stat.stat.root and not (swapped and name == "div"):
        result = dataclasses.replace(data, labels=labels, norm=stat.stat.mixes, fresh=None)
        if stat.stat.scale is None:
            return result
        of = (*stat.stat.of, data.key)
        scaled = scale(graph, dataclasses.replace(result, stat=None), stat.stat.scale)
        if scaled.fresh is not None:
            scaled = dataclasses.replace(scaled, fresh=dataclasses.replace(scaled.fresh, of=of))
        return scaled
    result = dataclasses.replace(data, labels=labels)
    if name in ADDITIVE and stat.stat.bias is not None and data.fresh is not None:
        return _norm_bias(graph, result, stat.stat.bias)
    if name in ADDITIVE and stat.stat.bias is not None and data.norm is not None:
        return shift(graph, result, stat.stat.bias, "add")
    return result


def _merge_statistics(first: Act, second: Act, labels: Labels) -> Act:
    a, b = first.stat, second.stat
    stat = Stat(
        of=tuple(dict.fromkeys((*a.of, *b.of))),
        mixes=a.mixes or b.mixes,
        root=a.root or b.root,
        scale=a.scale if a.scale is not None else b.scale,
        bias=a.bias if a.bias is not None else b.bias,
    )
    return dataclasses.replace(first, labels=labels, stat=stat)


def _same_source(first: Act, second: Act, labels: Labels) -> Act:
    """Both come from the same node: an activation function, or a part of a norm."""
    return dataclasses.replace(
        first,
        labels=labels,
        norm=first.norm if first.norm is not None else second.norm,
        fresh=first.fresh or second.fresh,
        product=first.product or second.product,
        soft=first.soft or second.soft,
        taps=None,
        from_input=first.from_input or second.from_input,
    )


def _squeeze_excite(graph: GraphBuilder, data: Act, gate: Act) -> int | None:
    """The cse node, if `gate` rescales the channels of `data` after a global pooling."""
    repeated = any(
        all(p.kind == "1" or p.count == 1 for p in g) and any(p.kind[0] in "s?" for p in d)
        for g, d in zip(gate.labels, data.labels, strict=True)
    )
    if not repeated:
        return None
    data_src, gate_src = sources(graph, data), sources(graph, gate)
    behind = graph.behind(data_src)
    branch = graph.behind(gate_src) & ~behind
    squeezed = [
        node
        for node in graph.squeezes
        if branch >> node & 1 and graph.behind(graph.nodes[node].preds) & ~behind == 0
    ]
    if not squeezed:
        return None
    for pool in squeezed:
        graph.nodes[pool].contracted = True
    return graph.add("cse", data_src | gate_src)


def const_scale(act: Act, const: Const) -> Act:
    """Data times or plus an array constant: running statistics normalise it."""
    act = settle(act)
    if const.statistic and len(const.shape) and label_shape(act.labels):
        return dataclasses.replace(act, norm=False if act.norm is None else act.norm, taps=None)
    return act
