"""What a training step gets of the images, whether they live on the device or are streamed.

Legend: `n` images of the training set, `b` images of a batch, `s` image side.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from ppuda_jax.data.datasets import open_dataset
from ppuda_jax.data.few_shot import few_shot
from ppuda_jax.data.images import augment, normalise
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.data.streamed import ImageStream

LoadFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]
"""(resident, batch, key) -> (images float32 [b, s, s, 3], labels int32 [b]); picklable."""


class TrainingImages(Protocol):
    """Training images by step."""

    @property
    def spec(self) -> DatasetSpec:
        """Facts about the set."""
        ...

    @property
    def num_images(self) -> int:
        """Images in one pass."""
        ...

    @property
    def resident(self) -> Any:
        """Pytree of arrays that stay on the device for the whole run, or ()."""
        ...

    def batch(self, step: int) -> Any:
        """Pytree of NumPy arrays that is handed to `load` for this step; pure in `step`."""
        ...

    @property
    def load(self) -> LoadFn:
        """Traced inside the training step."""
        ...


@dataclasses.dataclass(frozen=True)
class ResidentImages:
    """Images on the device; a step names them by index and augments them there."""

    spec: DatasetSpec
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

    spec: DatasetSpec
    stream: ImageStream
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
    spec: DatasetSpec, resident: Any, batch: Any, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, labels = resident
    return augment(images[batch], rng, spec), labels[batch]


def _load_streamed(
    spec: DatasetSpec, resident: Any, batch: Any, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del resident, rng  # augmented on the host
    images, labels = batch
    return normalise(images, spec), labels


def training_images(
    name: str,
    batch_size: int,
    seed: int,
    data_dir: str | None = None,
    stratified: bool = False,
    *,
    image_size: int | None = None,
    flip: bool | None = None,
    trained: DatasetSpec | None = None,
    shots: int | None = None,
) -> TrainingImages:
    """Returns the training images of a dataset, those held out for validation left out.

    Args:
        name: see `ppuda_jax.data.datasets`.
        batch_size: `b`.
        seed: of order and, where the host augments, augmentation.
        data_dir: TFDS folder.
        stratified: spread the classes evenly over each pass.
        image_size: 32 or 224, see `open_dataset`.
        flip: see `open_dataset`.
        trained: see `open_dataset`.
        shots: only the first images of each class, so many; all of them by default.

    Raises:
        ValueError: an unknown dataset, foreign or damaged data, fewer images than a batch or of a
            class than shots, or stratified batches or few shots of images that are streamed.
        FileNotFoundError: missing data.
    """
    dataset = open_dataset(name, data_dir, image_size, flip=flip, trained=trained)
    if shots is not None and not dataset.resident:
        raise ValueError(f"few shots need images in memory; {name} is streamed")
    chosen = None if shots is None else few_shot(dataset.load("train"), shots)
    count = len(dataset.rows("train")) if chosen is None else len(chosen)
    if batch_size > count:
        raise ValueError(
            f"batch_size must be at most the {count} training images of {dataset.name}, received "
            f"{batch_size}"
        )
    if not dataset.resident:
        if stratified:
            raise ValueError(f"stratified batches need images in memory; {name} is streamed")
        spec, rows = dataset.spec, dataset.source.train
        stream = ImageStream(rows, count, batch_size, seed, spec.image_size, flip=spec.flip)
        return StreamedImages(spec, stream, count)
    images = dataset.load("train") if chosen is None else chosen
    order = ImageOrder(count, batch_size, seed, images.labels if stratified else None)
    return ResidentImages(images.spec, (images.images, images.labels), order)
