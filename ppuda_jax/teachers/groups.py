"""Which channels of a network may change places without changing what it computes.

A permutation of the channels that an operation writes is undone by the same permutation of what its
readers expect. Operations tie channels to each other: sums those of all terms, depthwise
convolutions, norms, pools and gates what they read to what they write, a factorised reduction and a
concatenation those of their parts to pieces of the whole. Channels that are tied to the image, to
the classes or to absent states stay where they are, and so do those that are tied to each other.

Legend: `n` channels of a group, `r` places of a channel along an axis of a parameter.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from ppuda_jax.archs.op_params import MLP_REDUCTION, op_params
from ppuda_jax.archs.plan import Op, Plan
from ppuda_jax.nets.ops import HEADS


class Axis(NamedTuple):
    """Where the channels of a group lie in one parameter.

    Attributes:
      param: number of the parameter in `plan.params`.
      axis: of the parameter, counted from the end.
      places: int [n, r], indices along the axis; r is above one where a channel has several.
    """

    param: int
    axis: int
    places: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that may change places with each other, in all parameters at once.

    Attributes:
      axes: all places where they lie.
    """

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number n of channels."""
        return len(self.axes[0].places)


def channel_groups(plan: Plan) -> tuple[ChannelGroup, ...]:
    """Finds the groups of a network, in the order in which they are first written.

    Args:
      plan: the network.
    """
    channels = _Channels(plan)
    for op in plan.ops:
        channels.add(op)
    return channels.groups()


_Slots = np.ndarray
"""Numbers of channels along an axis, int [channels]; a number may occur more than once."""

_Marks = Mapping[int, _Slots]
"""The axes of one parameter that have channels."""


class _Channels:
    """Numbers the channels that operations write, and notes which are the same."""

    def __init__(self, plan: Plan) -> None:
        self._last = plan.ops[-1]
        self._blocks: list[int] = []  # of each channel, where it was first written
        self._fixed: list[_Slots] = []
        self._ties: list[tuple[_Slots, _Slots]] = []
        self._marks: list[_Marks] = []
        self._num_blocks = 0
        self._values = {0: self.new(plan.value_channels[0], fixed=True)}

    def new(self, count: int, fixed: bool = False) -> _Slots:
        """Channels that are written for the first time."""
        slots = np.arange(len(self._blocks), len(self._blocks) + count)
        self._blocks += [self._num_blocks] * count
        self._num_blocks += 1
        if fixed:
            self._fixed.append(slots)
        return slots

    def of(self, value: int) -> _Slots:
        """Channels of a value of the plan."""
        return self._values[value]

    def add(self, op: Op) -> None:
        """Follows the channels through an operation."""
        output, marks = _RULES[op.kind](self, op, self.of(op.inputs[0]))
        self._values[op.output] = output
        self._marks += marks
        expected = len(op_params(op))
        if len(marks) != expected:
            raise ValueError(f"{op.kind} has {expected} parameters, {len(marks)} were followed")

    def is_last(self, op: Op) -> bool:
        """Whether an operation writes the logits."""
        return op is self._last

    def tie(self, first: _Slots, second: _Slots) -> None:
        """Notes that channels are the same, one by one."""
        self._ties.append((first, second))

    def groups(self) -> tuple[ChannelGroup, ...]:
        """See `channel_groups`."""
        class_of = self._classes()
        group_of, place_of, count = self._grouped(class_of)
        axes: list[list[Axis]] = [[] for _ in range(count)]
        for param, marks in enumerate(self._marks):
            for axis, slots in marks.items():
                classes = class_of[slots]
                owner = group_of[classes]
                for group in np.unique(owner[owner >= 0]).tolist():
                    places = np.flatnonzero(owner == group)
                    # A channel's places one after another, in the order of the axis.
                    order = np.argsort(place_of[classes[places]], kind="stable")
                    size = int(np.count_nonzero(group_of == group))
                    found = places[order].reshape(size, -1)
                    axes[group].append(Axis(param, axis, found))
        return tuple(ChannelGroup(tuple(found)) for found in axes if found)

    def _classes(self) -> np.ndarray:
        """Class int [channels]: channels of one class are the same channel."""
        count = len(self._blocks)
        if not self._ties:
            return np.arange(count)
        first, second = (np.concatenate(ends) for ends in zip(*self._ties, strict=True))
        graph = scipy.sparse.coo_array((np.ones(len(first)), (first, second)), (count, count))
        return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]

    def _grouped(self, class_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Group int [classes], -1 for none; place in it int [classes]; number of groups.

        Classes that lie in the same blocks may change places, as each has one channel in each.
        """
        count = int(class_of.max()) + 1
        members: list[list[int]] = [[] for _ in range(count)]
        for slot, owner in enumerate(class_of.tolist()):
            members[owner].append(slot)
        fixed = set(class_of[np.concatenate(self._fixed)].tolist())
        known: dict[tuple[int, ...], list[int]] = {}
        for owner in sorted(range(count), key=lambda c: members[c][0]):
            blocks = tuple(sorted(self._blocks[slot] for slot in members[owner]))
            if owner not in fixed and len(set(blocks)) == len(blocks):
                known.setdefault(blocks, []).append(owner)
        group_of, place_of = np.full(count, -1), np.zeros(count, int)
        groups = [classes for classes in known.values() if len(classes) > 1]
        for group, classes in enumerate(groups):
            group_of[classes], place_of[classes] = group, np.arange(len(classes))
        return group_of, place_of, len(groups)


_Followed = tuple[_Slots, Sequence[_Marks]]
"""Channels that an operation writes, and those of its parameters."""


def _kernel(inputs: _Slots, outputs: _Slots) -> _Marks:
    return {-2: inputs, -1: outputs}


def _vector(channels: _Slots) -> _Marks:
    """A bias, half a norm, a depthwise kernel, or a positional encoding."""
    return {-1: channels}


def _norm(op: Op, channels: _Slots) -> list[_Marks]:
    return [_vector(channels)] * 2 if op.norm else []


def _conv(c: _Channels, op: Op, x: _Slots) -> _Followed:
    out = c.new(op.c_out)
    return out, [_kernel(x, out), *_norm(op, out)]


def _factorized_conv(c: _Channels, op: Op, x: _Slots) -> _Followed:
    between, out = c.new(op.c_in), c.new(op.c_out)
    return out, [_kernel(x, between), _kernel(between, out), *_norm(op, out)]


def _dil_conv(c: _Channels, op: Op, x: _Slots) -> _Followed:
    out = c.new(op.c_out)
    return out, [_vector(x), _kernel(x, out), *_norm(op, out)]


def _sep_conv(c: _Channels, op: Op, x: _Slots) -> _Followed:
    between, out = c.new(op.c_in), c.new(op.c_out)
    first = [_vector(x), _kernel(x, between), *_norm(op, between)]
    return out, [*first, _vector(between), _kernel(between, out), *_norm(op, out)]


def _factorized_reduce(c: _Channels, op: Op, x: _Slots) -> _Followed:
    halves = [c.new(op.c_out // 2), c.new(op.c_out // 2)]
    out = np.concatenate(halves)
    return out, [*(_kernel(x, half) for half in halves), *_norm(op, out)]


def _patch_conv(c: _Channels, op: Op, x: _Slots) -> _Followed:
    out = c.new(op.c_out)
    return out, [_kernel(x, out)]


def _pos_enc(c: _Channels, op: Op, x: _Slots) -> _Followed:
    return x, [_vector(x)]


def _cse(c: _Channels, op: Op, x: _Slots) -> _Followed:
    hidden = c.new(op.c_in // MLP_REDUCTION)
    return x, [_kernel(x, hidden), _vector(hidden), _kernel(hidden, x), _vector(x)]


def _msa(c: _Channels, op: Op, x: _Slots) -> _Followed:
    """Heads stay where they are; within one, queries and keys change places together."""
    depth = op.c_in // HEADS
    query = np.concatenate([c.new(depth) for _ in range(HEADS)])
    value = np.concatenate([c.new(depth) for _ in range(HEADS)])
    hidden = c.new(op.c_out)
    attention = [_kernel(x, np.concatenate([query, query, value])), _kernel(value, x), _vector(x)]
    feed_forward = [_kernel(x, hidden), _vector(hidden), _kernel(hidden, x), _vector(x)]
    norm = [_vector(x)] * 2
    return x, [*norm, *attention, *norm, *feed_forward]


def _dense(c: _Channels, op: Op, x: _Slots) -> _Followed:
    out = c.new(op.c_out, fixed=c.is_last(op))
    return out, [_kernel(x, out), _vector(out)]


def _flatten(c: _Channels, op: Op, x: _Slots) -> _Followed:
    return np.repeat(x, op.h_in**2), []


def _concat(c: _Channels, op: Op, x: _Slots) -> _Followed:
    width = op.c_out // len(op.concat_slots)
    slots = [c.new(width, fixed=True) if v is None else c.of(v) for v in op.concat_slots]
    return np.concatenate(slots), []


def _sum(c: _Channels, op: Op, x: _Slots) -> _Followed:
    for value in op.inputs[1:]:
        c.tie(x, c.of(value))
    return x, []


def _same(c: _Channels, op: Op, x: _Slots) -> _Followed:
    return x, []


_SAME = ("stem_pool", "max_pool_3x3", "avg_pool_3x3", "subsample", "global_pool")

_RULES: Mapping[str, Callable[[_Channels, Op, _Slots], _Followed]] = MappingProxyType(
    {
        "stem_conv": _conv,
        "preprocess": _conv,
        **{f"conv_{k}x{k}": _conv for k in (1, 3, 5, 7)},
        "conv_7x1_1x7": _factorized_conv,
        **{f"sep_conv_{k}x{k}": _sep_conv for k in (3, 5)},
        **{f"dil_conv_{k}x{k}": _dil_conv for k in (3, 5)},
        "factorized_reduce": _factorized_reduce,
        "patch_conv": _patch_conv,
        "pos_enc": _pos_enc,
        "cse": _cse,
        "msa": _msa,
        "dense": _dense,
        "flatten": _flatten,
        "concat": _concat,
        "sum": _sum,
        **dict.fromkeys(_SAME, _same),
    }
)
