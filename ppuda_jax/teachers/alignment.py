"""Permutes the channels of a trained network so that its parameters come close to others.

Weight matching (Ainsworth et al. 2022, "Git Re-Basin", arXiv 2209.04836, algorithm 1): one group of
channels after the other gets the best permutation while all others stay as they are, which is a
linear assignment; repeated until nothing changes. Here a first pass goes through the network from
the image on and uses only parameters whose other axes are settled, so that a permuted copy is found
exactly.

Legend: `n` channels of a group, `r` places of a channel along an axis, `e` other entries of a
parameter.
"""

import functools
import threading
from collections.abc import Sequence

import numpy as np
import threadpoolctl
from scipy.optimize import linear_sum_assignment

from ppuda_jax.teachers.distances import squared_scale
from ppuda_jax.teachers.groups import Axis, ChannelGroup

Leaves = Sequence[np.ndarray]
"""Parameters of a network in the order of `plan.params`."""

Permutations = Sequence[np.ndarray]
"""Of each group, int [n]: which channel comes to each place."""

# Products are small: threads of BLAS that wait for each other take ten times as long. Their number
# is one of the process, so that two matchings must not restore it in turns.
_ONE_AT_ONCE = threading.Lock()
_GAIN = 1e-9  # of the whole; a smaller one is rounding


def permute(
    groups: Sequence[ChannelGroup], leaves: Leaves, permutations: Permutations
) -> list[np.ndarray]:
    """Permutes the channels of a network, which computes the same.

    Args:
      groups: of the network, from `channel_groups`.
      leaves: its parameters, NumPy arrays in the order of `plan.params`.
      permutations: one of each group.

    Returns:
      The parameters, in the same order.

    Raises:
      ValueError: other groups than permutations, or no permutation of a group's size.
    """
    found = [np.asarray(leaf) for leaf in leaves]
    if len(groups) != len(permutations):
        raise ValueError(f"{len(groups)} groups need as many permutations, not {len(permutations)}")
    for number, (group, permutation) in enumerate(zip(groups, permutations, strict=True)):
        if not np.array_equal(np.sort(permutation), np.arange(group.size)):
            raise ValueError(
                f"group {number} needs a permutation of its {group.size} channels, received "
                f"{np.asarray(permutation).tolist()}"
            )
    for (param, axis), source in _sources(groups, permutations, found).items():
        found[param] = np.take(found[param], source, axis)
    return found


def weight_matching(
    groups: Sequence[ChannelGroup],
    reference: Leaves,
    leaves: Leaves,
    most_sweeps: int = 20,
) -> list[np.ndarray]:
    """Permutations that bring parameters close to a reference.

    Minimises what `regression` takes, squared distances of tensors relative to their scale; the
    result is no worse than none.

    Args:
      groups: of the network, from `channel_groups`.
      reference: parameters that stay, in the order of `plan.params`.
      leaves: parameters of the same shapes whose channels are permuted.
      most_sweeps: over all groups.

    Returns:
      A permutation of each group, for `permute`.

    Raises:
      ValueError: parameters of different shapes.
    """
    matching = _Matching(groups, reference, leaves)
    with _ONE_AT_ONCE, _threads().limit(limits=1, user_api="blas"):
        return matching.run(most_sweeps)


def aligned(groups: Sequence[ChannelGroup], reference: Leaves, leaves: Leaves) -> list[np.ndarray]:
    """Parameters whose channels are permuted so that they come close to a reference."""
    return permute(groups, leaves, weight_matching(groups, reference, leaves))


def random_permutations(groups: Sequence[ChannelGroup], seed: int) -> list[np.ndarray]:
    """A random permutation of each group."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(group.size) for group in groups]


@functools.cache
def _threads() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def _sources(
    groups: Sequence[ChannelGroup], permutations: Permutations, leaves: Leaves
) -> dict[tuple[int, int], np.ndarray]:
    """Of each permuted axis of a parameter, the index that comes to each place."""
    sources: dict[tuple[int, int], np.ndarray] = {}
    for group, permutation in zip(groups, permutations, strict=True):
        for param, axis, places in group.axes:
            length = leaves[param].shape[axis]
            source = sources.setdefault((param, axis), np.arange(length))
            source[places] = places[permutation]
    return sources


class _Matching:
    """Coordinate descent over the groups."""

    def __init__(self, groups: Sequence[ChannelGroup], reference: Leaves, leaves: Leaves) -> None:
        self.groups = groups
        self.reference = [np.asarray(leaf) for leaf in reference]
        self.leaves = [np.asarray(leaf) for leaf in leaves]
        shapes = [[leaf.shape for leaf in given] for given in (self.reference, self.leaves)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"networks that are matched must have the same parameters, received shapes "
                f"{shapes[0]} and {shapes[1]}"
            )
        scales = [squared_scale(leaf) for leaf in self.leaves]
        self.weights = [1.0 / scale if scale > 0 else 0.0 for scale in scales]
        identity = [np.arange(group.size) for group in groups]
        self.permutations: list[np.ndarray] = identity
        self.sources = _sources(groups, identity, self.leaves)
        self.groups_along: dict[tuple[int, int], set[int]] = {}
        for number, group in enumerate(groups):
            for param, axis, _ in group.axes:
                self.groups_along.setdefault((param, axis), set()).add(number)
        self.weighted_rows = functools.cache(self._weighted_rows)

    def run(self, most_sweeps: int) -> list[np.ndarray]:
        """See `weight_matching`."""
        as_it_is = self.product()
        for number in range(len(self.groups)):
            self.move(number, self.best(number, settled=number))
        if self.product() < as_it_is:
            for number, group in enumerate(self.groups):
                self.move(number, np.arange(group.size))
        least = _GAIN * (sum(weight > 0 for weight in self.weights) or 1)
        changed = set(range(len(self.groups)))  # those whose neighbours are not as they were
        for _ in range(most_sweeps):
            for number in sorted(changed):
                changed.discard(number)
                if self.improve(number, least):
                    changed |= self.neighbours(number)
            if not changed:
                break
        return self.permutations

    def neighbours(self, number: int) -> set[int]:
        """Groups whose best permutation depends on that of a group."""
        axes = self.groups[number].axes
        along = [self.groups_along.get((a.param, _other(a)), set()) for a in axes]
        return set().union(*along)

    def improve(self, number: int, least: float) -> bool:
        """Gives a group its best permutation; says whether that changed anything."""
        before, new = self.permutations[number], self.best(number)
        if np.array_equal(before, new):
            return False
        params = {axis.param for axis in self.groups[number].axes}
        product = self.product(params)
        self.move(number, new)
        # Where both axes of a parameter have the group, the assignment is only a good guess.
        if self.product(params) > product + least:
            return True
        self.move(number, before)
        return False

    def best(self, number: int, settled: int | None = None) -> np.ndarray:
        """The best permutation of a group while the others stay.

        Args:
          number: of the group.
          settled: use only parameters whose other axis has groups below this one; all if None.
        """
        axes = [
            index
            for index, axis in enumerate(self.groups[number].axes)
            if settled is None
            or all(o < settled for o in self.groups_along.get((axis.param, _other(axis)), ()))
        ]
        if not axes:
            return self.permutations[number]
        ours = np.concatenate([self.weighted_rows(number, index) for index in axes], axis=1)
        theirs = np.concatenate([self.rows(number, index) for index in axes], axis=1)
        products = ours @ theirs.T  # one product: small ones cost as much as large ones
        if not np.isfinite(products).all():  # what overflows has no order
            return self.permutations[number]
        return linear_sum_assignment(products, maximize=True)[1]

    def rows(self, number: int, index: int) -> np.ndarray:
        """Entries of each channel [n, r * e] along an axis, the other axis as permuted so far."""
        axis = self.groups[number].axes[index]
        other = (axis.param, _other(axis))
        leaf = self.leaves[axis.param]
        if other in self.sources:
            leaf = np.take(leaf, self.sources[other], other[1])
        return _along(leaf, axis)

    def _weighted_rows(self, number: int, index: int) -> np.ndarray:
        """The same of the reference, divided by the scale of the parameter."""
        axis = self.groups[number].axes[index]
        weight = self.reference[axis.param].dtype.type(self.weights[axis.param])
        return weight * _along(self.reference[axis.param], axis)

    def move(self, number: int, permutation: np.ndarray) -> None:
        """Gives a group a permutation."""
        self.permutations[number] = permutation
        for param, axis, places in self.groups[number].axes:
            self.sources[param, axis][places] = places[permutation]

    def product(self, params: set[int] | None = None) -> float:
        """Sum of inner products with the reference, divided by squared norms."""
        total = 0.0
        for param in range(len(self.leaves)) if params is None else sorted(params):
            leaf = self.leaves[param]
            for axis in (-2, -1):
                if (param, axis) in self.sources:
                    leaf = np.take(leaf, self.sources[param, axis], axis)
            total += self.weights[param] * float(np.vdot(self.reference[param], leaf))
        return total


def _along(leaf: np.ndarray, axis: Axis) -> np.ndarray:
    rows = np.moveaxis(leaf, axis.axis, 0)[axis.places]
    return rows.reshape(len(rows), -1)


def _other(axis: Axis) -> int:
    return -3 - axis.axis
