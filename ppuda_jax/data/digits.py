"""scikit-learn's digits, the set that needs no files."""

import functools
from collections.abc import Sequence

import numpy as np

from ppuda_jax.data.source import ArrayRows, Source

_ENLARGED = 4  # 8x8 to 32x32


@functools.cache
def open_digits() -> Source:
    """The 1,797 digits, enlarged from 8x8 to 32x32; every fifth is a test image."""
    from sklearn import datasets

    digits = datasets.load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = small.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)
    labels = digits.target.astype(np.int32)
    is_test = np.arange(len(images)) % 5 == 4

    def rows(chosen: Sequence[bool]) -> ArrayRows:
        return ArrayRows(images[chosen], labels[chosen], "scikit-learn's digits")

    return Source(tuple("0123456789"), "digits", rows(~is_test), rows(is_test))
