"""Sets that do not fit in memory: decoded and augmented by threads, ahead of the training step.

Training images, as the paper does with ImageNet: random crop of 8 to 100 % of the area at an aspect
ratio of 3/4 to 4/3, resized, flipped, colours jittered by (0.4, 0.4, 0.4, 0.2).

Every choice is drawn from (seed, step, position in the batch), so that a step's batch does not
depend on the steps before it.

Legend: `b` images of a batch, `s` image side.
"""

import collections
import concurrent.futures
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from ppuda_jax.data.decoding import check_size
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.data.pixels import to_rgb
from ppuda_jax.data.source import Rows
from ppuda_jax.runtime.processors import processors

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_JITTER = (0.4, 0.4, 0.4, 0.2)  # brightness, contrast, saturation, hue

_Decoded = concurrent.futures.Future[tuple[np.ndarray, int]]


class ImageStream:
    """Random access to training batches by step, with the next ones decoded in the background."""

    def __init__(
        self,
        rows: Rows,
        num_images: int,
        batch_size: int,
        seed: int,
        image_size: int = 224,
        *,
        flip: bool = True,
        threads: int | None = None,
        prefetch: int = 4,
    ) -> None:
        """Wraps the training rows of a set.

        Args:
            rows: pictures and labels; the first `num_images` count.
            num_images: training images, the held-out ones excluded.
            batch_size: `b`.
            seed: of the order and the augmentation.
            image_size: `s`.
            flip: whether images are mirrored with probability one half.
            threads: decoding threads; the number of cores if not given.
            prefetch: batches decoded ahead.

        Raises:
            ValueError: fewer images than a batch.
        """
        self._rows, self._seed, self._prefetch = rows, seed, prefetch
        self._size, self._flip = image_size, flip
        self._order = ImageOrder(num_images, batch_size, seed)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or processors())
        self._pending: collections.OrderedDict[int, list[_Decoded]] = collections.OrderedDict()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (images uint8 [b, s, s, 3], labels int32 [b]) of a step.

        Raises:
            DatasetError: a damaged file or record, which is named.
        """
        for ahead in range(step, step + self._prefetch + 1):
            if ahead not in self._pending:
                self._pending[ahead] = self._submit(ahead)
        rows = [future.result() for future in self._pending.pop(step)]
        for stale in [s for s in self._pending if s < step]:
            del self._pending[stale]
        images, labels = zip(*rows, strict=True)
        return np.stack(images), np.asarray(labels, np.int32)

    def close(self) -> None:
        """Stops the decoding threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, step: int) -> list[_Decoded]:
        indices: Sequence[int] = self._order.batch(step).tolist()
        return [
            self._pool.submit(self._load, index, step, position)
            for position, index in enumerate(indices)
        ]

    def _load(self, index: int, step: int, position: int) -> tuple[np.ndarray, int]:
        (row,) = self._rows.read([index])
        where = self._rows.where(index)
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, step, position)))
        image = to_rgb(row.picture, where)
        check_size(image, self._rows, where)
        return training_image(image, rng, self._size, flip=self._flip), row.label


def training_image(
    image: np.ndarray, rng: np.random.Generator, size: int = 224, *, flip: bool = True
) -> np.ndarray:
    """Augments one training image.

    Args:
        image: uint8 [h, w, 3].
        rng: drawn from.
        size: `s`.
        flip: whether it may be mirrored.

    Returns:
        uint8 [s, s, 3].
    """
    picture = Image.fromarray(image)
    box = _crop_box(picture.width, picture.height, rng)
    picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5 and flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_jitter(picture, rng))


def _crop_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Random box (left, top, right, bottom); the largest allowed centre box after ten misses."""
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue by random factors, in random order."""
    factors = [rng.uniform(1 - j, 1 + j) for j in _JITTER[:3]]
    turn = rng.uniform(-_JITTER[3], _JITTER[3])
    for which in rng.permutation(4):
        if which == 3:
            image = turn_hue(image, turn)
        else:
            image = _ENHANCERS[which](image).enhance(factors[which])
    return image


_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Moves all hues around the circle by a fraction of it, saturation and value kept."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int16) + int(turn * 255)).astype(np.uint8)
    parts = (Image.fromarray(turned), saturation, value)
    return Image.merge("HSV", parts).convert("RGB")
