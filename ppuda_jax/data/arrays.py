"""`.npz` files of images and labels.

Keys: `train_images`, `train_labels`, `test_images`, `test_labels` (or `x_train`, `y_train`,
`x_test`, `y_test`); or `images` and `labels`, of which a fifth of each class is drawn for testing;
`val_images` and `val_labels` are added to the training images, of which a tenth is held out anyway;
`class_names` is optional. Images are [n, h, w] or [n, h, w, channels] (1, 3 or 4) of uint8, of
floats in [0, 1], or of uint16 with 16 bits used; labels are integers [n] or [n, 1], from 0.

Legend: `n` images.
"""

import hashlib
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from ppuda_jax.data import split
from ppuda_jax.data.source import ArrayRows, DatasetError, Source

_PARTS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "val": (("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
    "all": (("images", "labels"),),
}
_NAMES = "class_names"


def open_npz(path: pathlib.Path) -> Source:
    """Reads a file of arrays into memory.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: a damaged file, other keys, or arrays of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --dataset=npz:PATH takes an .npz file")
    arrays = _read(path)
    parts = _parts(arrays, path)
    images = {part: _pixels(pair[0], f"{path}, {part}") for part, pair in parts.items()}
    shapes = {part: pixels.shape[1:] for part, pixels in images.items()}
    if len(set(shapes.values())) > 1:
        raise DatasetError(f"{path}: images of all parts must have one shape, received {shapes}")
    labels = {
        part: _labels(pair[1], len(images[part]), f"{path}, {part}") for part, pair in parts.items()
    }
    names = _class_names(arrays, labels, path)
    if "all" in parts:
        order, test_order = split.train_and_test(labels["all"], names, str(path))
        images["train"] = images["test"] = images["all"]
        labels["train"] = labels["test"] = labels["all"]
    else:
        if "val" in parts:
            images["train"] = np.concatenate([images["train"], images["val"]])
            labels["train"] = np.concatenate([labels["train"], labels["val"]])
        order, test_order = split.shuffled(labels["train"]), split.shuffled(labels["test"])
    train = ArrayRows(images["train"][order], labels["train"][order], f"{path}, train")
    test = ArrayRows(images["test"][test_order], labels["test"][test_order], f"{path}, test")
    split.check_classes(labels["train"][order], labels["test"][test_order], names, str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Source(names, digest, train, test)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, since NumPy leaves a file open that begins as an archive and is none.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.lib.npyio.NpzFile):
                with file:
                    return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path}: no .npz file of plain arrays ({error}); images of mixed sizes cannot be in "
            f"one array, use --dataset=folder:PATH for them"
        ) from error
    raise DatasetError(f"{path}: one array, expected an .npz file of named arrays")


def _parts(
    arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(images, labels) by part: train and test, perhaps val; or all."""
    parts, known = {}, {_NAMES}
    for part, pairs in _PARTS.items():
        for pair in pairs:
            if pair[0] in arrays and pair[1] in arrays:
                parts[part] = arrays[pair[0]], arrays[pair[1]]
                known |= {*pair}
                break
    complete = "all" in parts if len(parts) == 1 else {"train", "test"} <= parts.keys()
    unknown = sorted(arrays.keys() - known)
    if not complete or unknown or ("all" in parts and len(parts) > 1):
        raise DatasetError(
            f"{path}: the keys must be train_images, train_labels, test_images and test_labels (or "
            f"x_train, y_train, x_test, y_test), or images and labels; received {sorted(arrays)}"
        )
    return parts


def _pixels(images: np.ndarray, where: str) -> np.ndarray:
    """Images of any accepted type as uint8 of the same shape."""
    if images.ndim == 4 and images.shape[-1] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        raise DatasetError(
            f"{where}: channels come last, received {list(images.shape)}; transpose to (0, 2, 3, 1)"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3, 4)):
        raise DatasetError(
            f"{where}: images must be [n, h, w] or [n, h, w, channels] with 1, 3 or 4 channels, "
            f"received {list(images.shape)}"
        )
    if 0 in images.shape:
        raise DatasetError(f"{where}: no image, received {list(images.shape)}")
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and low >= 0 and high <= 1:  # false where there is a NaN
        return np.round(images * 255).astype(np.uint8)
    if images.dtype == np.uint16 and high > 255:
        return np.round(images / 257).astype(np.uint8)
    if images.dtype.kind in ("i", "u") and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    raise DatasetError(
        f"{where}: images must be uint8, uint16 or floats in [0, 1], received {images.dtype} from "
        f"{low} to {high}"
    )


def _labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels as int32 [n]."""
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise DatasetError(
            f"{where}: labels must be [{count}], one for each image, received {list(labels.shape)}"
        )
    if labels.dtype.kind not in ("i", "u"):
        raise DatasetError(
            f"{where}: labels must be integers from 0, received {labels.dtype}; number the classes"
        )
    if labels.min() < 0 or labels.max() >= count:  # so many classes at most have an image
        raise DatasetError(
            f"{where}: labels must number the classes from 0 without gaps, received "
            f"{labels.min()}..{labels.max()} for {count} images"
        )
    return labels.astype(np.int32)


def _class_names(
    arrays: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], path: pathlib.Path
) -> tuple[str, ...]:
    count = 1 + max(int(values.max()) for values in labels.values())
    if _NAMES not in arrays:
        return tuple(str(label) for label in range(count))
    names = tuple(str(name) for name in arrays[_NAMES].reshape(-1))
    if len(names) < count:
        raise DatasetError(
            f"{path}: {_NAMES} has {len(names)} names, but labels go up to {count - 1}"
        )
    return names
