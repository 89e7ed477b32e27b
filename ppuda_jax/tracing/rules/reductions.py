"""Rules for reductions and for pools over windows."""

from collections.abc import Sequence

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import ANY, STACKED, axis_labels, resized_all, without
from ppuda_jax.tracing.patterns import pools
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused
from ppuda_jax.tracing.views import REPEATED


@rule("reduce_sum", kind=Kind.ADDITIVE)
@rule("reduce_max", kind=Kind.MAXIMUM)
@rule("reduce_min", kind=Kind.MINIMUM)
@rule("reduce_prod", kind=Kind.MULTIPLICATIVE)
@rule("reduce_and", "reduce_or", "argmax", "argmin", kind=Kind.FUNCTION)
def reduce(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Reductions over axes."""
    return _reduced(tracer, eqn, ins[0], eqn.params["axes"])


@rule("psum", "psum_invariant", kind=Kind.ADDITIVE)
@rule("pmax", kind=Kind.MAXIMUM)
@rule("pmin", kind=Kind.MINIMUM)
def collective(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Reductions over the axes that are given by number (from vmap)."""
    axes = [axis for axis in eqn.params["axes"] if isinstance(axis, int)]
    return [
        value if isinstance(value, Const) else _reduced(tracer, eqn, value, axes) for value in ins
    ]


def _reduced(tracer: Interpreter, eqn: Equation, value: Value, over: Sequence[int]) -> Value:
    axes = tuple(int(i) for i in over)
    if isinstance(value, Joined):
        return refused(eqn.shape, (value,), "joined with others and reduced")
    if isinstance(value, Weight):
        kept = (axis for i, axis in enumerate(value.view.axes) if i not in axes)
        if all(digit.axis != REPEATED for axis in kept for digit in axis):
            return value.map(lambda v: v.drop(axes))
        value = tracer.data(value)  # repeated over the batch: a token, not a kernel
    if not isinstance(value, Act):
        return value
    stacked = any(part.kind == STACKED for i in axes for part in value.labels[i])
    src = sources(tracer.graph, value) if stacked else frozenset()
    if stacked and eqn.kind is Kind.ADDITIVE and len(src) == 1:
        (index,) = src
        node = tracer.graph.nodes[index]
        node.kind = "sum" if node.kind == "concat" else node.kind
        if len(axes) == 1:
            return value.moved(without(value.labels, axes))
    return pools.reduce(value, axes, eqn.kind)


@rule("reduce_window_max", kind=Kind.MAXIMUM)
@rule("reduce_window_min", "reduce_window_sum", "reduce_window", kind=Kind.ADDITIVE)
def window(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Pools over windows."""
    value = next((v for v in ins if isinstance(v, Act)), None)
    if value is None:
        return contract(tracer, eqn, ins)
    value = value.settled()
    sizes = eqn.params.get("window_dimensions", ())
    wide = [i for i, n in enumerate(sizes) if n > 1]
    labels = resized_all(value.labels, eqn.shape)
    if not wide:
        return value.moved(labels)
    whole = all(eqn.shape[i] == 1 and sizes[i] >= value.shape[i] for i in wide) and len(wide) > 1
    largest = _is_maximum(eqn)
    if whole and not largest:
        node = tracer.graph.add("glob_avg", sources(tracer.graph, value))
    else:
        spans = [int(sizes[i]) for i in wide]
        extent = (spans[0], spans[1] if len(spans) > 1 else 1)
        kind = "max_pool" if largest else "avg_pool"
        node = tracer.graph.add(kind, sources(tracer.graph, value), extent)
    if whole:
        tracer.graph.squeezes.add(node)
    named = []
    for i, (axis, n) in enumerate(zip(labels, eqn.shape, strict=True)):
        kind = axis[0].kind if axis else ANY
        named.append(axis_labels(f"s{i}" if kind == ANY and axis and i in wide else kind, n))
    return value.on(frozenset((node,)), tuple(named))


def _is_maximum(eqn: Equation) -> bool:
    """Whether a window takes the maximum, by name or by the function that it carries."""
    inner = getattr(eqn.params.get("jaxpr"), "eqns", ())
    return eqn.kind is Kind.MAXIMUM or [e.primitive.name for e in inner] == ["max"]
