"""How the use of a parameter becomes a `Binding`: which part of its leaf a node predicts.

Legend: a *use* is one place where (a window of) a parameter leaf enters the vocabulary.
"""

import dataclasses
import math
from collections.abc import Sequence

from ppuda_jax.graphs.arch_graph import Binding
from ppuda_jax.tracing.params import Path
from ppuda_jax.tracing.views import Axis, Digit, complete_digits
from ppuda_jax.types import Role

Groups = tuple[tuple[Digit, ...], ...]
"""Digits of a kernel's axes by what they stand for."""


@dataclasses.dataclass(slots=True)
class Use:
    """A leaf (or a window of it) and the node that predicts it.

    Attributes:
      leaf: number of the leaf.
      node: number of the node.
      role: see `types.Role`.
      digits: every digit of the leaf that is used, with its window.
      groups: the digits of each canonical axis.
    """

    leaf: int
    node: int
    role: Role
    digits: tuple[Digit, ...]
    groups: Groups

    def overlaps(self, digits: Axis, shape: Sequence[int]) -> bool:
        """Whether it shares an element with other digits of its leaf, of a certain shape."""
        others = {(d.axis, d.stride, d.full): d for d in digits}
        for digit in self.digits:
            # Layers of one stack differ in one digit, which is quick to tell.
            other = others.get((digit.axis, digit.stride, digit.full))
            if other is not None and digit.count == other.count == 1 and digit.start != other.start:
                return False
        return all(
            positions(self.digits, axis, size) & positions(digits, axis, size)
            for axis, size in enumerate(shape)
        )


def positions(digits: Axis, axis: int, size: int) -> set[int]:
    """The indices along a leaf axis over which digits run."""
    own = [d for d in digits if d.axis == axis]
    done = complete_digits(own, [0] * axis + [size])
    if done is None:
        return set(range(size))
    values = {0}
    for digit in done[0]:
        if digit.axis == axis:
            steps = [(digit.start + i * digit.step) * digit.stride for i in range(digit.count)]
            values = {v + s for v in values for s in steps}
    return values


def digit_order(digit: Digit) -> tuple[int, int]:
    """Sorts digits as they lie in a leaf."""
    return digit.axis, -digit.stride


def embedding_shape(role: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """(O, I, kh, kw) of a canonical shape, as the shape embedding sees it."""
    out, features, height, width = (*shape, 1, 1, 1)[:4] if len(shape) < 4 else shape
    return out, features, height, width


def make_binding(
    use: Use, path: Path, leaf_shape: Sequence[int], node: int, alone: bool
) -> Binding | None:
    """The binding of one use.

    Args:
      use: the use.
      path: path of its leaf.
      leaf_shape: shape of its leaf.
      node: number of its node in the graph.
      alone: no other node uses the leaf.

    Returns:
      The binding; None if the layout cannot be expressed.
    """
    if alone:
        use = _widened(use)
    done = complete_digits(use.digits, leaf_shape)
    if done is None:
        return None
    ordered, missing = done
    groups = [list(group) for group in use.groups]
    home = {"kernel": 2, "pos_enc": 2}.get(use.role, 0)
    if missing and home >= len(groups):
        groups += [[], []]
    if missing:
        first, rest = missing[:1], missing[1:]
        groups[home] = sorted([*groups[home], *first], key=digit_order)
        groups[-1] = sorted([*groups[-1], *rest], key=digit_order)
    flat = [digit for group in groups for digit in group]
    free = [digit for digit in ordered if digit in flat]
    if len(flat) != len(free) or len(set(flat)) != len(flat):
        return None
    shape = tuple(math.prod(d.count for d in group) for group in groups)
    if use.role == "kernel" and len(shape) == 2 and leaf_shape.count(1) > 1 < len(leaf_shape) - 2:
        shape = (*shape, 1, 1)
    whole = all(d.start == 0 and d.count == d.full and d.step == 1 for d in ordered)
    index = None
    if not whole:
        index = tuple(
            (d.start if d not in flat else (d.start, d.start + d.step * d.count, d.step))
            for d in ordered
        )
    return Binding(
        path=path,
        node=node,
        role=use.role,
        shape=shape,
        split=tuple(d.count for d in flat) or (1,),
        perm=tuple(flat.index(d) for d in free) or (0,),
        part_shape=tuple(leaf_shape) if whole else tuple(d.count for d in free),
        leaf_shape=tuple(leaf_shape),
        index=index,
        view_shape=None if whole else tuple(d.full for d in ordered),
    )


def _widened(use: Use) -> Use:
    """Extends a window to the whole leaf, so that a leaf used in part is predicted in full."""
    wide = {
        d: Digit(d.axis, d.stride, d.full, 0, d.full) if d.count != d.full else d
        for d in use.digits
    }
    groups = [tuple(wide[d] for d in group) for group in use.groups]
    inside = {d for group in use.groups for d in group}
    extra = [wide[d] for d in use.digits if d not in inside and wide[d].count > 1]
    if extra and use.role == "pos_enc":
        groups[2] = (*groups[2], *extra)
    elif extra:
        return use
    return dataclasses.replace(use, digits=tuple(wide.values()), groups=tuple(groups))
