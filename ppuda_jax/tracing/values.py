"""What the tracer knows about a value of a jaxpr: a constant, a parameter, or data.

Legend: a *node* is a number into the list of `tracing.builder.GraphBuilder`; a *source* of a
value is a node from which it can be computed through operations outside the vocabulary.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppuda_jax.tracing.views import View, regroup


@dataclasses.dataclass(frozen=True, slots=True)
class Const:
    """A value that depends neither on parameters nor on the input.

    Attributes:
      shape: its shape.
      value: its value where it is small and known, else None.
      statistic: derived from an array that the model stores (running statistics).
    """

    shape: tuple[int, ...]
    value: np.ndarray | None = None
    statistic: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """A value that depends on parameters and not on the input.

    Attributes:
      view: the leaf that the value is mainly made of, and its layout.
      others: further leaves that were merged in, as (view, how), how a primitive's name.
      statistic: combined with stored statistics or another array constant.
      function: name of the last nonlinear function that was applied, or "".
    """

    view: View
    others: tuple[tuple[View, str], ...] = ()
    statistic: bool = False
    function: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.view.shape

    def fit(self, shape: Sequence[int]) -> "Weight":
        """The value repeated to a shape that it broadcasts to."""
        if self.shape == tuple(shape):
            return self
        rank = len(shape) - len(self.shape)
        return self.map(lambda view: view.broadcast(shape, range(rank, len(shape))))

    def map(self, change) -> "Weight":
        """Applies a change of layout to the main view (others keep theirs)."""
        return dataclasses.replace(self, view=change(self.view))


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """Parameters concatenated along one axis.

    Attributes:
      axis: the axis.
      parts: the values that are joined.
    """

    axis: int
    parts: tuple[Weight, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        shape = list(self.parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(shape)

    def select(self, start: int, count: int) -> "Weight | Joined | None":
        """The part of the joined axis from `start` on; None if parts would be cut."""
        chosen, position = [], 0
        for part in self.parts:
            size = part.shape[self.axis]
            low, high = max(start, position), min(start + count, position + size)
            if low < high:
                offset = low - position
                chosen.append(part.map(lambda v, o=offset, n=high - low: v.window(self.axis, o, n)))
            position += size
        if not chosen:
            return None
        return chosen[0] if len(chosen) == 1 else Joined(self.axis, tuple(chosen))


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """What a part of an axis of data means.

    Attributes:
      kind: "b" batch, "c" features, "s0", "s1"... space or tokens, "1" repeated, "?" unknown.
      count: its size.
    """

    kind: str
    count: int


Labels = tuple[tuple[Label, ...], ...]


def label_shape(labels: Labels) -> tuple[int, ...]:
    """Shape of a value with these labels."""
    return tuple(math.prod(part.count for part in axis) for axis in labels)


def reshape_labels(labels: Labels, shape: Sequence[int]) -> Labels:
    """Labels after a reshape in row-major order."""
    parts = [part for axis in labels for part in axis if part.count > 1]

    def split(part: Label, inner: int) -> tuple[Label, Label]:
        return Label(part.kind, part.count // inner), Label(part.kind, inner)

    groups = regroup(parts, shape, split)
    if groups is None:
        return unknown_labels(shape)
    return tuple(tuple(group) for group in groups)


def unknown_labels(shape: Sequence[int]) -> Labels:
    """Labels of a value about which nothing is known."""
    return tuple((Label("?", n),) if n > 1 else () for n in shape)


def axis_labels(kind: str, count: int) -> tuple[Label, ...]:
    """The label of a whole axis."""
    return (Label(kind, count),) if count > 1 else ()


def _count(axis: tuple[Label, ...]) -> int:
    return math.prod(part.count for part in axis)


def merge_labels(first: Labels, second: Labels) -> Labels:
    """Labels of an elementwise result: whichever operand knows more about an axis."""
    if len(first) != len(second):
        return first
    return tuple(
        b if b and (not a or a[0].kind in "1?" or _count(a) < _count(b)) else a
        for a, b in zip(first, second, strict=True)
    )


class Pending:
    """A pooling node that is created when something in the vocabulary uses it.

    Statistics of norms are means too; only what is used as data becomes a node.

    Attributes:
      kind: "glob_avg", "avg_pool" or "max_pool".
      source: the value that is pooled.
      window: pooled height and width (for the local pools).
      squeeze: no position is left, as in squeeze and excitation.
      node: the node, once created.
    """

    __slots__ = ("kind", "node", "source", "squeeze", "window")

    def __init__(
        self, kind: str, source: "Act", window: tuple[int, int], squeeze: bool = False
    ) -> None:
        self.kind, self.source, self.window, self.squeeze = kind, source, window, squeeze
        self.node: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Stat:
    """Marks data that is a statistic (a reduction) of other data.

    Attributes:
      of: keys (`Act.key`) of what it is a statistic of, the newest first.
      mixes: features were reduced (layer norm) rather than batch and space only (batch norm).
      root: a square root or reciprocal was taken, as in 1 / sqrt(variance).
      scale: a parameter that was multiplied in.
      bias: a parameter that was added.
    """

    of: tuple[frozenset, ...]
    mixes: bool
    root: bool = False
    scale: Weight | None = None
    bias: Weight | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fresh:
    """Marks the result of a norm's scale, to which the norm's bias may be added.

    Attributes:
      node: the norm's node.
      of: keys of the data that was normalised.
      size: number of scales.
    """

    node: int
    of: tuple[frozenset, ...]
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Taps:
    """Marks shifted slices of one value, and sums or maxima of them.

    Attributes:
      offsets: the shifts, one tuple each.
      how: "add" or "max" once several were joined, else "".
      of: key of what was sliced.
      pending: the pool that a sum or maximum of slices is, if several were joined.
    """

    offsets: frozenset[tuple[int, ...]]
    how: str
    of: frozenset
    pending: Pending | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """Data: a value that depends on the input (or on a token made of a parameter).

    Attributes:
      src: nodes that it comes from.
      labels: meaning of its axes.
      pending: pooling that has no node yet.
      stat: set if it is a statistic.
      norm: set if it is normalised and waits for its scale: whether features were mixed.
      fresh: set right after a norm's scale.
      product: contains a product of two pieces of data (attention logits).
      soft: contains an exponential (softmax).
      taps: set for shifted slices.
      from_input: depends on the input.
    """

    src: frozenset
    labels: Labels
    pending: Pending | None = None
    stat: Stat | None = None
    norm: bool | None = None
    fresh: Fresh | None = None
    product: bool = False
    soft: bool = False
    taps: Taps | None = None
    from_input: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return label_shape(self.labels)

    @property
    def key(self) -> frozenset:
        """Identifies where the data comes from, also before a pooling node exists."""
        return frozenset((self.pending,)) if self.pending is not None else self.src

    def plain(self, labels: Labels) -> "Act":
        """The same data with other labels, without marks that only hold for the moment."""
        return Act(
            self.src,
            labels,
            pending=self.pending,
            stat=self.stat,
            product=self.product,
            soft=self.soft,
            from_input=self.from_input,
        )


Value = Any
"""Const, Weight, Joined or Act."""


def settle(act: Act) -> Act:
    """Ends a sum or maximum of shifted slices: from here on it is a pool."""
    if act.taps is None:
        return act
    if act.taps.pending is None:
        return act
    return dataclasses.replace(act, pending=act.taps.pending, taps=None)
