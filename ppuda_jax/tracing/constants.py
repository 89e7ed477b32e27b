"""Constants of a jaxpr: small whole numbers (indices, loop counters) are computed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppuda_jax.tracing.table import Equation, Kind, shape_of
from ppuda_jax.tracing.values import Const

_SMALL = 4096
"""Largest array whose value is kept: index tables are small, data are not."""

_WHOLE = frozenset("iub")
"""NumPy's kinds of whole numbers."""


def kind_of(dtype: Any) -> str:
    """NumPy's kind of a dtype; "f" for bfloat16 and the like, "V" for random keys."""
    kind = getattr(dtype, "kind", "V")
    name = str(dtype)
    return "f" if kind == "V" and name.startswith(("bfloat", "float")) else kind


def constant(value: Any) -> Const:
    """Describes a constant array; its value is kept if it is small and at hand."""
    shape = tuple(np.shape(value))
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    kind, host = kind_of(value.dtype), isinstance(value, (np.ndarray, np.generic))
    if math.prod(shape) > _SMALL or kind not in {*_WHOLE, "f"}:
        return Const(shape, stored=kind == "f" and bool(shape))
    array = np.asarray(value)
    # Of arrays on a device only those are kept that can be an index.
    known = array if host or kind in _WHOLE else None
    return Const(shape, known, kind == "f" and math.prod(shape) > 1, zero=not array.any())


def fold(eqn: Equation, ins: Sequence[Const]) -> list[Const]:
    """Results of an equation on constants; computes small whole numbers (indices) only."""
    stored = any(value.stored for value in ins)
    root = any(value.root for value in ins) or (stored and eqn.kind is Kind.ROOT)
    value = _fold_value(eqn, ins)
    state = any(value.state for value in ins)
    moved = eqn.kind in (Kind.MOVEMENT, Kind.IDENTITY, Kind.MULTIPLICATIVE)
    zero = moved and bool(ins) and ins[0].zero
    return [Const(shape, value, stored and bool(shape), root, state, zero) for shape in eqn.shapes]


def _fold_value(eqn: Equation, ins: Sequence[Const]) -> np.ndarray | None:
    compute = eqn.rule.fold
    if compute is None or len(eqn.outs) != 1:
        return None
    (aval,) = eqn.outs
    if kind_of(getattr(aval, "dtype", None)) not in _WHOLE:
        return None
    values = [value.value for value in ins]
    if math.prod(shape_of(aval)) > _SMALL or any(value is None for value in values):
        return None
    return compute(eqn, *values).astype(aval.dtype)
