"""Rows of a source to arrays, in parallel, and what the arrays are like.

Legend: `n` images, `s` image side.
"""

import concurrent.futures
from collections.abc import Sequence

import numpy as np

from ppuda_jax.data.pixels import centre_square, to_rgb
from ppuda_jax.data.source import DatasetError, Rows
from ppuda_jax.data.spec import Channels
from ppuda_jax.runtime.processors import processors

_CHUNK = 250


def decode_rows(
    rows: Rows, indices: Sequence[int], size: int, short_side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes rows in parallel.

    Args:
        rows: of a source.
        indices: which of them; n.
        size: `s`.
        short_side: of the resized picture, of which the centre is cut.

    Returns:
        Images uint8 [n, s, s, 3] and labels int32 [n].

    Raises:
        DatasetError: a file or record that is damaged or no image; it is named.
    """
    images = np.empty((len(indices), size, size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)

    def decode(start: int) -> None:
        chunk = [int(index) for index in indices[start : start + _CHUNK]]
        for place, row in enumerate(rows.read(chunk), start):
            where = rows.where(chunk[place - start])
            image = to_rgb(row.picture, where)
            check_size(image, rows, where)
            images[place] = centre_square(image, size, short_side)
            labels[place] = row.label

    with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
        for _ in pool.map(decode, range(0, len(indices), _CHUNK)):
            pass  # raises what a chunk raised
    return images, labels


def check_size(image: np.ndarray, rows: Rows, where: str) -> None:
    """Raises DatasetError unless an image [h, w, 3] has the size that its set declares."""
    declared = rows.declared_size
    if any(want not in (None, got) for want, got in zip(declared, image.shape[:2], strict=True)):
        raise DatasetError(
            f"{where}: the set declares images of {declared[0]}x{declared[1]} pixels, received "
            f"{image.shape[0]}x{image.shape[1]}"
        )


def channel_statistics(images: np.ndarray, name: str) -> tuple[Channels, Channels, bool]:
    """Mean and standard deviation of each channel, and whether there are colours.

    Args:
        images: uint8 [n, s, s, 3].
        name: what messages call them.

    Returns:
        Means and deviations of images scaled to [0, 1]; whether any two channels differ.

    Raises:
        DatasetError: images of one colour.
    """
    counts = _value_counts(images)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    if std.min() < 1e-3:
        raise DatasetError(
            f"{name}: the training images are of one colour (standard deviations "
            f"{std.round(4).tolist()}); there is nothing to learn from"
        )
    return _channels(mean), _channels(std), not (counts == counts[0]).all()


def _value_counts(images: np.ndarray) -> np.ndarray:
    """How often each of 256 values occurs in uint8 [n, s, s, 3]: int64 [3, 256]; exact."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), _CHUNK):  # `bincount` makes int64 of its input
        chunk = images[start : start + _CHUNK]
        for channel in range(3):
            counts[channel] += np.bincount(chunk[..., channel].reshape(-1), minlength=256)
    return counts


def _channels(values: np.ndarray) -> Channels:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
