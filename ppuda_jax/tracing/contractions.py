"""Finds products that are written as a multiplication and a sum over axes of its result.

`(x[:, :, None] * w).sum(1)` is a dense layer as much as `x @ w` is. By itself the multiplication
would be a gain, so that both are handed to one rule, `CONTRACTION`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr, Literal, Var

from ppuda_jax.tracing.table import TABLE, Kind, shape_of

CONTRACTION = "multiply and sum"
"""Name of the rule for a multiplication and a sum; no primitive of JAX."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contraction:
    """A multiplication whose only use is a sum.

    Attributes:
      product: the equation that multiplies.
      total: the equation that sums.
      passed: the results of the equations that are done with it, the last one that of the sum.
    """

    product: Any
    total: Any
    passed: tuple[Var, ...]


def contractions(jaxpr: Jaxpr) -> dict[Var, Contraction]:
    """The contractions of a jaxpr, by the result of the multiplication.

    A mean is none: what is multiplied there are the weights of an average, which are gains.
    """
    uses: dict[Var, list[Any]] = {}
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if isinstance(atom, Var):
                uses.setdefault(atom, []).append(eqn)
    for atom in jaxpr.outvars:
        if isinstance(atom, Var):
            uses.setdefault(atom, []).append(None)
    found = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "mul":
            continue
        passed = list(eqn.outvars)
        after = _only(uses, passed[-1])
        while after is not None and _kind(after) is Kind.IDENTITY and len(after.outvars) == 1:
            passed += after.outvars
            after = _only(uses, passed[-1])
        if after is None or after.primitive.name != "reduce_sum":
            continue
        passed += after.outvars
        if not _is_mean(after, _only(uses, passed[-1])):
            found[eqn.outvars[0]] = Contraction(eqn, after, tuple(passed))
    return found


def _only(uses: dict[Var, list[Any]], var: Var) -> Any:
    """The equation that uses a variable, if there is one alone."""
    users: Sequence[Any] = uses.get(var, ())
    return users[0] if len(users) == 1 else None


def _kind(eqn: Any) -> Kind | None:
    return TABLE[eqn.primitive.name].kind if eqn.primitive.name in TABLE else None


def _is_mean(total: Any, after: Any) -> bool:
    """Whether a sum is divided by the number of its terms."""
    if after is None or after.primitive.name != "div" or not isinstance(after.invars[1], Literal):
        return False
    shape = shape_of(total.invars[0].aval)
    terms = math.prod(shape[i] for i in total.params["axes"])
    return bool(after.invars[1].val == terms)
