"""Rules for elementwise primitives and for those outside the vocabulary."""

import dataclasses

from ppuda_jax.tracing.interpreter import Interpreter, enter_unknown
from ppuda_jax.tracing.patterns import norms
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, settle, unknown_labels

_ROOTS = ("rsqrt", "sqrt", "pow", "integer_pow", "cbrt")
_IDENTITY = (
    "convert_element_type",
    "copy",
    "stop_gradient",
    "reduce_precision",
    "copy_p",
    "name",
    "layout_constraint",
    "reshard",
    "pvary",
    "sharding_constraint",
    "mesh_cast",
)
LINEAR_UNARY = (*_IDENTITY, "neg", "real")
PASSED_ON = ("optimization_barrier", "pbroadcast", "tie")


def output_shape(eqn) -> tuple[int, ...]:
    """Shape of the first result of an equation."""
    return tuple(eqn.outvars[0].aval.shape)


def default(tracer: Interpreter, eqn, ins: list[Value]) -> Value | list[Value]:
    """Contracts a primitive outside the vocabulary: its inputs lead to its outputs."""
    entered = enter_unknown(tracer, eqn, ins)
    if entered is not None:
        return entered
    shape = output_shape(eqn) if hasattr(eqn.outvars[0].aval, "shape") else ()
    acts = [value for value in ins if isinstance(value, Act)]
    weights = [value for value in ins if isinstance(value, (Weight, Joined))]
    if not acts:
        merged = merge_weights(tracer, eqn.primitive.name, weights)
        if merged.shape != shape:
            merged = merged.map(lambda v: v.opaque(shape))
        return dataclasses.replace(merged, function=eqn.primitive.name)
    for weight in weights:
        for part in weight.parts if isinstance(weight, Joined) else (weight,):
            tracer.graph.refuse(
                part.view.leaf,
                f"used by the operation {eqn.primitive.name}, for which there is no decoder",
            )
    act = acts[0]
    for other in acts[1:]:
        act = norms.combine(tracer.graph, eqn.primitive.name, act, other)
    act = settle(act)
    if act.shape != shape:
        return _others(eqn, act)
    return act.plain(act.labels)


def _others(eqn, act: Act) -> list[Act]:
    return [
        act.plain(act.labels if tuple(v.aval.shape) == act.shape else unknown_labels(v.aval.shape))
        for v in eqn.outvars
    ]


def merge_weights(tracer: Interpreter, name: str, values: list[Value]) -> Weight:
    """Arithmetic among parameters: the leaf that shows most elements is the main one."""
    flat = [flatten_joined(value) for value in values]
    main = max(flat, key=lambda w: (w.view.coverage, not w.function))
    others = list(main.others)
    for weight in flat:
        if weight is main:
            continue
        if weight.view.leaf != main.view.leaf:
            how = weight.function if weight.function in _ROOTS else name
            others.append((weight.view, how))
        others += [item for item in weight.others if item[0].leaf != main.view.leaf]
    return dataclasses.replace(main, others=tuple(others), statistic=any(w.statistic for w in flat))


def flatten_joined(value: Value) -> Weight:
    """A concatenation as one value that hides its layout."""
    if isinstance(value, Weight):
        return value
    others = tuple((part.view, "concatenate") for part in value.parts[1:])
    head = value.parts[0]
    return dataclasses.replace(head.map(lambda v: v.opaque(value.shape)), others=others)


def unary(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """One argument, elementwise."""
    name, value = eqn.primitive.name, ins[0]
    if isinstance(value, Joined):
        return Joined(value.axis, tuple(unary(tracer, eqn, [part]) for part in value.parts))
    if isinstance(value, Weight):
        if name in LINEAR_UNARY:
            return value
        return dataclasses.replace(value, function=name)
    value = settle(value) if name not in _IDENTITY else value
    if name in LINEAR_UNARY:
        return value
    stat = value.stat
    if stat is not None and name in _ROOTS:
        stat = dataclasses.replace(stat, root=True)
    soft = value.soft or name in ("exp", "exp2")
    norm = value.norm if name == "square" else None
    return dataclasses.replace(value, stat=stat, soft=soft, norm=norm, fresh=None, taps=None)


def passed_on(tracer: Interpreter, eqn, ins: list[Value]) -> list[Value]:
    """Results that are the arguments one by one (barriers)."""
    return ins[-len(eqn.outvars) :]


def binary(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """Two arguments, elementwise."""
    name = eqn.primitive.name
    first, second = ins
    if isinstance(first, Act) and isinstance(second, Act):
        return norms.combine(tracer.graph, name, first, second)
    if isinstance(first, Act) or isinstance(second, Act):
        act, other = (first, second) if isinstance(first, Act) else (second, first)
        if isinstance(other, Const):
            return _with_const(name, act, other, other is first)
        return _with_weight(tracer, eqn, act, other, other is first)
    if isinstance(first, Const) or isinstance(second, Const):
        weight, other = (first, second) if isinstance(second, Const) else (second, first)
        return _weight_const(eqn, weight, other)
    return merge_weights(tracer, name, [first, second]).fit(output_shape(eqn))


def _with_const(name: str, act: Act, const: Const, const_first: bool) -> Act:
    act = norms.const_scale(act, const)
    if act.stat is not None and (name == "pow" or (name == "div" and const_first)):
        return dataclasses.replace(act, stat=dataclasses.replace(act.stat, root=True))
    if name in ("add", "sub", "mul", "div", "add_any"):
        return dataclasses.replace(act, fresh=None)
    if name in ("max", "min") and act.stat is not None:
        return act
    return dataclasses.replace(act, norm=None, fresh=None)


def _weight_const(eqn, weight: Value, const: Const) -> Value:
    if isinstance(weight, Joined):
        return Joined(weight.axis, tuple(_weight_const(eqn, p, const) for p in weight.parts))
    weight = weight.fit(output_shape(eqn))
    return dataclasses.replace(weight, statistic=weight.statistic or const.statistic)


def _with_weight(tracer: Interpreter, eqn, act: Act, weight: Value, weight_first: bool) -> Value:
    name, graph = eqn.primitive.name, tracer.graph
    if isinstance(weight, Weight):
        use = graph.shared(weight.view)
        if use is not None and graph.nodes[use.node].kind == "pos_enc":
            same = tracer.data(weight, act.labels if weight.shape == act.shape else None)
            pair = (same, act) if weight_first else (act, same)
            return norms.combine(graph, name, *pair)
    if not act.from_input and isinstance(weight, Weight):
        leaf_shape = graph.tree.shapes[weight.view.leaf]
        if len(leaf_shape) > 1 and weight.shape == leaf_shape == act.shape:
            graph.refuse_behind(act.src, "an adapter that is added to another parameter")
            return weight
    if isinstance(weight, Joined):
        if name in norms.ADDITIVE + norms.MULTIPLICATIVE:
            return _with_joined(tracer, eqn, act, weight)
        return default(tracer, eqn, [act, weight])
    act = settle(act) if act.taps is None or act.taps.how else act
    if name in norms.ADDITIVE:
        if name == "sub" and weight_first and act.stat is not None:
            return norms.shift(graph, act, weight, "add")
        return norms.shift(graph, act, weight, name)
    if name == "mul" or (name == "div" and not weight_first):
        if name == "mul" and act.taps is not None and weight.view.fixed:
            tapped = norms.tap(graph, act, weight)
            if tapped is not None:
                return tapped
        return norms.scale(graph, dataclasses.replace(act, taps=None), weight)
    return default(tracer, eqn, [act, weight])


def _with_joined(tracer: Interpreter, eqn, act: Act, joined: Joined) -> Act:
    """A concatenated bias or scale: one node for each part."""
    nodes: frozenset = frozenset()
    meet = norms.shift if eqn.primitive.name in norms.ADDITIVE else norms.scale
    base = Act(norms.sources(tracer.graph, act), act.labels)
    for part in joined.parts:
        result = meet(tracer.graph, base, part, *(("add",) if meet is norms.shift else ()))
        nodes |= norms.sources(tracer.graph, result)
    return Act(nodes, act.labels, from_input=act.from_input)


def select(tracer: Interpreter, eqn, ins: list[Value]) -> Value:
    """select_n, clamp and the like: masks, activation functions, learnt slopes."""
    graph = tracer.graph
    cases = ins[1:] if eqn.primitive.name == "select_n" else ins
    acts = [value for value in cases if isinstance(value, Act)]
    weights = [value for value in cases if isinstance(value, (Weight, Joined))]
    if not acts and weights:
        if isinstance(ins[0], Act):
            acts = [tracer.data(weight) for weight in weights]
        else:
            merged = merge_weights(tracer, "select", weights)
            return merged if merged.shape == output_shape(eqn) else default(tracer, eqn, ins)
    elif weights:
        acts += [tracer.data(weight) for weight in weights]
    if not acts:
        return default(tracer, eqn, ins)
    if len(acts) == 2:
        act = _slope(graph, *acts) or _slope(graph, acts[1], acts[0])
        if act is not None:
            return act
    act = acts[0]
    for other in acts[1:]:
        act = norms.combine(graph, "select", act, other)
    act = settle(act)
    return act if len(acts) == 1 else dataclasses.replace(act, norm=None, fresh=None)


def _slope(graph, plain: Act, sloped: Act) -> Act | None:
    """A parametric ReLU: one case is the other times a parameter."""
    if len(sloped.src) != 1 or sloped.src == plain.src:
        return None
    (index,) = sloped.src
    node = graph.nodes[index]
    used = [use for use in graph.uses if use.node == index]
    if node.kind != "ln" or len(used) != 1 or node.preds != plain.src:
        return None
    graph.unbind(index, "slope of an activation function, for which there is no decoder")
    return Act(plain.src, plain.labels, from_input=plain.from_input)
