"""Walks a jaxpr, through nested ones, and hands every equation to the rule of its primitive.

Nothing is computed: values are descriptions (`tracing.values`). Equations whose results are not
used are skipped, unless they write to a mutable array.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.constants import constant, fold
from ppuda_jax.tracing.contractions import CONTRACTION, Contraction, contractions
from ppuda_jax.tracing.labels import Labels, broadcast_labels, unknown_labels
from ppuda_jax.tracing.patterns import tokens
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.table import OUTSIDE, TABLE, Equation, Kind, Result, shape_of
from ppuda_jax.tracing.values import Act, Cell, Const, Joined, Refused, Value, Weight, refused


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """One trace.

    Attributes:
      graph: the nodes found so far.
    """

    graph: GraphBuilder

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

        Raises:
          ValueError: if the jaxpr uses a variable that nothing defines.
        """
        env: dict[Var, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return constant(atom.val)
            if atom not in env:
                raise ValueError(
                    f"the jaxpr must define every variable before its use, received {atom}: "
                    "trace a function that JAX itself can run."
                )
            return env[atom]

        sums = contractions(jaxpr)
        for eqn, live in live_equations(jaxpr, used):
            if eqn.outvars and eqn.outvars[0] in env:
                continue  # the sum of a product, which came with the product
            contraction = sums.get(eqn.outvars[0]) if eqn.outvars else None
            if contraction is not None:
                total = self._total(contraction, [read(atom) for atom in eqn.invars])
                env.update(dict.fromkeys(contraction.passed, total))
                continue
            rule = TABLE.get(eqn.primitive.name) or TABLE[OUTSIDE]
            avals = [var.aval for var in eqn.outvars]
            equation = Equation(eqn.primitive.name, eqn.params, avals, live, rule)
            results = self.apply(equation, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        # Results that nobody uses were not computed.
        return [
            read(atom) if isinstance(atom, Literal) or atom in env else Const(shape_of(atom.aval))
            for atom in jaxpr.outvars
        ]

    def _total(self, contraction: Contraction, ins: list[Value]) -> Value:
        """The sum of a product."""
        product, total = contraction.product.outvars[0], contraction.total
        params = {"axes": total.params["axes"], "product": product.aval}
        avals = [total.outvars[0].aval]
        return self.apply(Equation(CONTRACTION, params, avals, [True], TABLE[CONTRACTION]), ins)[0]

    def apply(self, eqn: Equation, ins: list[Value]) -> Sequence[Value]:
        """The results of an equation.

        Args:
          eqn: the equation.
          ins: its arguments.

        Returns:
          One value per result.
        """
        out = self._result(eqn, ins)
        return out if isinstance(out, list) else [out] * len(eqn.outs)

    def _result(self, eqn: Equation, ins: list[Value]) -> Result:
        """Refusals and constants meet every operation in the same way; the rest has rules."""
        if eqn.kind is Kind.ENTERED:
            return eqn.rule.apply(self, eqn, ins)
        if any(isinstance(value, Refused) for value in ins):
            if not any(isinstance(value, (Act, Cell)) for value in ins):
                reason = f"used by {eqn.name} before it met data"
                return [refused(shape, ins, reason) for shape in eqn.shapes]
            ins = [self.met(value) for value in ins]
        constants = [value for value in ins if isinstance(value, Const)]
        if len(constants) == len(ins):
            return list[Value](fold(eqn, constants))
        return eqn.rule.apply(self, eqn, ins)

    def met(self, value: Value) -> Value:
        """What data sees of a value: a refusal gives its leaves the reason and is a constant."""
        if not isinstance(value, Refused):
            return value
        self.refuse(value)
        return Const(value.shape)

    def refuse(self, value: Refused) -> None:
        """Gives the leaves of a refusal its reason."""
        for leaf in value.leaves:
            self.graph.refuse(leaf, value.reason)

    def data(self, value: Value, labels: Labels | None = None) -> Value:
        """Parameters that stand beside data as tokens; other values as they are."""
        if isinstance(value, Joined):
            parts = [self.data(part) for part in value.parts]
            found = [part for part in parts if isinstance(part, Act)]
            if len(found) < len(parts):
                return Const(value.shape)
            src = frozenset().union(*(part.src for part in found))
            return Act(src, labels or unknown_labels(value.shape), from_input=False)
        if isinstance(value, Weight):
            token = tokens.token(self.graph, value, labels)
            return self.met(token)
        return self.met(value)

    def join(self, first: Value, second: Value) -> Value:
        """A value that may be either of two (branches of a conditional, turns of a loop)."""
        if isinstance(first, Cell) or isinstance(second, Cell) or first == second:
            return first
        if isinstance(first, Const) or isinstance(second, Const):
            if isinstance(first, Const) and isinstance(second, Const):
                return Const(first.shape)
            return second if isinstance(first, Const) else first
        if not isinstance(first, Act) and not isinstance(second, Act):
            reason = "one of several values, chosen while the network runs"
            return refused(first.shape, (first, second), reason)
        first, second = self.data(first), self.data(second)
        if not isinstance(first, Act) or not isinstance(second, Act):
            return first if isinstance(first, Act) else second
        return Act(
            sources(self.graph, first) | sources(self.graph, second),
            first.labels,
            product=first.product or second.product,
            soft=first.soft or second.soft,
            from_input=first.from_input or second.from_input,
        )


def fitted(value: Value, shape: tuple[int, ...]) -> Value:
    """Data beside larger arrays (rank 0, or axes of size 1): repeated to their shape."""
    if (
        not isinstance(value, Act)
        or value.shape == shape
        or len(value.labels) not in (0, len(shape))
    ):
        return value
    labels = broadcast_labels(value.labels, shape, range(len(value.labels)))
    return dataclasses.replace(value, labels=labels)


def live_equations(jaxpr: Jaxpr, used: Sequence[bool] | None) -> list[tuple[Any, list[bool]]]:
    """The equations whose results are needed, with which of their results are.

    Equations with effects are kept: a write to a mutable array has no result, or one that is
    not used.
    """
    needed: set[Var] = set()
    for i, atom in enumerate(jaxpr.outvars):
        if isinstance(atom, Var) and (used is None or used[i]):
            needed.add(atom)
    kept = []
    for eqn in reversed(jaxpr.eqns):
        live = [var in needed for var in eqn.outvars]
        if any(live) or eqn.effects:
            needed.update(atom for atom in eqn.invars if isinstance(atom, Var))
            kept.append((eqn, live))
    return kept[::-1]


def opened(param: Any) -> tuple[Jaxpr, list[Value]]:
    """A jaxpr in the parameters of an equation, with the values of its constvars."""
    if isinstance(param, ClosedJaxpr):
        return param.jaxpr, [constant(c) for c in param.consts]
    return param, [Const(shape_of(v.aval)) for v in param.constvars]
