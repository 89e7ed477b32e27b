"""Whether two function objects are the same function, made twice.

`model.apply` is another object each time it is written, and so is that of an equal module made
anew, a `functools.partial` or a lambda in the body of a caller. What they compute is decided by
code, arguments and what they close over.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax


def same_function(first: Callable[..., Any], second: Callable[..., Any]) -> bool:
    """Whether two callables are equal in all that decides what they compute.

    False means that it cannot be told so.
    """
    return _same(first, second)


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, types.MethodType):
        return _same(first.__func__, second.__func__) and _same(first.__self__, second.__self__)
    if isinstance(first, functools.partial):
        return _all_same(
            (first.func, first.args, first.keywords), (second.func, second.args, second.keywords)
        )
    if isinstance(first, types.FunctionType):
        return first.__globals__ is second.__globals__ and _all_same(_parts(first), _parts(second))
    if isinstance(first, tuple | list):
        return _all_same(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, jax.stages.Wrapped) and hasattr(first, "__wrapped__"):
        return _same(first.__wrapped__, getattr(second, "__wrapped__", None))
    try:
        return bool(first == second)
    except (TypeError, ValueError):  # arrays have no single truth
        return False


def _all_same(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(map(_same, first, second))


def _parts(function: types.FunctionType) -> tuple[Any, ...]:
    """Code, defaults and what a function closes over."""
    try:
        closed = tuple(cell.cell_contents for cell in function.__closure__ or ())
    except ValueError:  # a cell that is not filled yet
        closed = (object(),)
    return function.__code__, function.__defaults__, function.__kwdefaults__, closed
