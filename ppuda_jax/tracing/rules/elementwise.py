"""Rules for elementwise primitives of one or two arguments."""

import dataclasses
import functools
import math

import numpy as np

from ppuda_jax.tracing import weights
from ppuda_jax.tracing.interpreter import Interpreter, fitted
from ppuda_jax.tracing.labels import SAME
from ppuda_jax.tracing.patterns import convolutions, gates, norms
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Kind, Result, elementwise, rule
from ppuda_jax.tracing.values import Act, Const, Event, Joined, Value, Weight, refused

_ADAPTER = "an adapter that is added to another parameter"
_OF_A_KERNEL = "multiplied with a kernel into what changes the kernel, as a spectral norm does"

_EVENTS = {
    Kind.LINEAR: Event.RENAME,
    Kind.SQUARE: Event.SQUARE,
    Kind.ROOT: Event.ROOT,
}


@rule(
    *("copy", "stop_gradient", "reduce_precision", "copy_p", "name", "layout_constraint"),
    *("reshard", "pvary", "sharding_constraint", "mesh_cast"),
    kind=Kind.IDENTITY,
)
@rule("convert_element_type", kind=Kind.IDENTITY, fold=lambda eqn, x: np.asarray(x))
def same(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """The argument itself."""
    return ins[0]


@rule("optimization_barrier", "pbroadcast", "tie", kind=Kind.IDENTITY)
def passed_on(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Results that are the arguments one by one."""
    return ins[-len(eqn.outs) :]


@rule("neg", kind=Kind.LINEAR, fold=elementwise(np.negative))
@rule("real", kind=Kind.LINEAR)
@rule("square", kind=Kind.SQUARE)
@rule("rsqrt", "sqrt", "integer_pow", "cbrt", kind=Kind.ROOT)
@rule("exp", "exp2", kind=Kind.EXPONENTIAL)
@rule("sign", kind=Kind.FUNCTION, fold=elementwise(np.sign))
@rule("not", kind=Kind.FUNCTION, fold=elementwise(np.logical_not))
@rule(
    *("log", "log1p", "expm1", "tanh", "logistic", "erf", "erfc", "erf_inv", "lgamma"),
    *("sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "asinh", "acosh", "atanh"),
    kind=Kind.CURVE,
)
@rule(
    *("abs", "floor", "ceil", "round", "is_finite", "population_count", "imag", "conj"),
    kind=Kind.FUNCTION,
)
def unary(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """One argument."""
    (value,) = ins
    if isinstance(value, Joined):
        return value.map(value.axis, lambda part: _of_weight(eqn, part))
    if isinstance(value, Weight):
        return _of_weight(eqn, value)
    if not isinstance(value, Act):
        return contract(tracer, eqn, ins)
    kind = _kind(eqn)
    act = value.settled().after(_EVENTS.get(kind, Event.FUNCTION))
    if kind is Kind.ROOT and act.statistic is not None:
        act = act.put(dataclasses.replace(act.statistic, root=True))
    return dataclasses.replace(act, soft=True) if kind is Kind.EXPONENTIAL else act


def _kind(eqn: Equation) -> Kind:
    """What one argument goes through; a whole power is a root only where it divides."""
    power = eqn.params.get("y", 0) if eqn.name == "integer_pow" else 0
    if power > 0:
        return Kind.SQUARE if power == 2 else Kind.FUNCTION
    return eqn.kind


def _of_weight(eqn: Equation, weight: Weight) -> Weight:
    kind, curve = _kind(eqn), weight.curve
    if kind is Kind.LINEAR:
        return weight
    if kind in (Kind.EXPONENTIAL, Kind.CURVE):
        curve = curve or eqn.name
    root = kind is Kind.ROOT
    return dataclasses.replace(weight.bent(), function=eqn.name, root=root, curve=curve)


@rule("add", "add_any", kind=Kind.ADDITIVE, fold=elementwise(np.add))
@rule("sub", kind=Kind.ADDITIVE, inverse=True, fold=elementwise(np.subtract))
@rule("mul", kind=Kind.MULTIPLICATIVE, fold=elementwise(np.multiply))
@rule("div", kind=Kind.MULTIPLICATIVE, inverse=True)
@rule("max", kind=Kind.MAXIMUM, fold=elementwise(np.maximum))
@rule("min", kind=Kind.MINIMUM, fold=elementwise(np.minimum))
@rule("pow", kind=Kind.ROOT)
@rule("rem", kind=Kind.FUNCTION, fold=elementwise(np.fmod))
@rule("eq", kind=Kind.FUNCTION, fold=elementwise(np.equal))
@rule("ne", kind=Kind.FUNCTION, fold=elementwise(np.not_equal))
@rule("lt", kind=Kind.FUNCTION, fold=elementwise(np.less))
@rule("le", kind=Kind.FUNCTION, fold=elementwise(np.less_equal))
@rule("gt", kind=Kind.FUNCTION, fold=elementwise(np.greater))
@rule("ge", kind=Kind.FUNCTION, fold=elementwise(np.greater_equal))
@rule("and", kind=Kind.FUNCTION, fold=elementwise(np.logical_and))
@rule("or", kind=Kind.FUNCTION, fold=elementwise(np.logical_or))
@rule("xor", "atan2", "nextafter", kind=Kind.FUNCTION)
def binary(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Two arguments."""
    first, second = (fitted(value, eqn.shape) for value in ins)
    if isinstance(first, Act) and isinstance(second, Act):
        return gates.combine(tracer.graph, eqn, first, second)
    if isinstance(first, Act) and isinstance(second, Const):
        return _with_const(eqn, first, second, const_first=False)
    if isinstance(second, Act) and isinstance(first, Const):
        return _with_const(eqn, second, first, const_first=True)
    if isinstance(first, Act) and isinstance(second, (Weight, Joined)):
        return _with_parameter(tracer, eqn, first, second, weight_first=False)
    if isinstance(second, Act) and isinstance(first, (Weight, Joined)):
        return _with_parameter(tracer, eqn, second, first, weight_first=True)
    return _before_data(eqn, first, second)


# --- data and a constant ----------------------------------------------------------------------


def _with_const(eqn: Equation, act: Act, const: Const, const_first: bool) -> Act:
    if eqn.kind is Kind.MULTIPLICATIVE:
        act = norms.stored(act.settled(), const)
    act = act.settled()
    inverted = eqn.kind is Kind.MULTIPLICATIVE and eqn.rule.inverse and const_first
    if act.statistic is not None and (eqn.kind is Kind.ROOT or inverted):
        return _reciprocal(act)
    if eqn.kind is Kind.ADDITIVE:
        return act.after(Event.SUM_CONSTANT)
    if eqn.kind is Kind.MULTIPLICATIVE:
        return act.after(Event.TIMES_CONSTANT)
    limit = eqn.kind in (Kind.MAXIMUM, Kind.MINIMUM)
    return act.after(Event.LIMIT if limit else Event.FUNCTION)


def _reciprocal(act: Act) -> Act:
    """What divides or is a root: of a statistic, that with which a norm multiplies."""
    if act.statistic is not None:
        return act.put(dataclasses.replace(act.statistic, root=True))
    return act.after(Event.ROOT)


# --- data and a parameter ---------------------------------------------------------------------


def _with_parameter(
    tracer: Interpreter, eqn: Equation, act: Act, weight: Weight | Joined, weight_first: bool
) -> Result:
    graph = tracer.graph
    if isinstance(weight, Joined):
        if eqn.kind in (Kind.ADDITIVE, Kind.MULTIPLICATIVE):
            return _with_joined(tracer, eqn, act, weight)
        return contract(tracer, eqn, [act, weight])
    use = graph.shared(weight.view)
    if use is not None and graph.nodes[use.node].kind == "pos_enc":
        # What is repeated beside the token does not tell what the token's axes mean.
        told = weight.shape == act.shape and not any(p.kind == SAME for x in act.labels for p in x)
        token = tracer.data(weight, act.labels if told else None)
        if isinstance(token, Act):
            pair = (token, act) if weight_first else (act, token)
            return gates.combine(graph, eqn, *pair)
    if _is_adapted(tracer, act, weight):
        src = sources(graph, act)
        # What is made of the kernel itself, as a spectral norm is, was no use of it.
        own = graph.release(weight.view.leaf, src)
        graph.refuse_behind(src, _OF_A_KERNEL if own else _ADAPTER)
        return weight
    act = act.settled()
    if eqn.kind is Kind.ADDITIVE:
        # A statistic that is subtracted from a parameter is the norm's folded offset.
        offset = eqn.rule.inverse and not (weight_first and act.statistic is not None)
        return norms.shift(graph, act, weight, negative=offset)
    if eqn.kind is Kind.MULTIPLICATIVE and eqn.rule.inverse and weight_first:
        return norms.scale(graph, _reciprocal(act), weight)
    if eqn.kind is Kind.MULTIPLICATIVE:
        if act.taps is not None and weight.view.fixed and not eqn.rule.inverse:
            tapped = convolutions.tap(graph, act, weight)
            if tapped is not None:
                return tapped
        return norms.scale(graph, act, weight)
    return contract(tracer, eqn, [act, weight])


def _is_adapted(tracer: Interpreter, act: Act, weight: Weight) -> bool:
    """Whether data is made of parameters alone and changes a whole kernel."""
    shape = tracer.graph.tree.shapes[weight.view.leaf]
    whole = weight.view.coverage == math.prod(shape) == math.prod(weight.shape)
    return not act.from_input and len(shape) > 1 and whole and weight.shape == act.shape


def _with_joined(tracer: Interpreter, eqn: Equation, act: Act, joined: Joined) -> Act:
    """A concatenated bias or scale: one node for each part."""
    nodes: frozenset[int] = frozenset()
    base = act.on(sources(tracer.graph, act))
    for part in joined.parts:
        if eqn.kind is Kind.ADDITIVE:
            result = norms.shift(tracer.graph, base, part)
        else:
            result = norms.scale(tracer.graph, base, part)
        nodes |= sources(tracer.graph, result)
    return act.on(nodes)


# --- parameters and constants -----------------------------------------------------------------


def _before_data(eqn: Equation, first: Value, second: Value) -> Value:
    if isinstance(first, Weight) and isinstance(second, Weight):
        return weights.merge(eqn.name, eqn.kind, (first, second)).fit(eqn.shape)
    for value, other in ((first, second), (second, first)):
        if isinstance(value, Weight) and isinstance(other, Const):
            if other.zero and eqn.kind is Kind.MULTIPLICATIVE and not eqn.rule.inverse:
                return Const(eqn.shape, zero=True)
            return _beside_const(eqn, value, other)
        if isinstance(value, Joined) and isinstance(other, Const):
            return value.map(value.axis, functools.partial(_unfitted, const=other))
    return refused(eqn.shape, (first, second), f"joined parameters meet by {eqn.name}")


def _unfitted(weight: Weight, const: Const) -> Weight:
    return dataclasses.replace(weight, rooted=weight.rooted or const.root)


def _beside_const(eqn: Equation, weight: Weight, const: Const) -> Weight:
    weight = _unfitted(weight.fit(eqn.shape), const)
    return weight if eqn.kind in (Kind.ADDITIVE, Kind.MULTIPLICATIVE) else weight.bent()
