"""Where the elements of a parameter leaf go on their way to the operation that uses them.

Models transpose, reshape, slice, stack and broadcast a parameter before its use. A `View`
follows that symbolically: each axis of the value in hand is a list of *digits*, and a digit is
a part of the index along one axis of the leaf. A leaf axis of 12 that is reshaped to (3, 4) is
two digits: index = digit0 * 4 + digit1.

Everything here is pure Python on small tuples; nothing touches array data.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

REPEATED = -1
"""`Digit.axis` of an axis along which the leaf is repeated (broadcast)."""

UNKNOWN = -2
"""`Digit.axis` of an axis along which the value varies in a way that is not followed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Digit:
    """A part of the index along a leaf axis, restricted to a window.

    Position i of the digit stands for the value start + i * step, which contributes
    value * stride to the index along the leaf axis.

    Attributes:
      axis: leaf axis, or `REPEATED` or `UNKNOWN`.
      stride: weight of the digit in the leaf index.
      full: number of values that the digit has in the leaf.
      start: first value in the window.
      count: number of values in the window.
      step: distance of neighbouring values in the window (negative: reversed).
    """

    axis: int
    stride: int
    full: int
    start: int
    count: int
    step: int = 1

    @property
    def is_leaf(self) -> bool:
        """Whether the digit belongs to the leaf (is neither repeated nor unknown)."""
        return self.axis >= 0

    def split(self, inner: int) -> "tuple[Digit, Digit] | None":
        """Splits into (outer, inner) digits, the inner one of `inner` values; None if it cannot."""
        outer = self.count // inner
        if not self.is_leaf:
            return filler(outer, self.axis), filler(inner, self.axis)
        if self.step != 1 or self.start % inner or self.full % inner:
            return None
        return (
            Digit(self.axis, self.stride * inner, self.full // inner, self.start // inner, outer),
            Digit(self.axis, self.stride, inner, 0, inner),
        )

    def window(self, start: int, count: int, step: int) -> "Digit":
        """Restricts the digit to `count` positions from `start` on."""
        if not self.is_leaf:
            return filler(count, self.axis)
        return dataclasses.replace(
            self, start=self.start + start * self.step, count=count, step=self.step * step
        )


Axis = tuple[Digit, ...]
"""Digits of a mixed-radix number: parts of a leaf's axes that make up an axis."""


def filler(count: int, axis: int = REPEATED) -> Digit:
    """A digit that stands for no part of the leaf."""
    return Digit(axis, 0, count, 0, count)


def regroup(digits: Iterable, shape: Sequence[int], split) -> "list[list] | None":
    """Distributes digits, in row-major order, over the axes of a new shape.

    Args:
      digits: objects with a `count`; counts of 1 must have been dropped.
      shape: the new shape, of the same size.
      split: called as split(digit, inner), gives (outer, inner) or None.

    Returns:
      One list of digits per axis, or None where a digit cannot be split as needed.
    """
    queue = list(digits)[::-1]
    groups = []
    for size in shape:
        group, rest = [], size
        while rest > 1:
            if not queue:
                return None
            digit = queue.pop()
            if rest % digit.count == 0:
                group.append(digit)
                rest //= digit.count
                continue
            parts = split(digit, digit.count // rest) if digit.count % rest == 0 else None
            if parts is None:
                return None
            group.append(parts[0])
            queue.append(parts[1])
            rest = 1
        groups.append(group)
    return groups


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A value made of the elements of one leaf.

    Attributes:
      leaf: number of the leaf.
      axes: the digits of each axis of the value, outermost first; size-1 axes have none.
      fixed: digits that were indexed away (count 1).
    """

    leaf: int
    axes: tuple[Axis, ...]
    fixed: Axis = ()

    @classmethod
    def of_leaf(cls, leaf: int, shape: Sequence[int]) -> "View":
        """The leaf itself."""
        axes = ((Digit(i, 1, n, 0, n),) if n > 1 else () for i, n in enumerate(shape))
        return cls(leaf, tuple(axes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return tuple(math.prod(d.count for d in axis) for axis in self.axes)

    @property
    def coverage(self) -> int:
        """How many elements of the leaf the value shows."""
        return math.prod(d.count for axis in self.axes for d in axis if d.is_leaf)

    @property
    def leaf_digits(self) -> Axis:
        """All digits of the leaf that the value runs over."""
        return tuple(d for axis in self.axes for d in axis if d.is_leaf)

    def varying(self) -> tuple[int, ...]:
        """The axes along which the value is not constant."""
        return tuple(i for i, axis in enumerate(self.axes) if any(d.axis != REPEATED for d in axis))

    def opaque(self, shape: Sequence[int]) -> "View":
        """A value of another shape that depends on the leaf in a way not followed."""
        axes = tuple((filler(n, UNKNOWN),) if n > 1 else () for n in shape)
        return View(self.leaf, axes, ())

    def transpose(self, permutation: Sequence[int]) -> "View":
        """Permutes the axes."""
        return dataclasses.replace(self, axes=tuple(self.axes[i] for i in permutation))

    def reshape(self, shape: Sequence[int]) -> "View":
        """Reshapes in row-major order."""
        digits = [d for axis in self.axes for d in axis]
        groups = regroup(digits, shape, lambda digit, inner: digit.split(inner))
        if groups is None:
            return self.opaque(shape)
        return dataclasses.replace(self, axes=tuple(tuple(group) for group in groups))

    def broadcast(self, shape: Sequence[int], dimensions: Sequence[int]) -> "View":
        """Puts axis i at `dimensions[i]` of `shape` and repeats along the others."""
        axes: list[Axis] = [(filler(n),) if n > 1 else () for n in shape]
        for axis, target in zip(self.axes, dimensions, strict=True):
            if axis:
                axes[target] = axis
        return dataclasses.replace(self, axes=tuple(axes))

    def drop(self, axes: Iterable[int]) -> "View":
        """Removes axes (squeezed or reduced)."""
        gone = set(axes)
        kept = tuple(axis for i, axis in enumerate(self.axes) if i not in gone)
        return dataclasses.replace(self, axes=kept)

    def reverse(self, axis: int) -> "View":
        """Reverses one axis; unknown along it if it is made of several digits."""
        digits = self.axes[axis]
        if len(digits) == 1:
            digits = (digits[0].window(digits[0].count - 1, digits[0].count, -1),)
        elif digits:
            digits = (filler(math.prod(d.count for d in digits), UNKNOWN),)
        return self._with_axis(axis, digits)

    def window(self, axis: int, start: int, count: int, step: int = 1) -> "View":
        """Takes `count` positions of one axis from `start` on."""
        digits = self.axes[axis]
        size = math.prod(d.count for d in digits)
        if (start, count, step) == (0, size, 1):
            return self
        if count == 1:
            kept: list[Digit] = []
            fixed: list[Digit] = []
            for digit in reversed(digits):
                start, position = divmod(start, digit.count)
                (fixed if digit.is_leaf else kept).append(digit.window(position, 1, 1))
            return dataclasses.replace(self._with_axis(axis, ()), fixed=(*self.fixed, *fixed))
        if len(digits) == 1:
            return self._with_axis(axis, (digits[0].window(start, count, step),))
        inner = size // digits[0].count
        if step == 1 and start % inner == 0 and count % inner == 0:
            outer = digits[0].window(start // inner, count // inner, 1)
            view = self
            if outer.count == 1 and outer.is_leaf:
                view = dataclasses.replace(self, fixed=(*self.fixed, outer))
            head = (outer,) if outer.count > 1 else ()
            return view._with_axis(axis, (*head, *digits[1:]))
        return self._with_axis(axis, (filler(count, UNKNOWN),))

    def _with_axis(self, axis: int, digits: Axis) -> "View":
        axes = (*self.axes[:axis], tuple(digits), *self.axes[axis + 1 :])
        return dataclasses.replace(self, axes=axes)


def complete_digits(digits: Sequence[Digit], shape: Sequence[int]) -> "tuple[Axis, Axis] | None":
    """Checks that digits tile a leaf and adds those that are missing.

    Args:
      digits: digits of the leaf, in any order.
      shape: shape of the leaf.

    Returns:
      (all digits in leaf order, those among them that were missing); None if digits overlap.
    """
    ordered, missing = [], []
    for axis, size in enumerate(shape):
        remaining = size
        own = sorted((d for d in digits if d.axis == axis), key=lambda d: -d.stride)
        for digit in own:
            span = digit.stride * digit.full
            if remaining % span:
                return None
            if remaining != span:
                missing.append(Digit(axis, span, remaining // span, 0, remaining // span))
                ordered.append(missing[-1])
            ordered.append(digit)
            remaining = digit.stride
        if remaining > 1:
            missing.append(Digit(axis, 1, remaining, 0, remaining))
            ordered.append(missing[-1])
    return tuple(ordered), tuple(missing)
