"""Constants of a jaxpr: small whole numbers (indices, loop counters) are computed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ppuda_jax.tracing.values import Const

_SMALL = 4096


def constant(value: Any) -> Const:
    """Describes a constant array; its value is kept if it is small or a whole number."""
    shape = tuple(np.shape(value))
    dtype = getattr(value, "dtype", None)
    if dtype is not None and not isinstance(value, (np.ndarray, np.generic)):
        small = int(np.prod(shape)) <= _SMALL and np.dtype("int32").kind == "i"
        kind = getattr(dtype, "kind", "V")
        if kind not in "iub" or not small:
            return Const(shape, statistic=kind not in "iub" and bool(shape))
    array = np.asarray(value)
    if array.size > _SMALL:
        return Const(shape, statistic=array.dtype.kind == "f")
    return Const(shape, array, array.dtype.kind == "f" and array.size > 1)


_FOLD: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "neg": np.negative,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "rem": np.fmod,
    "sign": np.sign,
}


def fold(eqn: Any, ins: list[Const]) -> list[Const]:
    """Results of an equation on constants; computes small whole numbers (indices) only."""
    statistic = any(value.statistic for value in ins)
    value = _fold_value(eqn, ins)
    return [
        Const(
            tuple(getattr(var.aval, "shape", ())),
            value if len(eqn.outvars) == 1 else None,
            statistic and bool(getattr(var.aval, "shape", ())),
        )
        for var in eqn.outvars
    ]


def _fold_value(eqn: Any, ins: list[Const]) -> np.ndarray | None:
    name, params = eqn.primitive.name, eqn.params
    aval = eqn.outvars[0].aval
    shape = tuple(getattr(aval, "shape", ()))
    dtype = getattr(aval, "dtype", None)
    if dtype is None or getattr(dtype, "kind", "V") not in "iub" or int(np.prod(shape)) > _SMALL:
        return None
    if name == "iota":
        steps = np.arange(shape[params["dimension"]], dtype=dtype)
        view = [-1 if i == params["dimension"] else 1 for i in range(len(shape))]
        return np.broadcast_to(steps.reshape(view), shape)
    values = [value.value for value in ins]
    if not values or any(value is None for value in values):
        return None
    if name in _FOLD:
        return np.asarray(_FOLD[name](*values)).astype(dtype)
    if name == "select_n":
        return np.asarray(np.where(values[0], values[2], values[1])).astype(dtype)
    if name == "convert_element_type":
        return values[0].astype(dtype)
    if name in ("reshape", "squeeze", "expand_dims"):
        return values[0].reshape(shape)
    if name == "broadcast_in_dim":
        view = [1] * len(shape)
        for size, target in zip(values[0].shape, params["broadcast_dimensions"], strict=True):
            view[target] = size
        return np.broadcast_to(values[0].reshape(view), shape)
    if name == "concatenate":
        return np.concatenate(values, axis=params["dimension"])
    if name == "slice":
        steps = params["strides"] or (1,) * len(shape)
        where = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        return values[0][tuple(slice(*w) for w in where)]
    return None
