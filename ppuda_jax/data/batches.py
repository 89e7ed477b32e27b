"""What a training step gets of the images, whether they live on the device or are streamed.

Legend: `n` images of the training set, `b` images of a batch, `s` image side.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from ppuda_jax.data import imagenet
from ppuda_jax.data import images as images_lib
from ppuda_jax.data.order import ImageOrder

LoadFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]
"""(resident, batch, key) -> (images float32 [b, s, s, 3], labels int32 [b]); picklable."""


class TrainingImages(Protocol):
    """Training images by step.

    Attributes:
        spec: the dataset.
        num_images: images in one pass.
        resident: pytree of arrays that stay on the device for the whole run, or ().
    """

    spec: images_lib.DatasetSpec
    num_images: int
    resident: Any

    def batch(self, step: int) -> Any:
        """Pytree of NumPy arrays that is handed to `load` for this step; pure in `step`."""

    @property
    def load(self) -> LoadFn:
        """Traced inside the training step."""


@dataclasses.dataclass(frozen=True)
class ResidentImages:
    """Images on the device; a step names them by index and augments them there."""

    spec: images_lib.DatasetSpec
    resident: tuple[np.ndarray, np.ndarray]
    order: ImageOrder

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return self.order.num_images

    def batch(self, step: int) -> np.ndarray:
        """Indices int32 [b]."""
        return self.order.batch(step)

    @property
    def load(self) -> LoadFn:
        """What turns a batch into images inside the step."""
        return functools.partial(_load_resident, self.spec)


@dataclasses.dataclass(frozen=True)
class StreamedImages:
    """Images decoded and augmented on the host; the step only normalises them."""

    spec: images_lib.DatasetSpec
    stream: imagenet.ImageNetStream
    num_images: int
    resident: tuple[()] = ()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(images uint8 [b, s, s, 3], labels int32 [b])."""
        return self.stream.batch(step)

    @property
    def load(self) -> LoadFn:
        """What turns a batch into images inside the step."""
        return functools.partial(_load_streamed, self.spec)


def _load_resident(
    spec: images_lib.DatasetSpec, resident: Any, batch: Any, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, labels = resident
    return images_lib.augment(images[batch], rng, spec), labels[batch]


def _load_streamed(
    spec: images_lib.DatasetSpec, resident: Any, batch: Any, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del resident, rng  # augmented on the host
    images, labels = batch
    return images_lib.normalise(images, spec), labels


def training_images(
    name: str,
    batch_size: int,
    seed: int,
    data_dir: str | None = None,
    stratified: bool = False,
) -> TrainingImages:
    """Returns the training images of a dataset, the validation tenth left out.

    Raises:
        ValueError: unknown dataset, foreign data, fewer images than a batch, or stratified
            batches of images that are streamed.
        FileNotFoundError: missing data.
    """
    spec = images_lib.dataset_spec(name)
    if not spec.resident:
        if stratified:
            raise ValueError(f"stratified batches need images in memory; {name} is streamed")
        stream, count = imagenet.open_training(data_dir, batch_size, seed)
        return StreamedImages(spec, stream, count)
    arrays = images_lib.load_images(name, "train", data_dir)
    labels = arrays.labels if stratified else None
    order = ImageOrder(len(arrays), batch_size, seed, labels)
    return ResidentImages(spec, (arrays.images, arrays.labels), order)
