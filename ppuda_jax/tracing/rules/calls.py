"""Rules for primitives that carry jaxprs: calls, branches and loops.

Calls are entered and all branches walked. A loop over stacked parameters is unrolled; other
loops are walked once, because each turn uses the same parameters in the same roles.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from ppuda_jax.tracing.interpreter import Interpreter, opened
from ppuda_jax.tracing.labels import unknown_labels
from ppuda_jax.tracing.table import Equation, Kind, Result, RuleFunction, rule, shape_of
from ppuda_jax.tracing.values import (
    Act,
    Cell,
    Const,
    Joined,
    Refused,
    Value,
    Weight,
    refused,
    sourceless,
)

_MAX_TURNS = 4096
"""Longest loop over stacked parameters that is unrolled: each turn is walked by itself."""


def _call(key: str) -> RuleFunction:
    def enter(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
        jaxpr, consts = opened(eqn.params[key])
        return tracer.run(jaxpr, consts, ins[len(ins) - len(jaxpr.invars) :], eqn.live)

    return enter


rule(
    *("jit", "pjit", "remat", "remat2", "checkpoint", "shard_map", "custom_vmap"),
    kind=Kind.ENTERED,
)(_call("jaxpr"))
rule(
    *("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "xla_call"),
    *("custom_lin_call", "composite"),
    kind=Kind.ENTERED,
)(_call("call_jaxpr"))
rule("custom_vjp_call_jaxpr", kind=Kind.ENTERED)(_call("fun_jaxpr"))
rule("custom_vmap_call", kind=Kind.ENTERED)(_call("call"))


def enter_unknown(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> list[Value] | None:
    """Enters an unknown primitive that carries one jaxpr with matching arguments."""
    inner = [p for p in eqn.params.values() if isinstance(p, (ClosedJaxpr, Jaxpr))]
    if len(inner) != 1:
        return None
    jaxpr, consts = opened(inner[0])
    want = [shape_of(v.aval) for v in jaxpr.invars]
    results = [shape_of(v.aval) for v in jaxpr.outvars]
    if want != [value.shape for value in ins] or results != list(eqn.shapes):
        return None
    return tracer.run(jaxpr, consts, ins)


@rule("cond", kind=Kind.ENTERED)
def cond(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> list[Value]:
    """Branches: all of them, or the one that is taken if that is known."""
    branches, index = eqn.params["branches"], ins[0]
    if isinstance(index, Const) and index.value is not None:
        branches = [branches[int(np.clip(index.value, 0, len(branches) - 1))]]
    cells = [value for value in ins if isinstance(value, Cell)]
    before = [cell.value for cell in cells]
    written: list[list[Value]] = []
    outs: list[Value] | None = None
    for branch in branches:
        for cell, value in zip(cells, before, strict=True):
            cell.value = value
        jaxpr, consts = opened(branch)
        results = tracer.run(jaxpr, consts, ins[1:], eqn.live)
        outs = results if outs is None else list(map(tracer.join, outs, results))
        written.append([cell.value for cell in cells])
    for cell, *values in zip(cells, *written, strict=True):
        cell.value = _either(tracer, values)
    return outs or []


def _either(tracer: Interpreter, values: Sequence[Any]) -> Any:
    value = values[0]
    for other in values[1:]:
        value = tracer.join(value, other)
    return value


@rule("while", kind=Kind.ENTERED)
def while_loop(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> list[Value]:
    """A loop that runs until a condition holds: its body is walked once."""
    params = eqn.params
    skip, count = params["cond_nconsts"], params["body_nconsts"]
    jaxpr, consts = opened(params["body_jaxpr"])
    carry = list(map(_carried, ins[skip + count :]))
    before = _open_cells(ins)
    outs = tracer.run(jaxpr, consts, [*ins[skip : skip + count], *carry])
    _close_cells(tracer, before)
    return list(map(tracer.join, carry, outs))


def _open_cells(values: Sequence[Value]) -> list[tuple[Cell, Any]]:
    """Mutable arrays that a loop may write, with what they hold before."""
    cells = [value for value in values if isinstance(value, Cell)]
    for cell in cells:
        cell.value = _carried(cell.value)
    return [(cell, cell.value) for cell in cells]


def _close_cells(tracer: Interpreter, before: Sequence[tuple[Cell, Any]]) -> None:
    for cell, value in before:
        cell.value = tracer.join(value, cell.value)


def _carried(value: Value) -> Value:
    """A constant that a loop overwrites: data without a source, or an unknown counter."""
    if not isinstance(value, Const):
        return value
    known = value.value
    if (known is None and value.shape) or (known is not None and known.dtype.kind == "f"):
        return sourceless(unknown_labels(value.shape))
    return dataclasses.replace(value, value=None) if not value.shape else value


@rule("scan", kind=Kind.ENTERED)
def scan(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> list[Value]:
    """A loop with a known number of turns."""
    params = eqn.params
    length, num_consts, num_carry = params["length"], params["num_consts"], params["num_carry"]
    consts = ins[:num_consts]
    carry = ins[num_consts : num_consts + num_carry]
    xs = ins[num_consts + num_carry :]
    if not length:
        return [*carry, *map(Const, eqn.shapes[num_carry:])]
    stacked = any(isinstance(x, (Weight, Joined)) for x in xs)
    # fori_loop hands the stack over whole and indexes it with a counter in the carry.
    counted = any(isinstance(c, Const) and c.value is not None and not c.shape for c in carry)
    indexed = counted and any(
        isinstance(c, (Weight, Joined)) and c.shape[:1] == (length,) for c in consts
    )
    if not stacked and not indexed:
        return _walk_once(tracer, eqn, consts, carry, xs)
    if length > _MAX_TURNS:
        reason = f"stacked over {length} turns of a loop: at most {_MAX_TURNS} are unrolled"
        consts = [_refuse_stack(c, reason) if indexed else c for c in consts]
        return _walk_once(tracer, eqn, consts, carry, [_refuse_stack(x, reason) for x in xs])
    return _unroll(tracer, eqn, consts, carry, xs)


def _refuse_stack(value: Value, reason: str) -> Value:
    stack = isinstance(value, (Weight, Joined))
    return refused(value.shape, (value,), reason) if stack else value


def _walk_once(
    tracer: Interpreter, eqn: Equation, consts: list[Value], carry: list[Value], xs: list[Value]
) -> list[Value]:
    length = eqn.params["length"]
    jaxpr, closed = opened(eqn.params["jaxpr"])
    carry = list(map(_carried, carry))
    before = _open_cells([*consts, *carry])
    outs = tracer.run(jaxpr, closed, [*consts, *carry, *(_turn(x, 0) for x in xs)])
    _close_cells(tracer, before)
    last = list(map(tracer.join, carry, outs[: len(carry)]))
    stacks = zip(outs[len(carry) :], eqn.shapes[len(carry) :], strict=True)
    return last + [_stacked(value, length, shape) for value, shape in stacks]


def _unroll(
    tracer: Interpreter, eqn: Equation, consts: list[Value], carry: list[Value], xs: list[Value]
) -> list[Value]:
    length, num_carry = eqn.params["length"], len(carry)
    jaxpr, closed = opened(eqn.params["jaxpr"])
    carry = [_carried(c) if c.shape else c for c in carry]
    used = [True] * num_carry + list(eqn.live[num_carry:])
    stacks: list[list[Value]] = [[] for _ in eqn.outs[num_carry:]]
    turns = range(length)
    for turn in reversed(turns) if eqn.params["reverse"] else turns:
        outs = tracer.run(jaxpr, closed, [*consts, *carry, *(_turn(x, turn) for x in xs)], used)
        carry = outs[:num_carry]
        for stack, value in zip(stacks, outs[num_carry:], strict=True):
            stack.append(value)
    return carry + [
        _stacked(_either(tracer, stack), length, shape)
        for stack, shape in zip(stacks, eqn.shapes[num_carry:], strict=True)
    ]


def _turn(value: Value, turn: int) -> Value:
    """What a loop sees of a stacked value in one turn."""
    if isinstance(value, Weight):
        return value.row(0, turn)
    if isinstance(value, Joined):
        if value.axis != 0:
            return value.map(value.axis - 1, lambda part: part.row(0, turn))
        part = value.select(turn, 1)
        return part.row(0, 0) if isinstance(part, Weight) else part
    if isinstance(value, Act):
        return value.moved(value.labels[1:])
    if isinstance(value, Const):
        known = value.value[turn] if value.value is not None else None
        return dataclasses.replace(value, shape=value.shape[1:], value=known)
    if isinstance(value, Refused):
        return dataclasses.replace(value, shape=value.shape[1:])
    return value


def _stacked(value: Value, length: int, shape: tuple[int, ...]) -> Value:
    """The results of all turns, from what one turn gives."""
    if isinstance(value, Act):
        return value.moved((unknown_labels((length,))[0], *value.labels))
    if isinstance(value, Weight):
        return value.map(lambda v: v.broadcast(shape, range(1, len(shape))))
    if isinstance(value, (Joined, Refused)):
        return refused(shape, (value,), "stacked by a loop before its use")
    return Const(shape, stored=isinstance(value, Const) and value.stored)
