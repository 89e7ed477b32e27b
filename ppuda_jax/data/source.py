"""What an image set is before anything is decoded: rows of pictures with labels, and who they are.

Every kind of set (TFDS, folder, arrays, digits) becomes a `Source`; whatever follows (decoding,
resizing, statistics, splits, streaming) is written once for all of them.

Legend: `n` rows of a part.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

Picture = bytes | np.ndarray
"""An encoded image (PNG or JPEG), or pixels uint8 [height, width] or [height, width, channels]."""


class DatasetError(ValueError):
    """An image set that is damaged or is not what it says; names the file, folder or class."""


class Row(NamedTuple):
    """One picture and its class."""

    picture: Picture
    label: int


class Rows(Protocol):
    """Random access to the rows of one part; may be read by several threads.

    Attributes:
        declared_size: height and width that the set says its images have; None where they vary.
    """

    declared_size: tuple[int | None, ...]

    def __len__(self) -> int:
        """N."""
        ...

    def read(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, in that order.

        Raises:
            DatasetError: a damaged file, which is named.
        """
        ...

    def where(self, index: int) -> str:
        """Names a row in messages: its file, and its place there."""
        ...


@dataclasses.dataclass(frozen=True)
class Source:
    """An image set as it was found.

    Attributes:
        class_names: name of each class; the label is the position.
        fingerprint: differs where the contents differ; cheap to compute.
        train: rows that networks may learn from. Those at the end are held out for validation, so
            they are not sorted by class.
        test: rows that they are tested on.
    """

    class_names: tuple[str, ...]
    fingerprint: str
    train: Rows
    test: Rows


class ArrayRows:
    """Rows that are arrays in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str) -> None:
        """Wraps arrays.

        Args:
            images: uint8 [n, h, w] or [n, h, w, channels].
            labels: int32 [n].
            name: what messages call them.
        """
        self._images, self._labels, self._name = images, labels, name
        self.declared_size: tuple[int | None, ...] = images.shape[1:3]

    def __len__(self) -> int:
        return len(self._labels)

    def where(self, index: int) -> str:
        """Names the arrays and the row."""
        return f"{self._name}, row {index}"

    def read(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, in that order."""
        return [Row(self._images[i], int(self._labels[i])) for i in indices]
