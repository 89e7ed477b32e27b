"""Parameters that are used as data: positional encodings, class tokens, learnt queries."""

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import Labels, axis_labels
from ppuda_jax.tracing.values import Act, Refused, Weight, refused
from ppuda_jax.tracing.views import Axis, Digit


def token(graph: GraphBuilder, weight: Weight, labels: Labels | None = None) -> Act | Refused:
    """Turns a parameter that stands beside data (a class token, a learnt query) into a node.

    Args:
      graph: gets the node.
      weight: the parameter.
      labels: what its axes mean where the data beside it tells.

    Returns:
      The token, or the refusal of a parameter that is not followed.
    """
    if labels is None:
        last = len(weight.shape) - 1
        labels = tuple(
            axis_labels("c" if i == last else f"s{i}", n) for i, n in enumerate(weight.shape)
        )
    use = graph.shared(weight.view)
    if use is None and not weight.view.leaf_digits and not weight.view.fixed and weight.shape:
        return refused(weight.shape, (weight,), "used as data after a change that is not followed")
    node = use.node if use is not None else position(graph, weight, labels)
    refuse_others(graph, weight)
    return Act(frozenset((node,)), labels, from_input=False)


def position(graph: GraphBuilder, weight: Weight, labels: Labels) -> int:
    """Creates a pos_enc node: features on the "c" axes, positions on the others."""
    features: list[Digit] = []
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
    for other in weight.others:
        if other.view.leaf != weight.view.leaf:
            reason = f"merged into another parameter ({other.how}) before its use"
            graph.refuse(other.view.leaf, reason)
