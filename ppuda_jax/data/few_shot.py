"""Few images per class, the first or drawn ones (paper, appendix C.4)."""

import dataclasses
from typing import Literal

import numpy as np

from ppuda_jax.data.images import ImageArrays


def few_shot(
    images: ImageArrays, shots: int, order: Literal["file", "seeded"] = "file", seed: int = 0
) -> ImageArrays:
    """A part with so many images of each class.

    Args:
      images: training images.
      shots: images per class.
      order: the first ones in the order of the file, as published, or drawn by `seed`.
      seed: of the draw.

    Returns:
      The images, in the order in which they were.

    Raises:
      ValueError: fewer than one shot, or a class with fewer images.
    """
    classes = images.spec.num_classes
    counts = np.bincount(images.labels, minlength=classes)
    if not 1 <= shots <= counts.min():
        raise ValueError(
            f"shots must lie in 1 ... {counts.min()}, the images of class {counts.argmin()} of "
            f"{images.spec.name}, received {shots}"
        )
    rng = np.random.default_rng(seed)
    rows = np.arange(len(images.labels)) if order == "file" else rng.permutation(len(images.labels))
    taken = [rows[images.labels[rows] == label][:shots] for label in range(classes)]
    chosen = np.sort(np.concatenate(taken))
    return dataclasses.replace(images, images=images.images[chosen], labels=images.labels[chosen])
