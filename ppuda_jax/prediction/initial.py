"""Leaves that are not predicted, and taking them from a network's own initial parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppuda_jax.prediction.leaves import Path
from ppuda_jax.tracing.api import TraceSource
from ppuda_jax.tracing.params import param_tree

_REPAIR = "pass variables['params'] of the network that was traced, as its init returns it"


class UnsupportedLeaf(NamedTuple):
    """A leaf that is not predicted, and why."""

    path: Path
    shape: tuple[int, ...]
    reason: str


def take_leaves(
    initial: Any, refused: Sequence[UnsupportedLeaf], source: TraceSource | None
) -> dict[Path, Any]:
    """Takes leaves from a parameter pytree.

    Args:
      initial: the pytree.
      refused: the leaves to take.
      source: what the graph was traced from, which says the types of the leaves; None if that
        is not known.

    Returns:
      One array per leaf path. Floating-point leaves have the type of the network's own; integers
      and random keys are what `initial` holds.

    Raises:
      ValueError: `initial` lacks a leaf, or holds something else there.
    """
    tree, leaves = param_tree(initial)
    found = dict(zip(tree.paths, leaves, strict=True))
    missing = ["/".join(leaf.path) for leaf in refused if leaf.path not in found]
    if missing:
        raise ValueError(
            f"initial must hold every leaf that cannot be predicted, missing {missing}, received "
            f"{['/'.join(path) for path in tree.paths[:5]]}: {_REPAIR}"
        )
    types = dict(zip(source.tree.paths, source.tree.dtypes, strict=True)) if source else {}
    return {leaf.path: _taken(leaf, found[leaf.path], types.get(leaf.path)) for leaf in refused}


def _taken(expected: UnsupportedLeaf, leaf: Any, dtype: str | None) -> Any:
    """One leaf of `initial`, checked against the network's own."""
    name = "/".join(expected.path)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"initial must hold arrays, received only the shape {leaf.shape} of {name!r}: pass "
            "the parameters that model.init returns, not those of jax.eval_shape"
        )
    if tuple(leaf.shape) != tuple(expected.shape):
        raise ValueError(
            f"initial must fit the network that was traced: {name!r} must have shape "
            f"{tuple(expected.shape)}, received {tuple(leaf.shape)}: {_REPAIR}"
        )
    if dtype is None or str(leaf.dtype) == dtype:
        return jnp.asarray(leaf)
    if not all(_is_floating(kind) for kind in (leaf.dtype, dtype)):
        raise ValueError(
            f"initial must fit the network that was traced: {name!r} must have the type {dtype}, "
            f"received {leaf.dtype}: {_REPAIR}"
        )
    return jnp.asarray(leaf).astype(dtype)


def _is_floating(dtype: Any) -> bool:
    """Whether a type is a real floating-point one; those of random keys are none."""
    try:
        return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False
