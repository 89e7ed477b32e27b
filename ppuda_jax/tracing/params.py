"""The parameter pytree of a traced function: its leaves in order and how to rebuild it.

Legend: P parameter leaves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]
"""Keys from the root of a pytree to a leaf."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unbound:
    """A parameter leaf that the GHN cannot predict.

    Attributes:
      path: keys that lead to the leaf.
      shape: its shape.
      reason: why it is not predicted.
    """

    path: Path
    shape: tuple[int, ...]
    reason: str

    def __iter__(self):
        """Unpacks as (path, shape, reason)."""
        return iter((self.path, self.shape, self.reason))


@dataclasses.dataclass(frozen=True, eq=False)
class ParamTree:
    """Structure of a parameter pytree.

    Attributes:
      treedef: structure with all leaves.
      paths: [P] keys that lead to each array leaf.
      shapes: [P] shapes of the array leaves.
      dtypes: [P] dtype names of the array leaves.
      positions: [P] place of each array leaf among all leaves of `treedef`.
      rest: the other leaves (functions, numbers, arrays without elements), by place.
    """

    treedef: Any
    paths: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    positions: tuple[int, ...]
    rest: tuple[tuple[int, Any], ...] = ()

    @property
    def num_params(self) -> int:
        """Number of scalars."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def unflatten(self, leaves: Mapping[Path, Any]) -> Any:
        """Rebuilds the pytree from one value per path.

        Raises:
          ValueError: if paths are missing or unknown.
        """
        missing = [path for path in self.paths if path not in leaves]
        known = set(self.paths)
        unknown = [path for path in leaves if path not in known]
        if missing or unknown:
            raise ValueError(
                "one value is needed for each parameter leaf; missing "
                f"{['/'.join(p) for p in missing[:5]]}, unknown "
                f"{['/'.join(p) for p in unknown[:5]]}."
            )
        flat: list[Any] = [None] * (len(self.positions) + len(self.rest))
        for position, path in zip(self.positions, self.paths, strict=True):
            flat[position] = leaves[path]
        for position, value in self.rest:
            flat[position] = value
        return jax.tree_util.tree_unflatten(self.treedef, flat)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ParamTree):
            return NotImplemented
        return (self.treedef, self.paths, self.shapes, self.dtypes) == (
            other.treedef,
            other.paths,
            other.shapes,
            other.dtypes,
        )

    def __hash__(self) -> int:
        return hash((self.paths, self.shapes))


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or the description of one."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def is_floating(dtype: str) -> bool:
    """Whether a dtype, by name, is real and floating point."""
    return dtype.startswith(("float", "bfloat"))


def _is_empty(leaf: Any) -> bool:
    """Whether a leaf is a real array without elements: there is nothing to predict."""
    return is_array(leaf) and 0 in leaf.shape and is_floating(str(leaf.dtype))


def key_name(key: Any) -> str:
    """Readable name of one entry of a pytree path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def param_tree(params: Any) -> tuple[ParamTree, list[Any]]:
    """Describes a parameter pytree.

    Args:
      params: any pytree; leaves that are no arrays are kept as they are, and so are arrays
        without elements.

    Returns:
      (its description, its array leaves in order).
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    arrays: list[tuple[int, Any, Any]] = []
    rest: list[tuple[int, Any, Any]] = []
    for position, (path, leaf) in enumerate(flat):
        if _is_empty(leaf):
            rest.append((position, path, jnp.zeros(leaf.shape, leaf.dtype)))
        else:
            (arrays if is_array(leaf) else rest).append((position, path, leaf))
    names = _unique([tuple(key_name(k) for k in path) for _, path, _ in arrays])
    tree = ParamTree(
        treedef=treedef,
        paths=tuple(names),
        shapes=tuple(tuple(leaf.shape) for _, _, leaf in arrays),
        dtypes=tuple(_dtype(leaf) for _, _, leaf in arrays),
        positions=tuple(position for position, _, _ in arrays),
        rest=tuple((position, leaf) for position, _, leaf in rest),
    )
    return tree, [leaf for _, _, leaf in arrays]


def _dtype(leaf: Any) -> str:
    """The type that JAX computes with: without x64, float64 arrays of NumPy are float32 to it."""
    return str(jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))


def _unique(names: list[Path]) -> list[Path]:
    """Appends a counter where two leaves would have the same name."""
    seen: dict[Path, int] = {}
    result = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.append((*name, str(count)) if count else name)
    return result
