"""Images as the device sees them: uint8 arrays that are cropped, flipped and normalised there.

Legend: `n` images of a split, `b` images of a batch, `s` image side.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.data.source import DatasetError
from ppuda_jax.data.spec import DatasetSpec


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images held in memory.

    Attributes:
        spec: the dataset.
        images: uint8 [n, s, s, 3].
        labels: int32 [n].
    """

    spec: DatasetSpec
    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        size = self.spec.image_size
        if self.images.ndim != 4 or self.images.shape[1:] != (size, size, 3):
            raise DatasetError(
                f"{self.spec.name}: images must be [n, {size}, {size}, 3], received "
                f"{list(self.images.shape)}; is another dataset in this folder?"
            )
        if self.images.dtype != np.uint8 or self.labels.shape != self.images.shape[:1]:
            raise DatasetError(
                f"{self.spec.name}: expected uint8 images and one label each, received "
                f"{self.images.dtype} and labels {list(self.labels.shape)}"
            )
        found = np.unique(self.labels)
        if len(found) == 0 or found[0] < 0 or found[-1] >= self.spec.num_classes:
            given = f"{found[0]}..{found[-1]}" if len(found) else "no image at all"
            raise DatasetError(
                f"{self.spec.name}: labels must lie in 0..{self.spec.num_classes - 1}, received "
                f"{given}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (images uint8 [b, s, s, 3], labels int32 [b]) in order; the last may be short."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.images[start:stop], self.labels[start:stop]


def normalise(images: jax.Array, spec: DatasetSpec) -> jax.Array:
    """Scales uint8 images [b, s, s, 3] to float32 with zero mean and unit deviation."""
    mean = jnp.asarray(spec.mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(spec.std, jnp.float32).reshape(1, 1, 1, 3)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def augment(images: jax.Array, rng: jax.Array, spec: DatasetSpec) -> jax.Array:
    """Random crop of the zero-padded image, random flip, then normalisation; usable inside jit.

    Args:
        images: uint8 [b, s, s, 3].
        rng: key, consumed.
        spec: the dataset.

    Returns:
        float32 [b, s, s, 3].
    """
    batch, height, width, _ = images.shape
    crop_rng, flip_rng = jax.random.split(rng)
    pad = spec.crop_padding
    if pad:
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        corner = jax.random.randint(crop_rng, (2, batch, 1), 0, 2 * pad + 1)
        rows = corner[0] + jnp.arange(height)[None]  # [b, s]
        columns = corner[1] + jnp.arange(width)[None]
        which = jnp.arange(batch)[:, None, None]
        images = padded[which, rows[:, :, None], columns[:, None, :]]
    if spec.flip:
        mirrored = jax.random.bernoulli(flip_rng, 0.5, (batch, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return normalise(images, spec)
