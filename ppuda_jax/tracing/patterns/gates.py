"""Data that meets other data elementwise: sums, gates, activation functions with a parameter."""

import dataclasses

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import SAME, Labels, merge_labels, unknown_labels
from ppuda_jax.tracing.patterns import convolutions, norms, pools
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.states import Normalised, Scaled
from ppuda_jax.tracing.table import Equation, Kind
from ppuda_jax.tracing.values import PLAIN, Act


def combine(graph: GraphBuilder, eqn: Equation, first: Act, second: Act) -> Act:
    """The result of an elementwise operation on two pieces of data of one shape."""
    labels = merge_labels(first.labels, second.labels)
    if not first.src or not second.src:
        return (first if first.src else second).moved(labels)
    taps = pools.merge_taps(eqn.kind, eqn.rule.inverse, first, second)
    if taps is not None:
        return dataclasses.replace(taps, labels=labels)
    if eqn.kind is Kind.ADDITIVE and not eqn.rule.inverse:
        taps = convolutions.merge_taps(graph, first, second)
        if taps is not None:
            return dataclasses.replace(taps, labels=labels)
    first, second = first.settled(), second.settled()
    if norms.is_statistic_of(first, second):
        return norms.normalise(graph, eqn, first, second, labels, swapped=False)
    if norms.is_statistic_of(second, first):
        return norms.normalise(graph, eqn, second, first, labels, swapped=True)
    a, b = first.statistic, second.statistic
    if a is not None and b is not None and set(a.of) & set(b.of):
        return norms.merge_statistics(first, second, labels)
    if first.src == second.src:
        return _same_source(first, second, labels)
    return _different(graph, eqn, first, second, labels)


def meet(graph: GraphBuilder, eqn: Equation, first: Act, second: Act) -> Act:
    """As `combine` for values of any shapes, of which nothing is known afterwards."""
    if first.shape != second.shape:
        first = first.moved(unknown_labels(second.shape))
    return combine(graph, eqn, first, second)


def _same_source(first: Act, second: Act, labels: Labels) -> Act:
    """Both come from the same node: an activation function, or a part of a norm."""
    states = [act.state for act in (first, second) if isinstance(act.state, (Normalised, Scaled))]
    state = states[0] if states else first.state if first.taps is None else PLAIN
    return dataclasses.replace(
        first,
        labels=labels,
        state=state,
        product=first.product or second.product,
        soft=first.soft or second.soft,
        from_input=first.from_input or second.from_input,
    )


def _different(graph: GraphBuilder, eqn: Equation, first: Act, second: Act, labels: Labels) -> Act:
    result = Act(
        sources(graph, first) | sources(graph, second),
        labels,
        product=first.product or second.product,
        soft=first.soft or second.soft,
        from_input=first.from_input or second.from_input,
    )
    if eqn.kind is Kind.ADDITIVE and not result.product:
        return result.on(frozenset((graph.add("sum", sources(graph, result)),)))
    if eqn.kind is Kind.MULTIPLICATIVE and not eqn.rule.inverse:
        for data, gate in ((first, second), (second, first)):
            node = _squeeze_excite(graph, data, gate)
            if node is not None:
                return result.on(frozenset((node,)))
    return result


def _squeeze_excite(graph: GraphBuilder, data: Act, gate: Act) -> int | None:
    """The cse node, if `gate` rescales the channels of `data` after a global pooling."""
    repeated = any(
        all(p.kind == SAME or p.count == 1 for p in g) and any(p.kind[0] in "s?" for p in d)
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


def slope(graph: GraphBuilder, plain: Act, sloped: Act) -> Act | None:
    """A parametric ReLU: one case is the other times a parameter."""
    src = sources(graph, sloped)
    if len(src) != 1 or src == plain.src:
        return None
    (index,) = src
    node = graph.nodes[index]
    used = [use for use in graph.uses if use.node == index]
    if node.kind != "ln" or len(used) != 1 or node.preds != plain.src:
        return None
    graph.unbind(index, "slope of an activation function, for which there is no decoder")
    return plain.on(plain.src)
