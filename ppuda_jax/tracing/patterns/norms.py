"""Parameters that meet data elementwise, and data that meets its own statistics: norms.

The functions take the `GraphBuilder` and descriptions of values (`tracing.values`), create the
nodes that the vocabulary asks for, and return the description of the result.
"""

import dataclasses

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import SAME, Labels
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.patterns.tokens import position, refuse_others
from ppuda_jax.tracing.states import Normalised, Plain, Scaled, Statistic
from ppuda_jax.tracing.table import Equation, Kind
from ppuda_jax.tracing.values import PLAIN, Act, Const, Event, Weight
from ppuda_jax.tracing.views import UNKNOWN, complete_digits

_RUNNING_VARIANCE = "it looks like a running variance: not learnt by gradient"
_RUNNING_MEAN = "it looks like a running mean: not learnt by gradient"


# --- parameters that meet data ----------------------------------------------------------------


def _unproven(graph: GraphBuilder, act: Act, weight: Weight, resized: bool = False) -> str:
    """Why a parameter beside data has no role; "" if it is a vector or an encoding."""
    view = weight.view
    if weight.curve:  # a gain is predicted about one and a bias about zero, not their logarithms
        return f"it meets data as its {weight.curve}, for which there is no decoder"
    if any(d.axis == UNKNOWN for axis in view.axes for d in axis):
        if not resized or not view.leaf_digits:
            return "transformed before it met data in a way that is not followed"
        unknown = [i for i, axis in enumerate(view.axes) if any(d.axis == UNKNOWN for d in axis)]
        if any(part.kind == "b" for i in unknown for part in act.labels[i]):
            return "made of a parameter and an array that has a value for each image"
        return ""
    done = complete_digits((*view.leaf_digits, *view.fixed), graph.tree.shapes[view.leaf])
    if done is not None and done[1]:
        return "reduced or contracted before it met data"
    return ""


def _outer(act: Act, weight: Weight, how: str) -> str:
    """Why a parameter is no vector: data that is repeated along its axes meets it as a kernel."""
    varying = weight.view.varying()
    repeated = [i for i in varying if {part.kind for part in act.labels[i]} == {SAME}]
    return f"a kernel that is {how} element by element" if len(varying) > 1 and repeated else ""


def _refuse(graph: GraphBuilder, weight: Weight, reason: str) -> None:
    for leaf in weight.leaves():
        graph.refuse(leaf, reason)


def scale(graph: GraphBuilder, act: Act, weight: Weight) -> Act:
    """Data times a parameter: the scale of a norm, or a gain."""
    if act.statistic is not None:
        # A group norm's reciprocal root is repeated over the channels of a group too.
        if act.statistic.scale is None and (
            act.statistic.root or not _outer(act, weight, "multiplied")
        ):
            return act.put(dataclasses.replace(act.statistic, scale=weight))
        act = act.on(sources(graph, act))
    reason = _unproven(graph, act, weight) or _outer(act, weight, "multiplied")
    if reason:
        _refuse(graph, weight, reason)
        return act.put(PLAIN) if isinstance(act.state, (Normalised, Scaled)) else act
    running = [other for other in weight.others if other.event is Event.ROOT]
    for other in running:
        graph.refuse(other.view.leaf, _RUNNING_VARIANCE)
    if running:
        _forget_running_mean(graph, act)
    norm = act.state if isinstance(act.state, Normalised) else None
    batch = bool(running) or weight.rooted or (norm is not None and not norm.mixes)
    if weight.root and not weight.others and weight.view.leaf_digits:
        graph.refuse(weight.view.leaf, _RUNNING_VARIANCE)
        _forget_running_mean(graph, act)
        return act.put(Normalised(mixes=False, of=(act.src,)))
    if graph.shared(weight.view) is not None:
        return act.put(PLAIN) if norm is not None else act
    node = graph.add("bn" if batch else "ln", sources(graph, act))
    graph.bind(node, "norm_scale", weight.view, (weight.view.leaf_digits,))
    for other in weight.others:
        graph.refuse(other.view.leaf, f"merged into a scale ({other.how})")
    result = act.on(frozenset((node,)))
    if norm is None and not batch:
        return result
    of = norm.of if norm is not None and norm.of else (act.src,)
    return result.put(Scaled(node, of, weight.view.coverage))


def _forget_running_mean(graph: GraphBuilder, act: Act) -> None:
    """Undoes the bias node that subtracting a stored mean looked like."""
    for index in act.src:
        if isinstance(index, int):
            uses = [u for u in graph.uses if u.node == index]
            if graph.nodes[index].kind == "bias" and len(uses) == 1:
                graph.unbind(index, _RUNNING_MEAN)


def shift(graph: GraphBuilder, act: Act, weight: Weight, negative: bool = False) -> Act:
    """Data plus a parameter: bias of a norm, bias, or positional encoding.

    Args:
      graph: gets the node.
      act: the data.
      weight: the parameter.
      negative: it is subtracted, as a stored mean is and a bias is not.

    Returns:
      The result.
    """
    weight = _unused_first(graph, weight)
    view = weight.view
    state = act.state
    reason = _unproven(graph, act, weight, resized=True)
    if negative and not reason:  # prototypes or centres; positions are added
        reason = _outer(act, weight, "subtracted")
    if reason:
        _refuse(graph, weight, reason)
        return act.put(PLAIN) if isinstance(state, (Normalised, Scaled)) else act
    if isinstance(state, Scaled) and view.coverage == state.size and not negative:
        return _norm_bias(graph, act, state, weight)
    if isinstance(state, Normalised) and len(view.varying()) <= 1 and not act.product:
        refuse_others(graph, weight)
        node = graph.add("ln" if state.mixes else "bn", sources(graph, act))
        graph.bind(node, "norm_bias", view, (view.leaf_digits,))
        return act.on(frozenset((node,)))
    if isinstance(state, Statistic) and state.bias is None:
        return act.put(dataclasses.replace(state, bias=weight))
    refuse_others(graph, weight)
    if graph.shared(view) is not None:
        return act.put(PLAIN) if isinstance(state, (Normalised, Scaled)) else act
    if _varies_over_space(act, weight):
        node = position(graph, weight, act.labels)
        src = sources(graph, act) | {node}
        if not act.product:
            src = frozenset((graph.add("sum", src),))
    else:
        node = graph.add("bias", sources(graph, act))
        graph.bind(node, "bias", view, (view.leaf_digits,))
        src = frozenset((node,))
    return dataclasses.replace(act.on(src), product=act.product)


def _unused_first(graph: GraphBuilder, weight: Weight) -> Weight:
    """Makes a leaf that has no node yet the main one, as in bias - mean * scale."""
    if not weight.others or graph.shared(weight.view) is None:
        return weight
    for other in weight.others:
        if other.view.coverage == weight.view.coverage and graph.shared(other.view) is None:
            rest = tuple(item for item in weight.others if item is not other)
            main = dataclasses.replace(other, view=weight.view)
            return dataclasses.replace(weight, view=other.view, others=(main, *rest))
    return weight


def _norm_bias(graph: GraphBuilder, act: Act, state: Scaled, weight: Weight) -> Act:
    refuse_others(graph, weight)
    if graph.shared(weight.view) is None:
        graph.bind(state.node, "norm_bias", weight.view, (weight.view.leaf_digits,))
    return act.put(PLAIN)


def _varies_over_space(act: Act, weight: Weight) -> bool:
    """Whether an added parameter varies over positions (rather than over features alone)."""
    if act.product:
        varying = weight.view.varying()
        heads = len(varying) == 1 and {part.kind for part in act.labels[varying[0]]} == {"c"}
        return not heads and (weight.view.coverage > 1 or not weight.view.leaf_digits)
    kinds = [{part.kind[0] for part in act.labels[i]} or {"c"} for i in weight.view.varying()]
    if len(kinds) == 1:
        return "s" in kinds[0] and "c" not in kinds[0]
    return any("c" not in kind for kind in kinds)


# --- data that meets statistics ---------------------------------------------------------------


def is_statistic_of(data: Act, stat: Act) -> bool:
    """Whether one value was reduced from another, or from what it was before its norm."""
    if stat.statistic is None:
        return False
    of = stat.statistic.of
    if isinstance(data.state, Scaled) and set(data.state.of) & set(of):
        return True
    if type(data.state) is Statistic:
        return False
    return data.src in of


def normalise(
    graph: GraphBuilder, eqn: Equation, data: Act, stat: Act, labels: Labels, swapped: bool
) -> Act:
    """Data centred, normalised or shifted by one of its own statistics.

    Args:
      graph: gets the nodes.
      eqn: the operation.
      data: the data.
      stat: its statistic.
      labels: labels of the result.
      swapped: the statistic is the first argument.

    Returns:
      The result.
    """
    state = stat.statistic
    result = dataclasses.replace(data, labels=labels)
    if state is None:
        return result
    inverted = swapped and eqn.rule.inverse
    if eqn.kind is Kind.MULTIPLICATIVE and state.root and not inverted:
        normalised = result.put(Normalised(state.mixes, (data.src, *state.of)))
        return normalised if state.scale is None else scale(graph, normalised, state.scale)
    if eqn.kind is Kind.ADDITIVE and state.bias is not None:
        if isinstance(data.state, Scaled):
            return _norm_bias(graph, result, data.state, state.bias)
        if isinstance(data.state, Normalised):
            return shift(graph, result, state.bias)
    return result


def merge_statistics(first: Act, second: Act, labels: Labels) -> Act:
    """A statistic made of two statistics of the same data."""
    a, b = first.statistic, second.statistic
    if a is None or b is None:
        return dataclasses.replace(first, labels=labels)
    state = dataclasses.replace(
        a,
        of=tuple(dict.fromkeys((*a.of, *b.of))),
        mixes=a.mixes or b.mixes,
        root=a.root or b.root,
        scale=a.scale if a.scale is not None else b.scale,
        bias=a.bias if a.bias is not None else b.bias,
    )
    return dataclasses.replace(first, labels=labels, state=state)


def stored(act: Act, const: Const) -> Act:
    """Data times the reciprocal root of a stored array: running statistics normalise it."""
    if not const.root or not const.shape or not act.labels:
        return act
    if isinstance(act.state, Plain):
        return act.put(Normalised(mixes=False, of=(act.src,)))
    return act.after(Event.STORED)
