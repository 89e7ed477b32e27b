"""What the axes of data mean: batch, features, space.

An axis is a tuple of `Label`, outermost first, as an axis of a `View` is a tuple of digits;
axes of size 1 have none.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ppuda_jax.tracing.views import regroup

SAME = "1"
"""Kind of an axis along which data is repeated."""

ANY = "?"
"""Kind of an axis about which nothing is known."""

STACKED = "j"
"""Kind of an axis along which values were stacked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The axis of an input that an axis of data was.

    Attributes:
      number: which input.
      axis: which of its axes.
      size: size of the axis there.
    """

    number: int
    axis: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """What a part of an axis of data means.

    Attributes:
      kind: "b" batch, "c" features, "s0", "s1"... space or tokens, or one of the kinds above.
      count: its size.
      origin: the axis of the input that it is (a part of), as long as that is known.
    """

    kind: str
    count: int
    origin: Origin | None = dataclasses.field(default=None, compare=False)

    def part(self, size: int) -> "Label":
        """A part of it."""
        return Label(self.kind, size, self.origin)


Axis = tuple[Label, ...]
"""Labels of the factors of an axis, the slowest first."""
Labels = tuple[Axis, ...]
"""Labels of all axes of an array."""


def axis_labels(kind: str, count: int) -> Axis:
    """The labels of an axis of one kind."""
    return (Label(kind, count),) if count > 1 else ()


def unknown_labels(shape: Sequence[int]) -> Labels:
    """Labels of a value about which nothing is known."""
    return tuple(axis_labels(ANY, n) for n in shape)


def count(axis: Iterable[Label]) -> int:
    """Size of an axis."""
    return math.prod(part.count for part in axis)


def label_shape(labels: Labels) -> tuple[int, ...]:
    """Shape of a value with these labels."""
    return tuple(map(count, labels))


def without(labels: Labels, axes: Iterable[int]) -> Labels:
    """The labels of the other axes."""
    gone = set(axes)
    return tuple(axis for i, axis in enumerate(labels) if i not in gone)


def reshape_labels(labels: Labels, shape: Sequence[int]) -> Labels:
    """Labels after a reshape in row-major order."""
    parts = [part for axis in labels for part in axis if part.count > 1]

    def split(part: Label, inner: int) -> tuple[Label, Label]:
        return part.part(part.count // inner), part.part(inner)

    groups = regroup(parts, shape, split)
    if groups is None:
        return unknown_labels(shape)
    return tuple(tuple(group) for group in groups)


def broadcast_labels(labels: Labels, shape: Sequence[int], where: Sequence[int]) -> Labels:
    """Puts axis i at `where[i]` of `shape`; the other axes are repeated."""
    spread = [axis_labels(SAME, n) for n in shape]
    for axis, target in zip(labels, where, strict=True):
        if axis:
            spread[target] = axis
    return tuple(spread)


def resized(axis: Axis, size: int) -> Axis:
    """The labels of an axis of which a part is taken, or that is padded."""
    if count(axis) == size:
        return axis
    if len({part.kind for part in axis}) == 1:
        return (axis[0].part(size),) if size > 1 else ()
    return axis_labels(ANY, size)


def resized_all(labels: Labels, shape: Sequence[int]) -> Labels:
    """`resized` for every axis."""
    return tuple(map(resized, labels, shape))


def merge_labels(first: Labels, second: Labels) -> Labels:
    """Labels of an elementwise result of two values of one shape.

    Args:
      first: labels of one operand.
      second: labels of the other.

    Returns:
      For every axis those of the operand that knows more about it.

    Raises:
      ValueError: if the ranks differ; `broadcast_labels` makes them equal.
    """
    return tuple(
        b if b and (not a or _known(a) < _known(b) or count(a) < count(b)) else a
        for a, b in zip(first, second, strict=True)
    )


def _known(axis: Axis) -> int:
    """How much the labels of an axis tell: nothing if it is a repetition."""
    return {SAME: 0, ANY: 1}.get(axis[0].kind, 2)
