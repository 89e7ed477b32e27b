"""ImageNet, streamed: decoded and augmented by threads on the host, ahead of the training step.

Training images: random crop of 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3, resized to
224, flipped, colours jittered by (0.4, 0.4, 0.4, 0.2); evaluation images: resized to 256, centre
crop of 224. As in the paper, 50,000 of the training images are held out for validation.

Every choice is drawn from (seed, step, position in the batch), so that a step's batch does not
depend on the steps before it.
"""

import collections
import concurrent.futures
import math
from typing import Any

import numpy as np

from ppuda_jax.data import images as images_lib
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.runtime.processors import processors

HELD_OUT = 50_000
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_JITTER = (0.4, 0.4, 0.4, 0.2)  # brightness, contrast, saturation, hue
_EVAL_RESIZE = 256


class ImageNetStream:
    """Random access to training batches by step, with the next ones decoded in the background."""

    def __init__(
        self,
        source: Any,
        num_images: int,
        batch_size: int,
        seed: int,
        *,
        threads: int | None = None,
        prefetch: int = 4,
    ) -> None:
        """Wraps a data source.

        Args:
            source: sequence of {"image": JPEG bytes, "label": int}; the first `num_images` count.
            num_images: training images, the held-out ones excluded.
            batch_size: images of a batch, `b`.
            seed: of the order and the augmentation.
            threads: decoding threads; the number of cores if not given.
            prefetch: batches decoded ahead.
        """
        self._source, self._seed, self._prefetch = source, seed, prefetch
        self._order = ImageOrder(num_images, batch_size, seed)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or processors())
        self._pending: collections.OrderedDict[int, list[Any]] = collections.OrderedDict()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (images uint8 [b, 224, 224, 3], labels int32 [b]) of a step."""
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

    def _submit(self, step: int) -> list[Any]:
        indices = self._order.batch(step)
        return [
            self._pool.submit(self._load, int(index), step, position)
            for position, index in enumerate(indices)
        ]

    def _load(self, index: int, step: int, position: int) -> tuple[np.ndarray, int]:
        row = self._source[index]
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, step, position)))
        return training_image(row["image"], rng), int(row["label"])


def open_training(
    data_dir: str | None, batch_size: int, seed: int, **options: Any
) -> tuple[ImageNetStream, int]:
    """Opens the training images: (stream, number of them without the held-out ones).

    Raises:
        FileNotFoundError: no prepared data set and none to be downloaded.
    """
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    source = images_lib.open_source("imagenet", "train", data_dir, decoders)
    count = len(source) - HELD_OUT
    if count < batch_size:
        raise ValueError(
            f"imagenet: expected 1,281,167 training images, found {len(source)}; is another "
            f"dataset in this folder?"
        )
    return ImageNetStream(source, count, batch_size, seed, **options), count


def training_image(data: bytes, rng: np.random.Generator, size: int = 224) -> np.ndarray:
    """Decodes and augments one training image: uint8 [size, size, 3]."""
    from PIL import Image

    image = Image.fromarray(images_lib.decode_image(data))
    box = _crop_box(image.width, image.height, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_jitter(image, rng))


def evaluation_image(data: bytes, size: int = 224) -> np.ndarray:
    """Decodes, resizes the short side to 256, cuts the centre: uint8 [size, size, 3]."""
    from PIL import Image

    image = Image.fromarray(images_lib.decode_image(data))
    scale = _EVAL_RESIZE / min(image.width, image.height)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


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


def _jitter(image: Any, rng: np.random.Generator) -> Any:
    """Brightness, contrast, saturation and hue by random factors, in random order."""
    from PIL import Image, ImageEnhance

    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = [rng.uniform(1 - j, 1 + j) for j in _JITTER[:3]]
    shift = int(rng.uniform(-_JITTER[3], _JITTER[3]) * 255)
    for which in rng.permutation(4):
        if which < 3:
            image = enhancers[which](image).enhance(factors[which])
        else:
            hue, saturation, value = image.convert("HSV").split()
            turned = (np.asarray(hue, np.int16) + shift).astype(np.uint8)
            parts = (Image.fromarray(turned), saturation, value)
            image = Image.merge("HSV", parts).convert("RGB")
    return image
