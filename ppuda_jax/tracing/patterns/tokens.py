"""Parameters that are used as data: positional encodings, class tokens, learnt queries."""

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.values import Act, Labels, Weight, axis_labels
from ppuda_jax.tracing.views import Axis


def token(graph: GraphBuilder, weight: Weight, labels: Labels | None = None) -> Act:
    """Turns a parameter that is used as data (a class token, a learnt query) into a node."""
    shape = weight.shape
    if labels is None:
        labels = tuple(
            axis_labels("c" if i == len(shape) - 1 else f"s{i}", n) for i, n in enumerate(shape)
        )
    use = graph.shared(weight.view)
    node = use.node if use is not None else position(graph, weight, labels)
    refuse_others(graph, weight)
    return Act(frozenset((node,)), labels, from_input=False)


def position(graph: GraphBuilder, weight: Weight, labels: Labels) -> int:
    """Creates a pos_enc node: features on the "c" axes, positions on the others."""
    features: list = []
    places: list[Axis] = []
    varying = weight.view.varying()
    feature_axes = [i for i in varying if labels[i] and labels[i][-1].kind == "c"]
    if not feature_axes:
        feature_axes = list(varying[-1:])
    for i in varying:
        digits = tuple(d for d in weight.view.axes[i] if d.is_leaf)
        if i in feature_axes:
            features += digits
        elif digits:
            places.append(digits)
    if len(places) == 1:
        places = _square(places[0])
    height = places[0] if places else ()
    width = tuple(d for digits in places[1:] for d in digits)
    node = graph.add("pos_enc", ())
    graph.bind(node, "pos_enc", weight.view, ((), tuple(features), height, width))
    return node


def _square(digits: Axis) -> list[Axis]:
    """Splits an axis of s * s positions into height and width, if it is one."""
    if len(digits) == 2 and digits[0].count == digits[1].count:
        return [digits[:1], digits[1:]]
    if len(digits) != 1 or digits[0].start or digits[0].count != digits[0].full:
        return [digits]
    side = round(digits[0].count ** 0.5)
    parts = digits[0].split(side) if side * side == digits[0].count and side > 1 else None
    return [digits] if parts is None else [parts[:1], parts[1:]]


def refuse_others(graph: GraphBuilder, weight: Weight) -> None:
    """Records that the further leaves of a value have no node of their own."""
    for view, how in weight.others:
        if view.leaf != weight.view.leaf:
            graph.refuse(view.leaf, f"merged into another parameter ({how}) before its use")
