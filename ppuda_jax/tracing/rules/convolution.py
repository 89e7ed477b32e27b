"""The rule for convolutions in any layout: grouped, dilated, transposed, of any rank."""

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import Axis as LabelAxis
from ppuda_jax.tracing.labels import Label, axis_labels, count, unknown_labels
from ppuda_jax.tracing.patterns import convolutions
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused, sourceless
from ppuda_jax.tracing.views import Axis


@rule("conv_general_dilated", kind=Kind.LINEAR_MAP)
def conv(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A convolution of data, or of a learnt map, with a kernel."""
    data, weight = ins
    numbers = eqn.params["dimension_numbers"]
    if isinstance(weight, Joined):
        weight = refused(weight.shape, (weight,), "joined with others into one kernel")
        weight = tracer.met(weight)
    if isinstance(data, (Weight, Joined)):
        if not isinstance(weight, (Weight, Act)) or not _is_map(data, int(numbers.lhs_spec[0])):
            return refused(eqn.shape, ins, "filtered before its use")
        data = tracer.data(data)
    if isinstance(data, Const):
        if isinstance(weight, Act):
            return weight.moved(unknown_labels(eqn.shape))
        data = sourceless(unknown_labels(data.shape))
    if not isinstance(data, Act):
        return refused(eqn.shape, ins, "filtered before its use")
    data = data.settled()
    out = tuple(int(i) for i in numbers.out_spec)
    labels: list[LabelAxis] = [()] * len(eqn.shape)
    labels[out[0]] = _batch(data.labels[int(numbers.lhs_spec[0])], eqn.shape[out[0]])
    labels[out[1]] = axis_labels("c", eqn.shape[out[1]])
    for i, axis in enumerate(out[2:]):
        labels[axis] = (Label(f"s{i}", eqn.shape[axis]),)
    moved = [axis for i in numbers.lhs_spec[2:] for axis in data.labels[int(i)][:1]]
    tracer.graph.moved_over(label.origin for label in moved)
    if isinstance(weight, Weight):
        kind, groups = _kernel(eqn, weight)
        return convolutions.kernel(tracer.graph, data, weight, kind, groups, tuple(labels))
    src = sources(tracer.graph, data)
    if isinstance(weight, Act):
        made = sources(tracer.graph, weight)
        if weight.from_input:
            src |= made
        else:
            tracer.graph.refuse_behind(made, "made of several parameters")
    return data.on(src, tuple(labels))


def _is_map(data: Weight | Joined, batch: int) -> bool:
    """Whether a parameter can stand where data is expected: it is the same for all images."""
    return isinstance(data, Weight) and not any(d.is_leaf for d in data.view.axes[batch])


def _kernel(eqn: Equation, weight: Weight) -> tuple[str, tuple[Axis, ...]]:
    """The node's kind, and the digits of (out, in, height, width)."""
    spec = [int(i) for i in eqn.params["dimension_numbers"].rhs_spec]
    axes = [tuple(d for d in weight.view.axes[i] if d.is_leaf) for i in spec]
    out, features, *space = axes
    if len(space) > 2:
        height, width = tuple(d for part in space[:-1] for d in part), space[-1]
    else:
        height, width = (*space, (), ())[:2]
    kind = "conv"
    if eqn.params["feature_group_count"] > 1:
        kind = "dil_conv" if min(eqn.params["rhs_dilation"] or (1,)) > 1 else "sep_conv"
    return kind, (out, features, height, width)


def _batch(axis: LabelAxis, size: int) -> LabelAxis:
    if count(axis) == size:
        return tuple(Label("b", part.count) if part.kind in "?1" else part for part in axis)
    return axis_labels("b", size)
