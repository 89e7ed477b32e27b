"""Kernels that meet data: the nodes of convolutions and dense layers, however they are written."""

import dataclasses
import math
from collections.abc import Sequence

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import ANY, STACKED, Label, Labels, Origin
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.patterns.tokens import refuse_others
from ppuda_jax.tracing.states import Joint, Taps
from ppuda_jax.tracing.values import Act, Event, Weight
from ppuda_jax.tracing.views import REPEATED, UNKNOWN, Axis, Digit, View


def kernel(
    graph: GraphBuilder,
    act: Act,
    weight: Weight,
    kind: str,
    groups: Sequence[Axis],
    labels: Labels,
    batch: Sequence[int] = (),
) -> Act:
    """Creates the node of a kernel, or reuses the one of a shared kernel.

    Args:
      graph: gets the node.
      act: the data.
      weight: the parameter.
      kind: kind of the node.
      groups: digits of the canonical axes: (out, in) or (out, in, height, width).
      labels: labels of the result.
      batch: axes of the parameter that data shares; it may be repeated there.

    Returns:
      The result.
    """
    view = weight.view
    result = act.on(sources(graph, act), labels)
    if graph.shared(view) is not None:
        refuse_others(graph, weight)
        return result
    reason = _unproven(weight, batch)
    if reason:
        for leaf in weight.leaves():
            graph.refuse(leaf, reason)
        return result
    node = graph.add(kind, sources(graph, act))
    graph.bind(node, "kernel", view, groups)
    return _gains(graph, act.on(frozenset((node,)), labels), weight)


_STRAIGHT = frozenset(
    (
        *("tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh"),
        *("erf", "expm1", "log1p"),
    )
)
"""Curves that leave small numbers, as kernels are, nearly what they are."""


def _unproven(weight: Weight, batch: Sequence[int]) -> str:
    """Why a parameter is no kernel: its values must be those of a leaf, each at one place.

    Exponentials are none, but for those that are divided by their sum: the weights of averages.
    """
    if weight.curve and weight.curve not in _STRAIGHT and not weight.relative:
        return f"it meets data as its {weight.curve}, for which there is no decoder"
    axes = weight.view.axes
    digits = [digit for i, axis in enumerate(axes) if i not in batch for digit in axis]
    if any(digit.axis == UNKNOWN for digit in digits):
        return "transformed before its use in a way that is not followed"
    if any(digit.axis == REPEATED for digit in digits):
        return "repeated in a kernel, as the scale of a stored kernel is"
    return ""


def _gains(graph: GraphBuilder, act: Act, weight: Weight) -> Act:
    """Scales that were multiplied into a kernel become scales of its result."""
    bent = {other.view.leaf: other for other in weight.others if other.event is None}
    for other in (*bent.values(), *weight.others):
        if other.view.leaf == weight.view.leaf or graph.shared(other.view) is not None:
            continue
        vector = len(other.view.varying()) == 1 and other.view.leaf_digits
        if other.event in (Event.SCALE, Event.ROOT) and vector and other.view.leaf not in bent:
            node = graph.add("ln", sources(graph, act))
            graph.bind(node, "norm_scale", other.view, (other.view.leaf_digits,))
            act = act.on(frozenset((node,)))
        else:
            graph.refuse(other.view.leaf, f"merged into a kernel ({other.how}) before its use")
    return act


def patches(contracted: Sequence[Label], ins: Axis) -> tuple[Axis, ...] | None:
    """Tells height, width and channels of a kernel that meets separate patches of the data.

    Args:
      contracted: the contracted parts of the data, in its order.
      ins: the digits of the kernel that meet them.

    Returns:
      The digits of the channels, of the height and of the width; None if patches of two or three
      axes are not seen, or do not meet the kernel digit by digit.
    """
    same = [part.count for part in contracted] == [digit.count for digit in ins]
    if not same or len({digit.axis for digit in ins}) < len(ins):
        return None
    met = list(zip(contracted, ins, strict=True))
    places = [digit for part, digit in met if _is_place(part)]
    channels = tuple(digit for part, digit in met if not _is_place(part))
    if len(places) not in (2, 3) or not channels:
        return None
    return (channels, tuple(places[:-1]), (places[-1],))


def _is_place(part: Label) -> bool:
    """Whether a part of the data is a position in a patch, not its channels."""
    cut = part.origin is not None and part.count < part.origin.size
    return part.kind[0] in ("s", STACKED) or (part.kind == ANY and cut)


def patched(contracted: Sequence[Label]) -> list[Origin]:
    """The axes of the input of which a dense layer sees a part: those that patches tile."""
    seen: dict[Origin, int] = {}
    for part in contracted:
        if part.origin is not None:
            seen[part.origin] = seen.get(part.origin, 1) * part.count
    return [origin for origin, n in seen.items() if n < origin.size]


def columns(act: Act, contracted: Sequence[Label], ins: Axis) -> tuple[Axis, ...]:
    """Tells kernel positions from channels if the data are the columns of a convolution."""
    taps = act.taps
    if taps is None or taps.how is not Joint.COLUMNS:
        return (ins,)
    if STACKED in [part.kind for part in contracted[1:]] and contracted[0].kind != STACKED:
        return (ins,)  # the channels come first
    count, places = 1, []
    for digit in ins:
        if count == len(taps.offsets):
            break
        places.append(digit)
        count *= digit.count
    rest = ins[len(places) :]
    if count != len(taps.offsets) or len(places) > 2:
        return (ins,)
    axes: list[Axis] = [(place,) for place in places]
    if len(places) == 1 and len({offset[0] for offset in taps.offsets}) == 1:
        axes.insert(0, ())
    height, width = (*axes, (), ())[:2]
    return (rest, height, width)


def tap(graph: GraphBuilder, act: Act, weight: Weight) -> Act | None:
    """One tap of a depthwise convolution written as shifted slices times kernel entries."""
    taps, view = act.taps, weight.view
    if taps is None or taps.how is not Joint.NOT:
        return None
    dims = len(next(iter(taps.offsets)))
    entries = sorted(view.fixed, key=lambda d: (d.axis, -d.stride))[-dims:]
    if not entries:
        return None
    rest = [d for d in view.fixed if d not in entries]
    whole = [dataclasses.replace(d, start=0, count=d.full) for d in entries]
    full = dataclasses.replace(view, axes=(*view.axes, tuple(whole)), fixed=tuple(rest))
    use = graph.shared(full)
    if use is None:
        node = graph.add("sep_conv", sources(graph, act))
        graph.bind(node, "kernel", full, (view.leaf_digits, (), tuple(whole[:1]), tuple(whole[1:])))
    else:
        node = use.node
    if graph.nodes[node].kind == "sep_conv" and _is_dilated(next(iter(taps.offsets)), entries):
        graph.nodes[node].kind = "dil_conv"
    return act.on(frozenset((node,)))


def of_tap(act: Act, result: Act) -> Act:
    """The result of a dense layer, which may be a tap of a convolution if a slice went in."""
    taps = act.taps
    nodes = tuple(node for node in result.src if isinstance(node, int))
    if taps is None or taps.how is not Joint.NOT or len(nodes) != 1:
        return result
    return result.put(Taps(taps.offsets, Joint.PRODUCTS, taps.of, nodes))


def merge_taps(graph: GraphBuilder, first: Act, second: Act) -> Act | None:
    """Adds taps of a convolution whose entries are kernels of dense layers: `x[i:] @ w[i]`.

    Args:
      graph: its dense layers become one convolution once all entries of a kernel were met.
      first: some taps.
      second: others.

    Returns:
      Their sum; None if they are no taps of one convolution.
    """
    a, b = first.taps, second.taps
    if a is None or b is None or {a.how, b.how} != {Joint.PRODUCTS}:
        return None
    if a.of.src != b.of.src or a.offsets & b.offsets:
        return None
    nodes = (*a.nodes, *b.nodes)
    if _into_one(graph, nodes, len(next(iter(a.offsets)))):
        return first.on(frozenset(nodes[:1]))
    src = frozenset((graph.add("sum", sources(graph, first) | sources(graph, second)),))
    return first.on(src).put(Taps(a.offsets | b.offsets, Joint.PRODUCTS, a.of, nodes))


def _into_one(graph: GraphBuilder, nodes: Sequence[int], dims: int) -> bool:
    """Makes dense layers one convolution, if their kernels are all the entries of one kernel.

    Args:
      graph: gets the node in place of theirs.
      nodes: the dense layers.
      dims: number of axes along which the data is shifted, and so of indices of an entry.

    Returns:
      Whether they are one now.
    """
    uses = [use for use in graph.uses if use.node in nodes]
    if len({(use.leaf, use.groups) for use in uses}) != 1 or len(uses) != len(nodes):
        return False
    groups = uses[0].groups
    inside = {digit for group in groups for digit in group}
    indices = [[digit for digit in use.digits if digit not in inside] for use in uses]
    entries, kept = indices[0][-dims:], indices[0][:-dims]
    if any(index[:-dims] != kept for index in indices):
        return False
    if not entries or math.prod(digit.full for digit in entries) != len(nodes):
        return False
    whole = tuple(dataclasses.replace(d, start=0, count=d.full) for d in entries)
    for node in nodes[1:]:
        graph.unbind(node, "")
        graph.nodes[node].preds = frozenset(nodes[:1])
    graph.unbind(nodes[0], "")
    graph.nodes[nodes[0]].contracted = False
    places = (whole[:-1], whole[-1:]) if len(whole) > 1 else (whole, ())
    graph.bind(nodes[0], "kernel", View(uses[0].leaf, (), tuple(kept)), (*groups, *places))
    return True


def _is_dilated(offset: Sequence[int], entries: Sequence[Digit]) -> bool:
    """Whether a tap is further from the first one than its place in the kernel."""
    spread = [o // d.start for o, d in zip(offset, entries, strict=False) if d.start]
    return bool(spread) and min(spread) > 1
