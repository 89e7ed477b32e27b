"""What the tracer knows about a value of a jaxpr.

A value is a constant, a parameter (alone or joined with others), a refusal, data, or a
mutable array that holds one of these.

Legend: a *node* is a number into the list of `tracing.builder.GraphBuilder`; a *source* of a
value is a node from which it can be computed through operations outside the vocabulary.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ppuda_jax.tracing.labels import Labels, label_shape
from ppuda_jax.tracing.states import PLAIN, Event, Key, State, Statistic, Taps, after
from ppuda_jax.tracing.views import View


@dataclasses.dataclass(frozen=True, slots=True)
class Const:
    """A value that depends neither on parameters nor on the input.

    Attributes:
      shape: its shape.
      value: its value where it is small and known, else None.
      stored: derived from an array that the model stores (running statistics).
      root: a square root or reciprocal was taken of a stored array, as in 1 / sqrt(variance).
      state: it is one of the variables outside the parameters.
      zero: all its elements are zero, as in the first state of a recurrence.
    """

    shape: tuple[int, ...]
    value: np.ndarray | None = None
    stored: bool = False
    root: bool = False
    state: bool = False
    zero: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """A further leaf in a parameter value.

    Attributes:
      view: the leaf and its layout.
      how: name of the operation that merged it.
      event: what that operation is in the vocabulary (`SCALE`, `SHIFT` or `ROOT`), else None.
    """

    view: View
    how: str
    event: Event | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """A value that depends on parameters and not on the input.

    Attributes:
      view: the leaf that the value is mainly made of, and its layout.
      others: further leaves that were merged in, each once.
      rooted: multiplied by the reciprocal root of an array that the model stores.
      function: name of the last nonlinear function that was applied, or "".
      root: that function is a root.
      curve: name of a smooth function, such as exp, that its elements went through, or "".
      relative: divided by, or minus, a reduction of itself, as a softmax is.
    """

    view: View
    others: tuple[Merged, ...] = ()
    rooted: bool = False
    function: str = ""
    root: bool = False
    curve: str = ""
    relative: bool = False

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

    def map(self, change: Callable[[View], View]) -> "Weight":
        """Applies a change of layout to the main view (others keep theirs)."""
        return dataclasses.replace(self, view=change(self.view))

    def window(self, axis: int, start: int, count: int) -> "Weight":
        """`View.window`."""
        return self.map(lambda view: view.window(axis, start, count))

    def row(self, axis: int, position: int) -> "Weight":
        """One position of an axis, which goes."""
        return self.map(lambda view: view.window(axis, position, 1).drop((axis,)))

    def bent(self) -> "Weight":
        """The value after a function that is not linear.

        What was multiplied in before is no scale of the result: a kernel that is rounded in units
        of a step and multiplied by it again does not grow with the step.
        """
        others = (dataclasses.replace(other, event=None) for other in self.others)
        return dataclasses.replace(self, others=tuple(dict.fromkeys(others)))

    def leaves(self) -> tuple[int, ...]:
        """All leaves in the value."""
        return (self.view.leaf, *(other.view.leaf for other in self.others))


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

    def leaves(self) -> tuple[int, ...]:
        """All leaves in the value."""
        return tuple(leaf for part in self.parts for leaf in part.leaves())

    def map(self, axis: int, change: Callable[[Weight], Weight]) -> "Joined":
        """Changes every part; `axis` is the joined axis afterwards."""
        return Joined(axis, tuple(map(change, self.parts)))

    def select(self, start: int, count: int) -> "Weight | Joined":
        """The part of the joined axis from `start` on."""
        chosen, position = [], 0
        for part in self.parts:
            size = part.shape[self.axis]
            low, high = max(start, position), min(start + count, position + size)
            if low < high:
                chosen.append(part.window(self.axis, low - position, high - low))
            position += size
        return chosen[0] if len(chosen) == 1 else Joined(self.axis, tuple(chosen))


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A value made of parameters in a way for which no rule proves a role.

    It meets data as a constant would, and its leaves then get the reason.

    Attributes:
      shape: its shape.
      leaves: numbers of the leaves in it.
      reason: why they cannot be predicted.
    """

    shape: tuple[int, ...]
    leaves: tuple[int, ...]
    reason: str


class Pool:
    """A pool that gets a node when something in the vocabulary uses it.

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
class Act:
    """Data: a value that depends on the input (or on a token made of a parameter).

    Attributes:
      src: nodes that it comes from, and pools that have no node yet.
      labels: meaning of its axes.
      state: how far it has come in a pattern.
      product: contains a product of two pieces of data (attention logits).
      soft: contains an exponential (softmax).
      from_input: depends on the input.
    """

    src: Key
    labels: Labels
    state: State = PLAIN
    product: bool = False
    soft: bool = False
    from_input: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return label_shape(self.labels)

    @property
    def is_made(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.src) and not self.from_input

    @property
    def statistic(self) -> Statistic | None:
        """The state if it is a statistic (pooled or not)."""
        return self.state if isinstance(self.state, Statistic) else None

    @property
    def taps(self) -> Taps | None:
        """The state if it is shifted slices."""
        return self.state if isinstance(self.state, Taps) else None

    def put(self, state: State) -> "Act":
        """The same data in another state."""
        return self if state == self.state else dataclasses.replace(self, state=state)

    def after(self, event: Event, labels: Labels | None = None) -> "Act":
        """The data after an event that creates nothing, with other labels if they change."""
        state = after(self.state, event)
        if labels is None:
            return self.put(state)
        return dataclasses.replace(self, labels=labels, state=state)

    def settled(self) -> "Act":
        """Ends a sum or maximum of shifted slices: from here on it is a pool."""
        return self.put(PLAIN) if self.taps is not None and self.taps.is_pool else self

    def moved(self, labels: Labels) -> "Act":
        """The same data with other labels; only statistics stay what they are."""
        state = self.state if isinstance(self.state, Statistic) else PLAIN
        return dataclasses.replace(self, labels=labels, state=state)

    def on(self, src: Key, labels: Labels | None = None) -> "Act":
        """Plain data of the same origin that comes from other nodes."""
        return Act(src, self.labels if labels is None else labels, from_input=self.from_input)


def sourceless(labels: Labels) -> Act:
    """Data that comes from no node: a constant where data will be."""
    return Act(frozenset(), labels, from_input=False)


@dataclasses.dataclass(eq=False, slots=True)
class Cell:
    """A mutable array (`jax.new_ref`), or the argument of a kernel that is one.

    Attributes:
      value: what it holds now.
      shape: its shape.
    """

    value: "Value"
    shape: tuple[int, ...]


Value = Const | Weight | Joined | Refused | Act | Cell
"""What is known of a value of the jaxpr."""


def leaves_of(values: Iterable[Value]) -> tuple[int, ...]:
    """The parameter leaves in some values, each once."""
    found: dict[int, None] = {}
    for value in values:
        if isinstance(value, Refused):
            found.update(dict.fromkeys(value.leaves))
        elif isinstance(value, (Weight, Joined)):
            found.update(dict.fromkeys(value.leaves()))
    return tuple(found)


def refused(shape: Sequence[int], values: Iterable[Value], reason: str) -> Refused:
    """A value made of parameters that is followed no further."""
    values = tuple(values)
    earlier = next((value for value in values if isinstance(value, Refused)), None)
    return Refused(tuple(shape), leaves_of(values), earlier.reason if earlier else reason)
