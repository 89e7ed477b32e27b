"""Image datasets: CIFAR-10 and ImageNet through TFDS's data sources, digits from scikit-learn.

No TensorFlow is needed: TFDS reads its prepared files itself. Small sets are decoded once into
uint8 arrays that stay on the device; they are cropped, flipped and normalised there (`augment`).

Legend: `n` images of a split, `b` images of a batch, `s` image side.
"""

import concurrent.futures
import dataclasses
import functools
import io
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.runtime.logs import quiet_libraries
from ppuda_jax.runtime.processors import processors

Split = Literal["train", "val", "trainval", "test"]

VALIDATION_FRACTION = 0.1  # the last tenth of the training images
_DECODE_CHUNK = 2000


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Facts about a dataset: what is expected, and how its images are normalised and cropped.

    Attributes:
        name: name in `DATASETS` and in TFDS.
        num_classes: classes, labels are 0..num_classes-1.
        image_size: side `s` of the images that networks see.
        mean, std: per-channel statistics of the training images scaled to [0, 1].
        crop_padding: zeros put around a training image before the random crop.
        flip: whether training images are mirrored with probability one half.
        resident: whether the whole set is kept as arrays (otherwise it is streamed).
    """

    name: str
    num_classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_padding: int = 4
    flip: bool = True
    resident: bool = True


DATASETS: Mapping[str, DatasetSpec] = types.MappingProxyType(
    {
        "cifar10": DatasetSpec(
            "cifar10",
            num_classes=10,
            image_size=32,
            mean=(0.49139968, 0.48215827, 0.44653124),
            std=(0.24703233, 0.24348505, 0.26158768),
        ),
        "digits": DatasetSpec(
            "digits",
            num_classes=10,
            image_size=32,
            mean=(0.3052, 0.3052, 0.3052),
            std=(0.3755, 0.3755, 0.3755),
            flip=False,
        ),
        "imagenet": DatasetSpec(
            "imagenet",
            num_classes=1000,
            image_size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            crop_padding=0,
            resident=False,
        ),
    }
)

_TFDS_NAMES = types.MappingProxyType({"cifar10": "cifar10", "imagenet": "imagenet2012"})


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """A split held in memory.

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
            raise ValueError(
                f"{self.spec.name}: images must be [n, {size}, {size}, 3], received "
                f"{list(self.images.shape)}; is another dataset in this folder?"
            )
        if self.images.dtype != np.uint8 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{self.spec.name}: expected uint8 images and one label each, received "
                f"{self.images.dtype} and labels {list(self.labels.shape)}"
            )
        check_labels(self.spec, self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (images uint8 [b, s, s, 3], labels int32 [b]) in order; the last may be short."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.images[start:stop], self.labels[start:stop]


def check_labels(spec: DatasetSpec, labels: np.ndarray) -> None:
    """Raises ValueError unless labels [n] are within the classes that the dataset has."""
    found = np.unique(labels)
    if len(found) == 0 or found[0] < 0 or found[-1] >= spec.num_classes:
        given = f"{found[0]}..{found[-1]}" if len(found) else "no image at all"
        raise ValueError(
            f"{spec.name}: labels must lie in 0..{spec.num_classes - 1}, received {given}"
        )


def dataset_spec(name: str) -> DatasetSpec:
    """Returns the facts about a dataset.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def load_images(name: str, split: Split, data_dir: str | None = None) -> ImageArrays:
    """Loads one split of a small dataset into memory.

    `train` and `val` are the first 90 % and the last 10 % of the published training images, as in
    the paper; `trainval` is both.

    Raises:
        ValueError: an unknown dataset or split, data of another shape or with other classes.
        FileNotFoundError: the dataset is not prepared there and cannot be downloaded.
    """
    spec = dataset_spec(name)
    if not spec.resident:
        raise ValueError(f"{name} does not fit in memory; use ppuda_jax.data.imagenet")
    if split not in ("train", "val", "trainval", "test"):
        raise ValueError(f"split must be train, val, trainval or test, received {split!r}")
    part = "test" if split == "test" else "train"
    images, labels = _load_digits(part) if name == "digits" else _load_tfds(name, part, data_dir)
    if split in ("train", "val"):
        kept = len(labels) - int(len(labels) * VALIDATION_FRACTION)
        chosen = slice(0, kept) if split == "train" else slice(kept, None)
        images, labels = images[chosen], labels[chosen]
    return ImageArrays(spec, images, labels)


@functools.lru_cache(maxsize=2)
def _load_digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits, enlarged from 8x8 to 32x32; every fifth is a test image."""
    from sklearn import datasets

    digits = datasets.load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(small, 4, axis=1), 4, axis=2)[..., None].repeat(3, axis=-1)
    is_test = np.arange(len(images)) % 5 == 4
    chosen = is_test if part == "test" else ~is_test
    return images[chosen], digits.target[chosen].astype(np.int32)


def open_source(name: str, part: str, data_dir: str | None, decoders: Any = None) -> Any:
    """Opens TFDS's data source of a published split.

    Without `data_dir` it is TFDS's default folder, into which TFDS downloads a dataset that is
    not there; a folder that is named is only read.

    Returns:
        A random-access sequence of dictionaries with at least `image` and `label`.

    Raises:
        FileNotFoundError: the dataset is not prepared there and cannot be downloaded.
        ValueError: the prepared dataset has another number of classes.
    """
    import tensorflow_datasets as tfds

    spec, tfds_name = dataset_spec(name), _TFDS_NAMES[name]
    where = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else None
    try:
        with quiet_libraries():
            builder = tfds.builder(tfds_name, data_dir=where, file_format="array_record")
            if where is None:
                builder.download_and_prepare(file_format="array_record")
            source = builder.as_data_source(split=part, decoders=decoders)
    except Exception as error:  # TFDS raises many types here, down to bare AssertionError
        raise FileNotFoundError(
            f"{name}: no readable TFDS dataset. Looked for "
            f"{os.path.join(where or tfds.core.constants.DATA_DIR, tfds_name)}/<version>/*"
            f"{part}.array_record* ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0:1]}). Prepare it on a machine with a network: "
            f'python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{tfds_name}', data_dir='DIR', file_format='array_record')"
            f'.download_and_prepare()" and pass --data_dir=DIR; or use --dataset=digits, which '
            f"needs no files"
        ) from error
    classes = builder.info.features["label"].num_classes
    if classes != spec.num_classes:
        raise ValueError(
            f"{name}: expected {spec.num_classes} classes, {where} declares {classes}; "
            f"is another dataset in this folder?"
        )
    return source


@functools.lru_cache(maxsize=2)
def _load_tfds(name: str, part: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a whole split: (images uint8 [n, s, s, 3], labels int32 [n])."""
    import tensorflow_datasets as tfds

    source = open_source(name, part, data_dir, {"image": tfds.decode.SkipDecoding()})
    total = len(source)
    images, labels = [], np.empty(total, np.int32)
    threads = processors()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, total, _DECODE_CHUNK):
            stop = min(total, start + _DECODE_CHUNK)
            rows = source.__getitems__(list(range(start, stop)))
            labels[start:stop] = [row["label"] for row in rows]
            images.extend(pool.map(decode_image, (row["image"] for row in rows), chunksize=250))
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(
            f"{name}: images of one split must have one shape, received {sorted(shapes)}"
        )
    return np.stack(images), labels


def decode_image(data: bytes) -> np.ndarray:
    """Decodes JPEG or PNG bytes to uint8 [height, width, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


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
