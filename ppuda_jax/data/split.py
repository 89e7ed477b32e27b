"""Splits that a set does not bring, made the same way each time.

Legend: `n` rows, `c` classes.
"""

from collections.abc import Sequence

import numpy as np

from ppuda_jax.data.order import spread_classes
from ppuda_jax.data.source import DatasetError

TEST_FRACTION = 0.2
"""Share of each class that is kept for testing where a set has no test images."""
_SEED = 0x5EED


def shuffled(labels: np.ndarray) -> np.ndarray:
    """An order of rows in which every stretch has the classes in the proportions of all: int [n].

    Args:
        labels: int32 [n].
    """
    order = np.random.default_rng(_SEED).permutation(len(labels))
    return spread_classes(order, labels)


def train_and_test(
    labels: np.ndarray, class_names: Sequence[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a fifth of each class, at least one image, for testing.

    Args:
        labels: int32 [n].
        class_names: [c].
        where: what messages call the set.

    Returns:
        Rows to train and to test on, each as `shuffled`.

    Raises:
        DatasetError: a class with fewer than two images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts, strict=True):
        if count < 2:
            raise DatasetError(
                f"{where}: class {name!r} needs at least 2 images to be split into train and test, "
                f"received {count}"
            )
    order = shuffled(labels)
    is_test = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        members = order[labels[order] == label]
        is_test[members[: max(1, round(count * TEST_FRACTION))]] = True
    return order[~is_test[order]], order[is_test[order]]


def check_classes(
    train: np.ndarray, test: np.ndarray, class_names: Sequence[str], where: str
) -> None:
    """Raises DatasetError unless there are two classes and each is in both parts.

    Args:
        train: int32 labels of the training rows.
        test: int32 labels of the test rows.
        class_names: [c].
        where: what messages call the set.
    """
    if len(class_names) < 2:
        raise DatasetError(
            f"{where}: an image-classification set has at least 2 classes, received "
            f"{', '.join(class_names) or 'none'}"
        )
    for part, labels in (("training", train), ("test", test)):
        missing = sorted(set(range(len(class_names))) - set(np.unique(labels).tolist()))
        if missing:
            names = ", ".join(repr(class_names[label]) for label in missing[:10])
            raise DatasetError(f"{where}: no {part} image of class {names}; add some")
