"""Rules for choices between values: masks, limits, activation functions, learnt slopes."""

import numpy as np

from ppuda_jax.tracing import weights
from ppuda_jax.tracing.interpreter import Interpreter, fitted
from ppuda_jax.tracing.patterns import gates
from ppuda_jax.tracing.rules.outside import contract
from ppuda_jax.tracing.table import Equation, Kind, Result, rule
from ppuda_jax.tracing.values import Act, Event, Joined, Value, Weight, refused


@rule("select_n", kind=Kind.CHOICE, fold=lambda eqn, which, *cases: np.choose(which, cases))
def select(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """One of several values, element by element."""
    return _choose(tracer, eqn, ins[0], ins[1:])


@rule("clamp", kind=Kind.CHOICE)
def clamp(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A value between two limits."""
    return _choose(tracer, eqn, None, ins)


def _choose(tracer: Interpreter, eqn: Equation, which: Value | None, cases: list[Value]) -> Result:
    cases = [fitted(value, eqn.shape) for value in cases]
    parameters = [value for value in cases if isinstance(value, (Weight, Joined))]
    by_data = isinstance(which, Act) and which.shape == eqn.shape
    if parameters and not by_data and not any(isinstance(value, Act) for value in cases):
        return _among_parameters(tracer, eqn, which, parameters)
    seen = [tracer.data(value) for value in cases]
    acts = [value for value in seen if isinstance(value, Act)]
    if not acts:
        return contract(tracer, eqn, [value for value in (which, *cases) if value is not None])
    if len(acts) == 2:
        for plain, sloped in (acts, acts[::-1]):
            found = gates.slope(tracer.graph, plain, sloped)
            if found is not None:
                return found
    act = acts[0]
    for other in acts[1:]:
        act = gates.combine(tracer.graph, eqn, act, other)
    act = act.settled()
    return act if len(acts) == 1 else act.after(Event.FUNCTION)


def _among_parameters(
    tracer: Interpreter, eqn: Equation, which: Value | None, parameters: list[Weight | Joined]
) -> Result:
    """Parameters under a fixed mask stay what they are; data cannot choose between them."""
    if isinstance(which, Act):
        return refused(eqn.shape, parameters, "one of several values, chosen by data")
    alone = [value for value in parameters if isinstance(value, Weight)]
    if len(alone) == len(parameters):
        merged = weights.merge(eqn.name, eqn.kind, alone)
        merged = merged.bent() if which is None else merged
        if merged.shape == eqn.shape:
            return merged
    return refused(eqn.shape, parameters, f"used by the operation {eqn.name} before it met data")
