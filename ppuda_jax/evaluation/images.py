"""The images of an evaluation: on the device, normalised once, cut into batches.

Batch norm uses the statistics of the batch it sees, so the batches are part of the result
(paper, section 5.1: 64 images). The last batch is short in the reference; here its images are
repeated to fill it, so that one compiled function serves all batches. Its means and variances stay
the same where its size divides the others', as it does for CIFAR-10 and ImageNet in batches of 64.

In a calibrated evaluation, the same training images stand before the images of every batch, and
only their statistics are used.

Legend: `c` calibration images, `b` evaluated images of a batch, `s` image side.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax import parallel
from ppuda_jax.data.datasets import Split, dataset_of, open_dataset
from ppuda_jax.data.images import ImageArrays, normalise
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.ghn.loaded import LoadedGHN


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch on the device.

    Attributes:
      images: float32 [c + b, s, s, 3], normalised.
      labels: int32 [c + b].
      weights: float32 [c + b], 0 for calibration images and repeated ones.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array

    @property
    def size(self) -> int:
        """C + b."""
        return self.labels.shape[0]


@dataclasses.dataclass(frozen=True)
class EvalImages:
    """Images that networks are evaluated on.

    Attributes:
      spec: the dataset.
      part: "val" or "test".
      batches: all of them, of one size; on several devices one entry holds a batch for each.
      num_images: images in them, repeats not counted.
      noise: standard deviation of the noise that was added.
      calibration: c.
      shards: devices that they are spread over.
      seed: of the noise, and of the choice of calibration images.
    """

    spec: DatasetSpec
    part: str
    batches: tuple[Batch, ...]
    num_images: int
    noise: float
    calibration: int = 0
    shards: int = 1
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """B."""
        return self.batches[0].size // self.shards - self.calibration

    def spread(self, topology: parallel.Topology) -> "EvalImages":
        """The same batches for several devices, each on one of them."""
        shards = topology.num_shards
        if shards == self.shards:
            return self
        if self.shards > 1:
            raise ValueError(f"these images are spread over {self.shards} devices already")
        together = []
        for start in range(0, len(self.batches), shards):
            group = list(self.batches[start : start + shards])
            nothing = dataclasses.replace(group[-1], weights=jnp.zeros_like(group[-1].weights))
            group += [nothing] * (shards - len(group))
            fields = [(b.images, b.labels, b.weights) for b in group]
            arrays = [jnp.concatenate(rows) for rows in zip(*fields, strict=True)]
            together.append(Batch(*parallel.split_rows(arrays, topology)))
        return dataclasses.replace(self, batches=tuple(together), shards=shards)


def make_images(
    arrays: ImageArrays,
    part: str,
    *,
    batch_size: int = 64,
    max_images: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    calibration: ImageArrays | None = None,
) -> EvalImages:
    """Prepares images for evaluation.

    Args:
      arrays: the images.
      part: their name in results.
      batch_size: b.
      max_images: take only the first ones.
      noise: standard deviation of Gaussian noise on pixels in [0, 1], clipped before
        normalisation (paper, section 5.1: 0.08 on CIFAR-10).
      seed: of the noise.
      calibration: training images whose statistics batch norm uses, instead of each batch's own;
        they get no noise.

    Returns:
      The batches, on the default device.

    Raises:
      ValueError: an option that is out of range.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (batch norm), received {batch_size}")
    if max_images is not None and max_images < 2:
        raise ValueError(f"max_images must be at least 2, received {max_images}")
    if not 0 <= noise < 1:
        raise ValueError(f"noise must lie in [0, 1), received {noise}")
    total = len(arrays) if max_images is None else min(max_images, len(arrays))
    batch_size = min(batch_size, total)
    before = 0 if calibration is None else len(calibration)
    if calibration is not None:
        reference = normalise(jnp.asarray(calibration.images), arrays.spec)
    batches = []
    for number, start in enumerate(range(0, total, batch_size)):
        count = min(batch_size, total - start)
        rows = start + np.arange(batch_size) % count
        key = jax.random.fold_in(jax.random.key(seed), number)
        images = _prepare(jnp.asarray(arrays.images[rows[:count]]), key, arrays.spec, noise)
        images = jnp.take(images, rows - start, axis=0)
        if before:
            images = jnp.concatenate([reference, images])
        labels = np.pad(arrays.labels[rows], (before, 0))
        weights = np.pad(np.arange(batch_size) < count, (before, 0))
        batches.append(Batch(images, jnp.asarray(labels), jnp.asarray(weights, jnp.float32)))
    return EvalImages(arrays.spec, part, tuple(batches), total, noise, before, seed=seed)


def load_eval_images(
    dataset: str | None = None,
    part: Split = "test",
    data_dir: str | None = None,
    calibration_images: int = 0,
    *,
    ghn: LoadedGHN | None = None,
    image_size: int | None = None,
    max_images: int | None = None,
    **options: Any,
) -> EvalImages:
    """Loads a dataset's validation or test images; see `make_images` for the options.

    Args:
      dataset: its name, see `ppuda_jax.data.datasets`; with `ghn`, by default what that was
        trained on.
      part: "val" or "test".
      data_dir: TFDS folder.
      calibration_images: how many training images, drawn by `seed`, to calibrate batch norm on;
        0 for the statistics of each batch, as published.
      ghn: a hypernetwork whose classes the images must have, and whose image size and
        normalisation they get.
      image_size: 32 or 224; by default the hypernetwork's or the published one, else 32.
      max_images: take only the first ones.
      **options: of `make_images`.

    Raises:
      ValueError: an unknown part, damaged data, other classes than the hypernetwork's, or more
        images than memory should hold.
      FileNotFoundError: missing data.

    Examples:
      >>> import ppuda_jax as pj
      >>> images = pj.load_eval_images("digits", max_images=100)
      >>> images.num_images, images.spec.num_classes
      (100, 10)
    """
    if part not in ("val", "test"):
        raise ValueError(f"part must be val or test, received {part!r}")
    if max_images is not None and max_images < 2:
        raise ValueError(f"max_images must be at least 2, received {max_images}")
    if ghn is not None and image_size is None:
        found = dataset_of(ghn.metadata, dataset, data_dir)
    elif dataset is not None:
        found = open_dataset(dataset, data_dir, image_size)
    else:
        raise ValueError("pass the name of a dataset, or a hypernetwork as ghn=")
    total = len(found.rows(part))
    chosen = None if max_images is None else range(min(max_images, total))
    arrays = found.load(part, chosen)
    if not calibration_images:
        return make_images(arrays, part, **options)
    total = len(found.rows("train"))
    if not 2 <= calibration_images <= total:
        raise ValueError(
            f"calibration_images must be 0 or lie in 2 ... {total}, received {calibration_images}"
        )
    rng = np.random.default_rng(options.get("seed", 0))
    rows = rng.permutation(total)[:calibration_images]
    calibration = found.load("train", rows.tolist())
    return make_images(arrays, part, calibration=calibration, **options)


def _prepare(images: jax.Array, key: jax.Array, spec: DatasetSpec, noise: float) -> jax.Array:
    """Noise and normalisation of uint8 [b, s, s, 3]; consumes `key`."""
    if noise == 0:
        return normalise(images, spec)
    pixels = images.astype(jnp.float32) / 255.0
    pixels = jnp.clip(pixels + noise * jax.random.normal(key, images.shape), 0.0, 1.0)
    return normalise(pixels * 255.0, spec)
