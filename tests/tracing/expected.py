"""What a test expects of every leaf of a traced network, and how it is compared.

An expectation is `Bound(kind, role, shape)`, a tuple of several of them (one per part of the
leaf), `Listed(pattern)`, or a list of alternatives that are all right.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding


def s(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """An abstract array."""
    return jax.ShapeDtypeStruct(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Bound:
    """The leaf (or a part of it) is predicted.

    Attributes:
      kind: kind of its node.
      role: its role.
      shape: canonical shape; trailing ones do not count.
    """

    kind: str
    role: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Listed:
    """The leaf is not predicted.

    Attributes:
      pattern: regular expression that the reason must contain.
    """

    pattern: str = "."


Expected = Bound | Listed | tuple | list


def kernel(*shape: int, kind: str = "conv") -> Bound:
    """A kernel [O, I, kh, kw] or [O, I]."""
    return Bound(kind, "kernel", _trimmed(shape))


def bias(n: int) -> Bound:
    """An additive vector."""
    return Bound("bias", "bias", _trimmed((n,)))


def gain(n: int, kind: str = "ln") -> Bound:
    """A multiplicative vector."""
    return Bound(kind, "norm_scale", _trimmed((n,)))


def offset(n: int, kind: str = "ln") -> Bound:
    """A norm's additive vector."""
    return Bound(kind, "norm_bias", _trimmed((n,)))


def position(*shape: int) -> Bound:
    """A positional encoding [1, C, H, W]."""
    return Bound("pos_enc", "pos_enc", _trimmed(shape))


def found(graph: ArchGraph) -> dict[str, Any]:
    """What became of every leaf: its parts in order of their nodes, or the reason."""
    result: dict[str, Any] = {}
    for binding in sorted(graph.bindings, key=lambda b: b.node):
        result.setdefault("/".join(binding.path), []).append(_bound(graph, binding))
    for path, _, reason in graph.unbound:
        assert "/".join(path) not in result, f"{path} is both predicted and listed"
        result["/".join(path)] = reason
    return result


def check(graph: ArchGraph, expected: Mapping[str, Expected]) -> None:
    """Asserts that every leaf of a graph is as expected, and that no other leaf exists."""
    actual = found(graph)
    assert set(actual) == set(expected)
    wrong = {
        path: (actual[path], want)
        for path, want in expected.items()
        if not _fits(actual[path], want)
    }
    assert not wrong, "\n".join(f"{p}: {a}, expected {w}" for p, (a, w) in wrong.items())


def same_leaves(first: ArchGraph, second: ArchGraph) -> None:
    """Asserts that two graphs say the same of every leaf."""
    assert found(first) == found(second)


def predecessors(graph: ArchGraph, path: str) -> list[str]:
    """Kinds of the nodes that lead to the node of a leaf."""
    (node,) = {b.node for b in graph.bindings if "/".join(b.path) == path}
    return sorted(graph.primitive_names[a] for a, b in graph.edges.tolist() if b == node)


def seconds(function: Callable[[], Any]) -> float:
    """Processor time of a call, the best of two."""
    times = []
    for _ in range(2):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def _bound(graph: ArchGraph, binding: Binding) -> Bound:
    return Bound(graph.primitive_names[binding.node], binding.role, _trimmed(binding.shape))


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _fits(actual: Any, want: Expected) -> bool:
    if isinstance(want, list):
        return any(_fits(actual, one) for one in want)
    if isinstance(want, Listed):
        return isinstance(actual, str) and re.search(want.pattern, actual) is not None
    return actual == list(want if isinstance(want, tuple) else (want,))
