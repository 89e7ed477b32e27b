"""From a stream of architectures to meta-batches that one compiled program can run.

Where a program runs one executor variant, a meta-batch holds networks of one: architectures join
their variant's queue in stream order, and M of them make a meta-batch. Otherwise all are in one
queue. Which meta-batch comes next is a pure function of the stream, so a run is resumed from the
stream position and the architectures that still wait.

Legend: `M` networks of a meta-batch.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

_PUBLISHED_SIZE = 8  # networks of the meta-batches that the published limit of nodes is for
_MOST_DROPPED_GROUPS = 200
_MOST_SKIPPED_NETWORKS = 20_000


class StreamError(ValueError):
    """A stream of architectures from which no meta-batch comes with these settings."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of an architecture before it is built.

    Attributes:
        index: position in the architecture stream.
        variant: executor variant that runs it, the static class of its programs.
        num_nodes: nodes of its graph.
    """

    index: int
    variant: Hashable
    num_nodes: int


@dataclasses.dataclass(frozen=True)
class GroupingState:
    """Where the stream stands; JSON-ready through `to_dict`.

    Attributes:
        next_index: first architecture that was not looked at.
        pending: architectures that wait for others of their variant, in stream order.
        rare_skipped: architectures left out because their variant is not trained on, or not on all
            of its networks.
        large_skipped: meta-batches left out because of their number of nodes.
        unfit_skipped: meta-batches left out because they had no room for their networks.
    """

    next_index: int = 0
    pending: tuple[int, ...] = ()
    rare_skipped: int = 0
    large_skipped: int = 0
    unfit_skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "pending": list(self.pending)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GroupingState":
        """Inverse of `to_dict`; raises ValueError on other keys."""
        known = {f.name for f in dataclasses.fields(cls)}
        if set(values) != known:
            raise ValueError(
                f"stream position must have the keys {sorted(known)}, received {sorted(values)}"
            )
        return cls(**{**values, "pending": tuple(values["pending"])})


def balanced_shares(counts: Mapping[Hashable, int], balance: float) -> dict[Hashable, float]:
    """Shares of networks to take so that the frequencies of variants become more even.

    Args:
        counts: variant -> how many networks of a sample it has, all above zero.
        balance: exponent; 0 takes every network, 1 as many of each variant.

    Returns:
        variant -> (least count / count) ** balance.
    """
    least = min(counts.values(), default=1)
    return {variant: (least / count) ** balance for variant, count in counts.items()}


def node_limit(max_nodes: int, meta_batch_size: int) -> float:
    """Most graph nodes of a meta-batch.

    The published code leaves out meta-batches of 8 networks with more than 2200 nodes, about 7 %
    of them; no meta-batch of 24 networks is below that. Larger ones therefore get as many nodes
    per network. Smaller ones keep the number as it is, or a network alone would be left out for
    being larger than the average of eight. Devices do not enter: how many there are may change
    when a run is resumed, what it trains on may not.

    Args:
        max_nodes: most nodes of meta-batches of up to 8 networks.
        meta_batch_size: M, over all devices.
    """
    return max_nodes * max(1.0, meta_batch_size / _PUBLISHED_SIZE)


@dataclasses.dataclass(frozen=True)
class Group:
    """M networks: `indices` [M], in stream order; their variant, None where any may be together.

    `state` is the position of the stream once this group has been taken.
    """

    variant: Hashable
    indices: tuple[int, ...]
    state: GroupingState


class Grouping:
    """Collects surveyed architectures into meta-batches; deterministic."""

    def __init__(
        self,
        meta_batch_size: int,
        max_nodes: int,
        shares: Mapping[Hashable, float] | None = None,
        state: GroupingState | None = None,
        *,
        mixed: bool = False,
    ) -> None:
        """Starts at a position of the stream.

        Args:
            meta_batch_size: M.
            max_nodes: a meta-batch with more graph nodes is dropped; see `node_limit`.
            shares: variants that are trained on, with the share of their networks that is taken;
                others are skipped and counted. All networks of all variants if not given.
            state: position to continue from; its pending architectures must be fed again first.
            mixed: whether networks of several variants may be in a meta-batch.
        """
        state = state or GroupingState()
        self._size, self._max_nodes = meta_batch_size, max_nodes
        self._node_limit = node_limit(max_nodes, meta_batch_size)
        self._shares, self._mixed = shares, mixed
        self._unfed = set(state.pending)
        self._waiting: dict[Hashable, list[Survey]] = {}
        self._next, self._unfit = state.next_index, state.unfit_skipped
        self._rare, self._large = state.rare_skipped, state.large_skipped
        # Without interruption; a new session counts afresh, as other settings may have mended it.
        self._rare_in_a_row = self._large_in_a_row = 0
        self._smallest_dropped: int | None = None

    def feed(self, survey: Survey) -> Group | None:
        """Takes the next architecture; returns a group if it completes one.

        Raises:
            ValueError: the architectures do not come in stream order.
            StreamError: so many were left out without interruption that no meta-batch will come.
        """
        self._next = max(self._next, survey.index + 1)
        self._unfed.discard(survey.index)
        if not self._is_taken(survey):
            self._skip_rare()
            return None
        self._rare_in_a_row = 0
        queue = None if self._mixed else survey.variant
        waiting = self._waiting.setdefault(queue, [])
        if waiting and waiting[-1].index >= survey.index:
            raise ValueError(
                f"architectures must be fed in stream order, received {survey.index} after "
                f"{waiting[-1].index}"
            )
        waiting.append(survey)
        if len(waiting) < self._size:
            return None
        self._waiting[queue] = []
        num_nodes = sum(s.num_nodes for s in waiting)
        if num_nodes > self._node_limit:
            self._drop_large(num_nodes)
            return None
        self._large_in_a_row, self._smallest_dropped = 0, None
        return Group(queue, tuple(s.index for s in waiting), self.state())

    def _skip_rare(self) -> None:
        self._rare += 1
        self._rare_in_a_row += 1
        if self._rare_in_a_row >= _MOST_SKIPPED_NETWORKS:
            wanted = ", ".join(map(str, self._shares or ())) or "none at all"
            raise StreamError(
                f"the stream must have networks of the executor variants that are trained on, "
                f"received {self._rare_in_a_row} others in a row; raise max_variants or "
                f"probe_archs (trained on: {wanted})"
            )

    def _drop_large(self, num_nodes: int) -> None:
        self._large += 1
        self._large_in_a_row += 1
        least = min(num_nodes, self._smallest_dropped or num_nodes)
        self._smallest_dropped = least
        if self._large_in_a_row >= _MOST_DROPPED_GROUPS:
            scale = self._node_limit / self._max_nodes
            raise StreamError(
                f"a meta-batch of {self._size} networks must have at most {self._node_limit:.0f} "
                f"graph nodes, received {self._large_in_a_row} with {least} or more in a row; "
                f"raise max_nodes to {math.ceil(1.2 * least / scale)} or lower meta_batch_size"
            )

    def _is_taken(self, survey: Survey) -> bool:
        """Draws by the architecture's index, so that a resumed stream decides the same."""
        share = 1.0 if self._shares is None else self._shares.get(survey.variant, 0.0)
        return share >= 1.0 or np.random.default_rng((survey.index, 0x7A1C)).random() < share

    def state(self) -> GroupingState:
        """Position of the stream, from which a new `Grouping` continues."""
        waiting = [s.index for queue in self._waiting.values() for s in queue]
        pending = tuple(sorted([*waiting, *self._unfed]))
        return GroupingState(self._next, pending, self._rare, self._large, self._unfit)
