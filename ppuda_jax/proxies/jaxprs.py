"""Runs a function from its jaxpr with the results of some equations changed or measured.

A *place* names an equation: its number in the jaxpr, and for one inside a call or a branch the
place of that call, the number of the branch and the number there. Calls and branches without a
place in them are run as they are, custom derivatives included; the others are opened.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

Place = tuple[int, ...]
"""Numbers of equations from the outermost jaxpr to one inside."""
Edit = Callable[[list[jax.Array]], tuple[list[jax.Array], jax.Array | None]]
"""Results of an equation -> its results from now on, and what is added to the total."""

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
_OPENED = frozenset(
    {
        *("jit", "pjit", "closed_call", "core_call", "cond"),
        *("remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"),
        "custom_vjp_call_jaxpr",
    }
)
_REMAT = ("remat", "remat2", "checkpoint")
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
"""Calls with derivatives of their own, which are lost when they are opened."""


def bodies(eqn: Any) -> tuple[ClosedJaxpr, ...]:
    """The jaxprs of a call or of the branches of a choice; () for what cannot be opened."""
    if eqn.primitive.name not in _OPENED:
        return ()
    if eqn.primitive.name == "cond":
        return tuple(map(_closed, eqn.params["branches"]))
    return tuple(_closed(eqn.params[key]) for key in _BODIES if key in eqn.params)[:1]


def loops(eqn: Any) -> tuple[ClosedJaxpr, ...]:
    """The jaxprs of an equation that cannot be opened, such as a loop's."""
    if eqn.primitive.name in _OPENED:
        return ()
    given = [eqn.params[key] for key in eqn.params]
    return tuple(_closed(body) for body in given if isinstance(body, (Jaxpr, ClosedJaxpr)))


def arguments(eqn: Any, body: ClosedJaxpr, given: Sequence[Any]) -> list[Any]:
    """Which of an equation's arguments are those of its body."""
    return list(given[len(given) - len(body.jaxpr.invars) :])


class Edited:
    """A jaxpr with edits.

    Attributes:
      closed: the jaxpr.
    """

    def __init__(
        self, closed: ClosedJaxpr, edits: Mapping[Place, Edit], total: jax.Array | None = None
    ) -> None:
        """Finds which calls have to be opened.

        Args:
          closed: the jaxpr.
          edits: by place.
          total: what measurements are added to; a number if None.
        """
        self.closed, self._edits = closed, edits
        self._opened = {place[:n] for place in edits for n in range(1, len(place), 2)}
        self._start = jnp.zeros(()) if total is None else total

    def __call__(self, *args: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Runs it: (results, total)."""
        return self._run(self.closed, (), *args)

    def _run(
        self, closed: ClosedJaxpr, inside: Place, *args: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        jaxpr = closed.jaxpr
        env: dict[Var, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        total = self._start
        for number, eqn in enumerate(jaxpr.eqns):
            place = (*inside, number)
            ins = [read(atom) for atom in eqn.invars]
            if place in self._opened:
                outs, more = self._open(eqn, place, ins)
                total = total + more
            else:
                outs = _bind(eqn, ins)
            if place in self._edits:
                outs, measured = self._edits[place](outs)
                total = total if measured is None else total + measured
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars], total

    def _open(self, eqn: Any, place: Place, ins: list[Any]) -> tuple[list[jax.Array], jax.Array]:
        def run(number: int, body: ClosedJaxpr) -> Callable[..., Any]:
            return lambda *args: self._run(body, (*place, number), *args)

        inner = bodies(eqn)
        if eqn.primitive.name == "cond":
            branches = [run(number, body) for number, body in enumerate(inner)]
            return jax.lax.switch(ins[0], branches, *ins[1:])
        function, given = run(0, inner[0]), arguments(eqn, inner[0], ins)
        if eqn.primitive.name in _REMAT:
            options = {key: eqn.params[key] for key in ("prevent_cse", "policy")}
            function = jax.checkpoint(function, **options)
        return function(*given)


def _bind(eqn: Any, ins: Sequence[Any]) -> list[jax.Array]:
    """The results of one equation, as `jax.core.eval_jaxpr` computes them."""
    given = eqn.primitive.get_bind_params(eqn.params)
    functions, params = given if isinstance(given, tuple) else ((), given)  # JAX 0.10.0 and later
    outs = eqn.primitive.bind(*functions, *ins, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())
