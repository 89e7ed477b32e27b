"""What a training step gets of the images, whether they live on the device or are streamed.

Legend: `n` images of the training set, `b` images of a batch, `s` image side.
"""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from ppuda_jax.data import imagenet
from ppuda_jax.data import images as images_lib


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

    def load(self, resident: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(images float32 [b, s, s, 3], labels int32 [b]); traced inside the training step."""


@dataclasses.dataclass(frozen=True)
class ResidentImages:
    """Images on the device; a step names them by index and augments them there."""

    spec: images_lib.DatasetSpec
    resident: tuple[np.ndarray, np.ndarray]
    batch_size: int
    seed: int

    @property
    def num_images(self) -> int:
        return len(self.resident[1])

    def batch(self, step: int) -> np.ndarray:
        """Indices int32 [b]."""
        return images_lib.batch_indices(self.num_images, self.batch_size, step, self.seed)

    def load(self, resident: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = resident
        return images_lib.augment(images[batch], rng, self.spec), labels[batch]


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

    def load(self, resident: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        del resident, rng  # augmented on the host
        images, labels = batch
        return images_lib.normalise(images, self.spec), labels


def training_images(
    name: str, batch_size: int, seed: int, data_dir: str | None = None
) -> TrainingImages:
    """Returns the training images of a dataset, the validation tenth left out.

    Raises:
        ValueError: unknown dataset, foreign data, or fewer images than a batch.
        FileNotFoundError: missing data.
    """
    spec = images_lib.dataset_spec(name)
    if not spec.resident:
        stream, count = imagenet.open_training(data_dir, batch_size, seed)
        return StreamedImages(spec, stream, count)
    arrays = images_lib.load_images(name, "train", data_dir)
    if batch_size > len(arrays):
        raise ValueError(f"batch_size must be at most {len(arrays)} for {name}, got {batch_size}")
    return ResidentImages(spec, (arrays.images, arrays.labels), batch_size, seed)
