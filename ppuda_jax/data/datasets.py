"""Any image set by its name: what it is (`dataset_spec`) and its images (`load_images`).

A name is `digits`, a name of TFDS (`cifar10`, `imagenet`, `cifar100`, ...), `folder:PATH` with one
folder of PNG or JPEG files per class, or `npz:PATH` (or a path that ends in .npz) with arrays.
Sets whose statistics are published keep them; those of the others are computed over the training
images, after resizing.

Legend: `n` images of a split, `s` image side.
"""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ppuda_jax.data import arrays, digits, folder, tfds
from ppuda_jax.data.decoding import channel_statistics, decode_rows
from ppuda_jax.data.images import ImageArrays
from ppuda_jax.data.names import ALIASES, full_name, parse_name
from ppuda_jax.data.source import DatasetError, Source
from ppuda_jax.data.spec import (
    IMAGE_SIZES,
    PUBLISHED,
    Channels,
    DatasetSpec,
    check_same_images,
    trained_spec,
)

Split = Literal["train", "val", "trainval", "test"]
"""Part of an image set; `trainval` is training and validation images together."""

VALIDATION_FRACTION = 0.1
"""Share of the training images, the last ones, that is held out for validation."""
VALIDATION_MOST = 50_000
"""Images that are held out at the most: what the paper takes of ImageNet's."""
_RESIDENT_BYTES = 2**30  # larger training sets are streamed
_LOADED_BYTES = 2**32  # more is not loaded at once
_STATISTICS_IMAGES = 10_000  # of a streamed set, evenly spread over it
# Published evaluation: the short side to 256, then the central 224.
_MARGIN = 256 / 224
_TFDS_NAMES = {known: theirs for theirs, known in ALIASES.items()}
_UPRIGHT = ("svhn_cropped",)  # digits in colour, which a mirror spoils


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A source and what has been decoded of it, by part, at one size."""

    source: Source
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Dataset:
    """An image set that was found, at one size; nothing is decoded before it is asked for.

    Attributes:
        name: what `--dataset` takes.
        source: where the images come from.
        image_size: `s`.
        resident: whether the training images are kept in memory.
    """

    def __init__(
        self,
        name: str,
        opened: _Opened,
        image_size: int,
        flip: bool | None = None,
        trained: DatasetSpec | None = None,
    ) -> None:
        """See `open_dataset`."""
        self.name, self.source, self.image_size = name, opened.source, image_size
        self._opened, self._flip, self._trained = opened, flip, trained
        published = PUBLISHED.get(name)
        if published is not None:
            _check_published(published, self.source)
        same_size = published is not None and published.image_size == image_size
        self._published = published if same_size else None
        num_bytes = len(self.rows("train")) * image_size**2 * 3
        self.resident = num_bytes <= _RESIDENT_BYTES
        if self._published is not None:
            self.resident = self._published.resident

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        """Facts about the set; of an unknown one the training images are read for statistics."""
        names = self.source.class_names
        if self._published is not None:
            names = self._published.class_names or names
            spec = dataclasses.replace(self._published, class_names=names)
        else:
            if self._trained is not None:
                mean, std, flip = self._trained.mean, self._trained.std, self._trained.flip
            else:
                mean, std, flip = self._statistics()
            spec = DatasetSpec(
                self.name,
                num_classes=len(names),
                class_names=names,
                image_size=self.image_size,
                mean=mean,
                std=std,
                num_images=len(self.rows("train")),
                fingerprint=self.source.fingerprint,
                crop_padding=self.image_size // 8 if self.resident else 0,
                flip=flip and self.name.partition(":")[0] not in _UPRIGHT,
                resident=self.resident,
            )
        return spec if self._flip is None else dataclasses.replace(spec, flip=self._flip)

    def rows(self, split: Split) -> range:
        """Rows of a split: of the source's test rows for `test`, of its training rows otherwise."""
        if split == "test":
            return range(len(self.source.test))
        total = len(self.source.train)
        kept = total - min(int(total * VALIDATION_FRACTION), VALIDATION_MOST)
        rows = {"train": range(kept), "val": range(kept, total), "trainval": range(total)}
        if split not in rows:
            raise ValueError(f"split must be train, val, trainval or test, received {split!r}")
        return rows[split]

    def load(self, split: Split, chosen: Sequence[int] | None = None) -> ImageArrays:
        """Decodes images into memory.

        Args:
            split: train, val, trainval or test.
            chosen: positions in the split; all of them if None.

        Raises:
            ValueError: an unknown split, or more images than memory should hold.
            DatasetError: damaged files, or images that are not what the set says.
        """
        rows: Sequence[int] = self.rows(split)
        if not rows:
            raise DatasetError(
                f"{self.name}: no images in split {split}; of {len(self.source.train)} training "
                f"images {len(self.rows('val'))} are held out for validation, add some"
            )
        if chosen is not None:
            rows = [rows[position] for position in chosen]
        if not self.resident or (split == "test" and chosen is not None):
            return ImageArrays(self.spec, *self._decode(split, rows))
        images, labels = self._part("test" if split == "test" else "trainval")
        if isinstance(rows, range):
            index: slice | np.ndarray = slice(rows.start, rows.stop)  # a view
        else:
            index = np.asarray(rows, int)
        return ImageArrays(self.spec, images[index], labels[index])

    def _part(self, part: Split) -> tuple[np.ndarray, np.ndarray]:
        """Everything decoded of the test or the training rows, once."""
        with self._opened.lock:
            if part not in self._opened.parts:
                self._opened.parts[part] = self._decode(part, self.rows(part))
            return self._opened.parts[part]

    def _decode(self, split: Split, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, s, s, 3] and labels int32 [n] of rows of the source."""
        num_bytes = len(rows) * self.image_size**2 * 3
        if num_bytes > _LOADED_BYTES:
            most = _LOADED_BYTES // (self.image_size**2 * 3)
            raise ValueError(
                f"{self.name} {split}: {len(rows)} images of {self.image_size} pixels take "
                f"{num_bytes / 2**30:.1f} GiB; load at most {most} of them (max_images)"
            )
        return decode_rows(
            self.source.test if split == "test" else self.source.train,
            rows,
            self.image_size,
            # Small images are used whole; those that are cropped in training are cropped here too.
            self.image_size if self.resident else round(self.image_size * _MARGIN),
        )

    def _statistics(self) -> tuple[Channels, Channels, bool]:
        """(mean, std) of the training images in [0, 1], and whether they have colours."""
        rows = self.rows("train")
        if not self.resident:
            step = max(1, len(rows) // _STATISTICS_IMAGES)
            pixels = self._decode("train", rows[::step])[0]
        else:
            pixels = self._part("trainval")[0][: len(rows)]
        return channel_statistics(pixels, self.name)


def _check_published(published: DatasetSpec, source: Source) -> None:
    """Raises DatasetError unless a source can be the published set of that name."""
    if len(source.class_names) != published.num_classes:
        raise DatasetError(
            f"{published.name}: expected {published.num_classes} classes, received "
            f"{len(source.class_names)}; is another dataset in this folder?"
        )
    declared, size = source.train.declared_size, published.image_size
    if published.resident and any(side not in (None, size) for side in declared):
        raise DatasetError(
            f"{published.name}: expected images of {size}x{size} pixels, received "
            f"{list(declared)}; is another dataset in this folder?"
        )


def open_dataset(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    *,
    flip: bool | None = None,
    trained: DatasetSpec | None = None,
) -> Dataset:
    """Finds an image set by its name; see the module for what names there are.

    Args:
        name: of the set.
        data_dir: TFDS folder; without it TFDS downloads to its own.
        image_size: 32 or 224; by default that of `trained` or of the published set, else 32.
        flip: whether training images are mirrored with probability one half; by default where they
            have colours and are not known to be digits.
        trained: images that a hypernetwork was trained on (`trained_spec`), whose size and
            normalisation these get.

    Raises:
        ValueError: another size.
        FileNotFoundError: the set is not there and cannot be downloaded.
        DatasetError: damaged files, or a set that is none of images of one class each.
    """
    kind, place = parse_name(name)
    name = full_name(name)
    if kind in ("folder", "npz"):
        place, data_dir = name.partition(":")[2], None
    if image_size is None and trained is not None:
        image_size = trained.image_size
    if image_size is None:
        image_size = PUBLISHED[name].image_size if name in PUBLISHED else IMAGE_SIZES[0]
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size must be 32 or 224, received {image_size}")
    return Dataset(name, _open(kind, place, data_dir, image_size), image_size, flip, trained)


@functools.lru_cache(maxsize=2)  # of training and test images, whoever asks for them
def _open(kind: str, place: str, data_dir: str | None, image_size: int) -> _Opened:
    del image_size  # what is decoded depends on it
    if kind == "digits":
        return _Opened(digits.open_digits())
    if kind == "tfds":
        return _Opened(tfds.open_tfds(_TFDS_NAMES.get(place, place), data_dir))
    opener = folder.open_folder if kind == "folder" else arrays.open_npz
    return _Opened(opener(pathlib.Path(place)))


def dataset_spec(
    name: str, data_dir: str | None = None, image_size: int | None = None
) -> DatasetSpec:
    """Returns the facts about an image set; a published one is not opened for them.

    Raises:
        ValueError, FileNotFoundError, DatasetError: as `open_dataset`.

    Examples:
        >>> import ppuda_jax as pj
        >>> spec = pj.dataset_spec("cifar10")
        >>> spec.num_classes, spec.image_size
        (10, 32)
    """
    published = PUBLISHED.get(full_name(name))
    if published is not None and image_size in (None, published.image_size):
        return published
    return open_dataset(name, data_dir, image_size).spec


def load_images(
    name: str,
    split: Split,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    max_images: int | None = None,
) -> ImageArrays:
    """Loads one split into memory.

    `train` and `val` are the first 90 % and the last 10 % (at most 50,000) of the training images,
    as in the paper; `trainval` is both.

    Raises:
        ValueError, FileNotFoundError, DatasetError: as `open_dataset` and `Dataset.load`.
    """
    dataset = open_dataset(name, data_dir, image_size)
    chosen = None
    if max_images is not None:
        chosen = range(min(max_images, len(dataset.rows(split))))
    return dataset.load(split, chosen)


def dataset_of(
    metadata: Mapping[str, Any], name: str | None = None, data_dir: str | None = None
) -> Dataset:
    """Opens the images for a hypernetwork: with the size and normalisation of its training.

    Args:
        metadata: of the hypernetwork.
        name: of the images; those that it was trained on if None.
        data_dir: TFDS folder.

    Raises:
        ValueError: the images have other classes, or the metadata say nothing and no name is given.
        FileNotFoundError, DatasetError: as `open_dataset`.
    """
    trained = trained_spec(metadata)
    if name is None:
        if trained is None:
            raise ValueError(
                "the checkpoint does not say what images it was trained on: pass --dataset"
            )
        name = trained.name
    dataset = open_dataset(name, data_dir, trained=trained)
    if trained is not None:
        check_same_images(trained, dataset.spec, "the hypernetwork")
    return dataset


def spec_for(
    metadata: Mapping[str, Any], name: str | None = None, data_dir: str | None = None
) -> DatasetSpec:
    """Facts about the images for a hypernetwork, as `dataset_of`; opened only where they must be.

    Raises:
        ValueError, FileNotFoundError, DatasetError: as `dataset_of`.
    """
    trained = trained_spec(metadata)
    if trained is not None and (name is None or full_name(name) == trained.name):
        return trained
    if trained is None and name is not None:
        return dataset_spec(name, data_dir)
    return dataset_of(metadata, name, data_dir).spec
