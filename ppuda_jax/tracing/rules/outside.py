"""Primitives outside the vocabulary, and random numbers."""

import numpy as np

from ppuda_jax.tracing.interpreter import Interpreter, fitted
from ppuda_jax.tracing.labels import unknown_labels
from ppuda_jax.tracing.patterns import gates
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.rules.calls import enter_unknown
from ppuda_jax.tracing.table import OUTSIDE, Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, refused


@rule(OUTSIDE, kind=Kind.OUTSIDE)
def contract(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Contracts a primitive: its inputs lead to all its outputs."""
    if not eqn.outs:
        return []  # callbacks and prints
    entered = enter_unknown(tracer, eqn, ins)
    if entered is not None:
        return entered
    acts = [value for value in ins if isinstance(value, Act)]
    weights = [value for value in ins if isinstance(value, (Weight, Joined))]
    reason = f"used by the operation {eqn.name}, for which there is no decoder"
    if not acts:
        return [refused(shape, weights, reason) for shape in eqn.shapes]
    for weight in weights:
        tracer.refuse(refused(weight.shape, (weight,), reason))
    learnt = [act for act in acts if _is_learnt(tracer, act)]
    for act in learnt:
        tracer.graph.refuse_behind(
            sources(tracer.graph, act), f"made of several parameters, {reason}"
        )
    acts = [act for act in acts if act not in learnt]
    if not acts:
        return [Const(shape) for shape in eqn.shapes]
    act = acts[0]
    for other in acts[1:]:
        first, second = fitted(act, other.shape), fitted(other, act.shape)
        if isinstance(first, Act) and isinstance(second, Act):
            act = gates.meet(tracer.graph, eqn, first, second)
    act = act.settled()
    return [
        act.moved(act.labels if shape == act.shape else unknown_labels(shape))
        for shape in eqn.shapes
    ]


def _is_learnt(tracer: Interpreter, act: Act) -> bool:
    """Whether data is made of parameters alone, one of which looked like a token.

    Tokens go through attention and norms, long filters through transforms: what is transformed was
    never a token.
    """
    if not act.is_made:
        return False
    behind = tracer.graph.behind(sources(tracer.graph, act))
    nodes = enumerate(tracer.graph.nodes)
    return any(node.kind == "pos_enc" and behind >> number & 1 for number, node in nodes)


def _iota(eqn: Equation) -> np.ndarray:
    axis, shape = eqn.params["dimension"], eqn.shape
    view = [-1 if i == axis else 1 for i in range(len(shape))]
    return np.broadcast_to(np.arange(shape[axis]).reshape(view), shape)


rule("iota", kind=Kind.CONSTANT, fold=_iota)(contract)


@rule(
    *("random_seed", "random_wrap", "random_unwrap", "random_split", "random_fold_in"),
    *("random_bits", "random_gamma", "random_clone", "threefry2x32", "rng_bit_generator"),
    *("rng_uniform",),
    kind=Kind.RANDOM,
)
def random(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Keys and what is drawn with them carry no data, wherever the key came from."""
    return [Const(shape) for shape in eqn.shapes]
