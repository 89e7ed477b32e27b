"""Walks a jaxpr, through nested ones, and hands every equation to the rule of its primitive.

Nothing is computed: values are descriptions (`tracing.values`). Calls are entered, loops over
stacked parameters are unrolled, other loops are walked once, and equations whose results are
not used are skipped.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.constants import constant, fold
from ppuda_jax.tracing.patterns import norms, tokens
from ppuda_jax.tracing.values import Act, Const, Joined, Value, Weight, unknown_labels

_MAX_UNROLL = 512

Rule = Callable[["Interpreter", Any, list[Value]], Value | list[Value]]


@dataclasses.dataclass
class Interpreter:
    """State of one trace.

    Attributes:
      graph: the nodes found so far.
      rules: rule by primitive name.
      default: rule for all other primitives.
    """

    graph: GraphBuilder
    rules: dict[str, Rule]
    default: Rule

    def run(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Value],
        args: Sequence[Value],
        used: Sequence[bool] | None = None,
    ) -> list[Value]:
        """Interprets a jaxpr.

        Args:
          jaxpr: the jaxpr.
          consts: values of its constvars.
          args: values of its invars.
          used: which results are needed; all if None.

        Returns:
          One value per result.
        """
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom) -> Value:
            if isinstance(atom, Literal):
                return constant(atom.val)
            return env.get(atom) or Const(tuple(atom.aval.shape))

        for eqn, live in live_equations(jaxpr, used):
            ins = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            entered = CALLS.get(name)
            if entered is not None:
                out = entered(self, eqn, ins, live)
            elif all(type(value) is Const for value in ins):
                out = fold(eqn, ins)
            else:
                out = self.rules.get(name, self.default)(self, eqn, ins)
            if not isinstance(out, list):
                out = [out] * len(eqn.outvars)
            env.update(zip(eqn.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def data(self, value: Value, labels=None) -> Value:
        """Turns parameters into data (tokens); leaves other values alone."""
        if isinstance(value, Joined):
            parts = [tokens.token(self.graph, part, labels) for part in value.parts]
            src = frozenset().union(*(part.src for part in parts))
            return Act(src, labels or unknown_labels(value.shape), from_input=False)
        if isinstance(value, Weight):
            return tokens.token(self.graph, value, labels)
        return value

    def join(self, first: Value, second: Value) -> Value:
        """A value that may be either of two (branches of a conditional, turns of a loop)."""
        if isinstance(first, Const):
            return Const(first.shape) if isinstance(second, Const) else second
        if isinstance(second, Const) or first == second:
            return first
        first, second = self.data(first), self.data(second)
        if not isinstance(first, Act) or not isinstance(second, Act):
            return first
        src = norms.sources(self.graph, first) | norms.sources(self.graph, second)
        return Act(
            src,
            first.labels,
            product=first.product or second.product,
            soft=first.soft or second.soft,
            from_input=first.from_input or second.from_input,
        )


def live_equations(jaxpr: Jaxpr, used: Sequence[bool] | None) -> list[tuple[Any, list[bool]]]:
    """The equations whose results are needed, with which of their results are."""
    needed = set()
    for i, atom in enumerate(jaxpr.outvars):
        if not isinstance(atom, Literal) and (used is None or used[i]):
            needed.add(atom)
    kept = []
    for eqn in reversed(jaxpr.eqns):
        live = [var in needed for var in eqn.outvars]
        if any(live):
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
            kept.append((eqn, live))
    return kept[::-1]


# --- calls, branches and loops ----------------------------------------------------------------


def _jaxpr_of(param: Any) -> tuple[Jaxpr, list[Const]]:
    if isinstance(param, ClosedJaxpr):
        return param.jaxpr, [constant(c) for c in param.consts]
    return param, [Const(tuple(v.aval.shape)) for v in param.constvars]


def _call(key: str):
    def enter(tracer: Interpreter, eqn, ins, live):
        jaxpr, consts = _jaxpr_of(eqn.params[key])
        return tracer.run(jaxpr, consts, ins[len(ins) - len(jaxpr.invars) :], live)

    return enter


def enter_unknown(tracer: Interpreter, eqn, ins) -> list[Value] | None:
    """Enters an unknown primitive that carries one jaxpr with matching arguments."""
    inner = [p for p in eqn.params.values() if isinstance(p, (ClosedJaxpr, Jaxpr))]
    if len(inner) != 1:
        return None
    jaxpr, consts = _jaxpr_of(inner[0])
    want = [getattr(v.aval, "shape", None) for v in jaxpr.invars]
    have = [getattr(v.aval, "shape", None) for v in eqn.invars]
    results = [getattr(v.aval, "shape", None) for v in jaxpr.outvars]
    if want != have or results != [getattr(v.aval, "shape", None) for v in eqn.outvars]:
        return None
    return tracer.run(jaxpr, consts, ins)


def _cond(tracer: Interpreter, eqn, ins, live):
    branches, index = eqn.params["branches"], ins[0]
    if isinstance(index, Const) and index.value is not None:
        branches = [branches[int(np.clip(index.value, 0, len(branches) - 1))]]
    outs = None
    for branch in branches:
        jaxpr, consts = _jaxpr_of(branch)
        results = tracer.run(jaxpr, consts, ins[1:], live)
        outs = results if outs is None else list(map(tracer.join, outs, results))
    return outs


def _while(tracer: Interpreter, eqn, ins, live):
    params = eqn.params
    skip, count = params["cond_nconsts"], params["body_nconsts"]
    jaxpr, consts = _jaxpr_of(params["body_jaxpr"])
    carry = [_promote(value) for value in ins[skip + count :]]
    outs = tracer.run(jaxpr, consts, [*ins[skip : skip + count], *carry])
    return list(map(tracer.join, carry, outs))


def _promote(value: Value) -> Value:
    """A constant that a loop overwrites: data without a source."""
    if isinstance(value, Const) and value.shape and value.value is None:
        return Act(frozenset(), unknown_labels(value.shape), from_input=False)
    if isinstance(value, Const) and value.value is not None and value.value.dtype.kind == "f":
        return Act(frozenset(), unknown_labels(value.shape), from_input=False)
    if isinstance(value, Const) and not value.shape:
        return dataclasses.replace(value, value=None)
    return value


def _scan(tracer: Interpreter, eqn, ins, live):
    params = eqn.params
    length, num_consts, num_carry = params["length"], params["num_consts"], params["num_carry"]
    jaxpr, closed = _jaxpr_of(params["jaxpr"])
    consts = ins[:num_consts]
    carry = ins[num_consts : num_consts + num_carry]
    xs = ins[num_consts + num_carry :]
    stacked = any(isinstance(x, (Weight, Joined)) for x in xs)
    counted = any(isinstance(c, Const) and c.value is not None and not c.shape for c in carry)
    indexed = counted and any(
        isinstance(c, (Weight, Joined)) and c.shape[:1] == (length,) for c in consts
    )
    unroll = (stacked or indexed) and length <= _MAX_UNROLL
    if not unroll:
        carry = [_promote(c) for c in carry]
        body = [tracer.data(x) if isinstance(x, (Weight, Joined)) else x for x in xs]
        outs = tracer.run(jaxpr, closed, [*consts, *carry, *(_turn(x, 0) for x in body)])
        first = list(map(tracer.join, carry, outs[:num_carry]))
        return first + [
            _stack(y, length, var)
            for y, var in zip(outs[num_carry:], eqn.outvars[num_carry:], strict=True)
        ]
    carry = [_promote(c) if c.shape else c for c in carry]
    stacks: list[list[Value]] = [[] for _ in range(len(eqn.outvars) - num_carry)]
    turns = range(length - 1, -1, -1) if params["reverse"] else range(length)
    used = [True] * num_carry + list(live[num_carry:])
    for turn in turns:
        outs = tracer.run(jaxpr, closed, [*consts, *carry, *(_turn(x, turn) for x in xs)], used)
        carry = outs[:num_carry]
        for stack, value in zip(stacks, outs[num_carry:], strict=True):
            stack.append(value)
    results = []
    for stack, var in zip(stacks, eqn.outvars[num_carry:], strict=True):
        value = stack[0]
        for other in stack[1:]:
            value = tracer.join(value, other)
        results.append(_stack(value, length, var))
    return [*carry, *results]


def _turn(value: Value, turn: int) -> Value:
    """What a loop sees of a stacked value in one turn."""
    if isinstance(value, Weight):
        return value.map(lambda v: v.window(0, turn, 1).drop((0,)))
    if isinstance(value, Joined):
        if value.axis != 0:
            parts = tuple(
                part.map(lambda v: v.window(0, turn, 1).drop((0,))) for part in value.parts
            )
            return Joined(value.axis - 1, parts)
        part = value.select(turn, 1)
        return part.map(lambda v: v.drop((0,)))
    if isinstance(value, Act):
        return value.plain(value.labels[1:])
    known = value.value[turn] if value.value is not None else None
    return dataclasses.replace(value, shape=value.shape[1:], value=known)


def _stack(value: Value, length: int, var) -> Value:
    if isinstance(value, Act):
        return value.plain((unknown_labels((length,))[0], *value.labels))
    shape = tuple(var.aval.shape)
    if isinstance(value, Weight):
        return value.map(lambda v: v.broadcast(shape, range(1, len(shape))))
    return Const(shape, statistic=getattr(value, "statistic", False))


CALLS: dict[str, Callable] = {
    **{
        name: _call("jaxpr")
        for name in (
            "jit",
            "pjit",
            "remat",
            "remat2",
            "checkpoint",
            "shard_map",
            "run_state",
            "custom_vmap",
        )
    },
    **{
        name: _call("call_jaxpr")
        for name in (
            "closed_call",
            "core_call",
            "custom_jvp_call",
            "custom_vjp_call",
            "xla_call",
            "custom_lin_call",
            "composite",
        )
    },
    "custom_vjp_call_jaxpr": _call("fun_jaxpr"),
    "custom_vmap_call": _call("call"),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
"""Primitives that carry jaxprs."""
