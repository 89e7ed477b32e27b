"""From a stream of architectures to meta-batches that one compiled program can run.

Every meta-batch holds networks of one executor variant. Architectures join their variant's queue
in stream order; M of them make a meta-batch. Which one comes next is a pure function of the
stream, so a run is resumed from the stream position and the architectures that still wait.

Legend: `M` networks of a meta-batch.
"""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np


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


@dataclasses.dataclass(frozen=True)
class Group:
    """M networks of one variant: `indices` [M], in stream order.

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
    ) -> None:
        """Starts at a position of the stream.

        Args:
            meta_batch_size: M.
            max_nodes: a meta-batch with more graph nodes is dropped (2200 as published).
            shares: variants that are trained on, with the share of their networks that is taken;
                others are skipped and counted. All networks of all variants if not given.
            state: position to continue from; its pending architectures must be fed again first.
        """
        state = state or GroupingState()
        self._size, self._max_nodes = meta_batch_size, max_nodes
        self._shares = shares
        self._waiting: dict[Hashable, list[Survey]] = {}
        self._next, self._unfit = state.next_index, state.unfit_skipped
        self._rare, self._large = state.rare_skipped, state.large_skipped

    def feed(self, survey: Survey) -> Group | None:
        """Takes the next architecture; returns a group if it completes one.

        Raises:
            ValueError: the architectures do not come in stream order.
        """
        self._next = max(self._next, survey.index + 1)
        if not self._is_taken(survey):
            self._rare += 1
            return None
        waiting = self._waiting.setdefault(survey.variant, [])
        if waiting and waiting[-1].index >= survey.index:
            raise ValueError(
                f"architectures must be fed in stream order, received {survey.index} after "
                f"{waiting[-1].index}"
            )
        waiting.append(survey)
        if len(waiting) < self._size:
            return None
        self._waiting[survey.variant] = []
        if sum(s.num_nodes for s in waiting) > self._max_nodes:
            self._large += 1
            return None
        return Group(survey.variant, tuple(s.index for s in waiting), self.state())

    def _is_taken(self, survey: Survey) -> bool:
        """Draws by the architecture's index, so that a resumed stream decides the same."""
        share = 1.0 if self._shares is None else self._shares.get(survey.variant, 0.0)
        return share >= 1.0 or np.random.default_rng((survey.index, 0x7A1C)).random() < share

    def state(self) -> GroupingState:
        """Position of the stream, from which a new `Grouping` continues."""
        waiting = sorted(s.index for queue in self._waiting.values() for s in queue)
        return GroupingState(self._next, tuple(waiting), self._rare, self._large, self._unfit)
