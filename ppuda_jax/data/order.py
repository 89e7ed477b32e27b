"""The order in which training images are seen: endless passes, each in an order of its own.

Legend: `n` images of the training set, `b` images of a batch.
"""

import functools

import numpy as np


class ImageOrder:
    """Which images a step sees; a pure function of the step and the arguments.

    Any step can be continued from without going through those before it. A batch may reach over
    the end of a pass.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> None:
        """Fixes the order.

        Args:
            num_images: n.
            batch_size: b.
            seed: another order for each.
            labels: int32 [n]; where given, passes are stratified: every stretch of a pass has
                the classes in the proportions of the whole set, to within rounding.

        Raises:
            ValueError: a batch larger than the set.
        """
        if batch_size > num_images:
            raise ValueError(
                f"batch_size must be at most {num_images} images, received {batch_size}"
            )
        self.num_images, self.batch_size = num_images, batch_size
        self._seed, self._labels = seed, labels
        self._pass = functools.lru_cache(maxsize=2)(self._draw)

    def batch(self, step: int) -> np.ndarray:
        """Indices int32 [b] of the images of one step."""
        epoch, offset = divmod(step * self.batch_size, self.num_images)
        indices = self._pass(epoch)[offset : offset + self.batch_size]
        if len(indices) < self.batch_size:
            rest = self._pass(epoch + 1)[: self.batch_size - len(indices)]
            indices = np.concatenate([indices, rest])
        return indices

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch, 0x1A6E)))
        order = rng.permutation(self.num_images).astype(np.int32)
        if self._labels is None:
            return order
        return spread_classes(order, self._labels)


def spread_classes(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Moves rows so that every stretch has the classes in the proportions of all.

    Args:
        order: int [n], a permutation; rows of a class keep theirs.
        labels: int32 [n], by row.

    Returns:
        int [n].
    """
    # The k-th of a class with m images stands at (k + 1/2) / m of the whole.
    place = np.empty(len(order))
    sorted_labels = labels[order]
    for label in np.unique(sorted_labels):
        members = np.flatnonzero(sorted_labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]
