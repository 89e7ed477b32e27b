"""What each primitive does to the description of a value: one rule per primitive, one table.

A rule is called as rule(tracer, eqn, ins) with at least one argument that is no constant, and
returns the description of the results. `RULES` is the table; `elementwise_rules.default` is for
the rest.
"""

from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.patterns import norms, pools
from ppuda_jax.tracing.rules import products
from ppuda_jax.tracing.rules.elementwise import (
    LINEAR_UNARY,
    PASSED_ON,
    binary,
    default,
    flatten_joined,
    output_shape,
    passed_on,
    select,
    unary,
)
from ppuda_jax.tracing.rules.lookup import gather, update
from ppuda_jax.tracing.rules.movement import (
    LAYOUT,
    STACKED,
    concatenate,
    layout,
    resized,
    split,
    stack,
    unstack,
)
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, axis_labels, settle
from ppuda_jax.tracing.views import REPEATED


def reduce(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Reductions."""
    return _reduced(tracer, ins[0], eqn.params["axes"], eqn.primitive.name)


def collective(tracer: Interpreter, eqn, ins: list[Value]) -> list[Value]:
    """Psum and the like: reductions over the axes given by number (from vmap)."""
    axes = [axis for axis in eqn.params["axes"] if isinstance(axis, int)]
    name = "reduce_max" if "max" in eqn.primitive.name else "reduce_sum"
    return [
        value if isinstance(value, Const) else _reduced(tracer, value, axes, name) for value in ins
    ]


def _reduced(tracer: Interpreter, value: Value, axes, name: str) -> Value:
    axes = tuple(int(i) for i in axes)
    if isinstance(value, Joined):
        value = flatten_joined(value)
    if isinstance(value, Weight):
        kept = (axis for i, axis in enumerate(value.view.axes) if i not in axes)
        if all(digit.axis != REPEATED for axis in kept for digit in axis):
            return value.map(lambda v: v.drop(axes))
        value = tracer.data(value)  # repeated over the batch: a token, not a kernel
    stacked = any(part.kind == STACKED for i in axes for part in value.labels[i])
    if stacked and name == "reduce_sum" and len(value.src) == 1:
        node = tracer.graph.nodes[next(iter(value.src))]
        node.kind = "sum" if node.kind == "concat" else node.kind
        kept = tuple(axis for i, axis in enumerate(value.labels) if i not in axes)
        if len(axes) == 1:
            return value.plain(kept)
    return pools.reduce(value, axes, name)


def window(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Pools over windows."""
    value = next((v for v in ins if isinstance(v, Act)), None)
    if value is None:
        return default(tracer, eqn, ins)
    value = settle(value)
    sizes = eqn.params.get("window_dimensions", ())
    wide = [i for i, n in enumerate(sizes) if n > 1]
    shape = output_shape(eqn)
    labels = tuple(map(resized, value.labels, shape))
    if not wide:
        return value.plain(labels)
    name = "max" if "max" in eqn.primitive.name or _monoid(eqn) == "max" else "avg"
    whole = all(shape[i] == 1 and sizes[i] >= value.shape[i] for i in wide)
    spans = (
        sorted((sizes[i] for i in wide), reverse=True)
        if len(wide) == 1
        else [sizes[i] for i in wide]
    )
    extent = (int(spans[0]), int(spans[1]) if len(spans) > 1 else 1)
    if name == "avg" and whole and len(wide) > 1:
        node = tracer.graph.add("glob_avg", norms.sources(tracer.graph, value))
    else:
        kind = f"{name}_pool"
        node = tracer.graph.add(kind, norms.sources(tracer.graph, value), extent)
    if whole and len(wide) > 1:
        tracer.graph.squeezes.add(node)
    labels = tuple(
        axis_labels(
            f"s{i}"
            if axis and axis[0].kind == "?" and i in wide
            else (axis[0].kind if axis else "?"),
            n,
        )
        for i, (axis, n) in enumerate(zip(labels, shape, strict=True))
    )
    return Act(frozenset((node,)), labels, from_input=value.from_input)


def _monoid(eqn) -> str:
    inner = eqn.params.get("jaxpr")
    names = [e.primitive.name for e in getattr(inner, "eqns", ())]
    return "max" if names == ["max"] else "add"


RULES = {
    **dict.fromkeys(
        (
            *LINEAR_UNARY,
            "exp",
            "exp2",
            "log",
            "log1p",
            "expm1",
            "tanh",
            "logistic",
            "erf",
            "erfc",
            "erf_inv",
            "abs",
            "sign",
            "floor",
            "ceil",
            "round",
            "sin",
            "cos",
            "square",
            "sqrt",
            "rsqrt",
            "cbrt",
            "integer_pow",
            "is_finite",
            "not",
            "lgamma",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "asinh",
            "acosh",
            "atanh",
            "imag",
            "conj",
            "population_count",
        ),
        unary,
    ),
    **dict.fromkeys(PASSED_ON, passed_on),
    **dict.fromkeys(
        (
            "add",
            "add_any",
            "sub",
            "mul",
            "div",
            "max",
            "min",
            "pow",
            "rem",
            "atan2",
            "nextafter",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "and",
            "or",
            "xor",
        ),
        binary,
    ),
    **dict.fromkeys(LAYOUT, layout),
    **dict.fromkeys(
        (
            "reduce_sum",
            "reduce_max",
            "reduce_min",
            "reduce_prod",
            "reduce_and",
            "reduce_or",
            "argmax",
            "argmin",
        ),
        reduce,
    ),
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), collective),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"), window
    ),
    **dict.fromkeys(
        (
            "dynamic_update_slice",
            "scatter",
            "scatter-add",
            "scatter_add",
            "scatter-mul",
            "scatter-min",
            "scatter-max",
        ),
        update,
    ),
    "select_n": select,
    "clamp": select,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "concatenate": concatenate,
    "gather": gather,
    "dot_general": products.dot_general,
    "conv_general_dilated": products.conv,
}
"""Rule by primitive name."""
