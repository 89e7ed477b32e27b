"""Folders of PNG and JPEG files, one per class.

`PATH/train/CLASS/*.png` and `PATH/test/CLASS/*.png`, or `PATH/CLASS/*.png` (or train/ alone), of
which a fifth of each class is drawn for testing. Images of `PATH/val` are added to the training
images, or tested on where there is no `PATH/test`. Classes are numbered by their names.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from ppuda_jax.data import split
from ppuda_jax.data.source import DatasetError, Row, Source

_SUFFIXES = (".png", ".jpg", ".jpeg")
_VALIDATION = ("val", "valid", "validation")
_OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")


class FileRows:
    """Image files with labels: `ppuda_jax.data.source.Rows`."""

    declared_size: tuple[int | None, ...] = (None, None)

    def __init__(self, paths: Sequence[pathlib.Path], labels: np.ndarray) -> None:
        self._paths, self._labels = list(paths), labels

    def __len__(self) -> int:
        return len(self._paths)

    def where(self, index: int) -> str:
        """Path of the file."""
        return str(self._paths[index])

    def read(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, in that order."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> Row:
        try:
            return Row(self._paths[index].read_bytes(), int(self._labels[index]))
        except OSError as error:
            raise DatasetError(f"{self.where(index)}: cannot be read ({error})") from error


def open_folder(path: pathlib.Path) -> Source:
    """Lists the images of a folder.

    Raises:
        FileNotFoundError: no such folder.
        DatasetError: empty or missing classes, or files that are no images.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; --dataset=folder:PATH takes one with a folder of PNG or JPEG "
            f"files per class, or with train/ and test/ that have these"
        )
    train, test = _parts(path)
    names = _classes(train[0])
    for part in (*train[1:], *test):
        other = sorted(set(_classes(part)) - set(names))
        if other:
            raise DatasetError(f"{part / other[0]}: this class is not in {train[0]}; add it there")
    files, labels = _list_files(train, names)
    if test:
        test_files, test_labels = _list_files(test, names)
        missing = [name for label, name in enumerate(names) if label not in test_labels]
        if missing:
            raise DatasetError(f"{test[0]}: class {missing[0]!r} of {train[0]} is missing; add it")
        order, test_order = split.shuffled(labels), split.shuffled(test_labels)
    else:
        order, test_order = split.train_and_test(labels, names, str(train[0]))
        test_files, test_labels = files, labels
    split.check_classes(labels[order], test_labels[test_order], names, str(path))
    return Source(
        tuple(names),
        _fingerprint(path, files, test_files),
        FileRows([files[i] for i in order], labels[order]),
        FileRows([test_files[i] for i in test_order], test_labels[test_order]),
    )


def _parts(path: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Folders with the classes to train on, and to test on (none if a split is to be made)."""
    # A class may have the name of a part; its folder holds images, no folders.
    found = {
        name: path / name
        for name in ("train", "test", *_VALIDATION)
        if (path / name).is_dir() and _folders(path / name)
    }
    validation = [found[name] for name in _VALIDATION if name in found]
    if "train" not in found:
        if found:
            raise DatasetError(
                f"{path}: has {next(iter(found))}/ but no train/ with a folder for each class; add "
                "it, or move the classes up"
            )
        return [path], []
    if "test" in found:
        return [found["train"], *validation], [found["test"]]
    return [found["train"]], validation


def _folders(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(folder: pathlib.Path) -> list[str]:
    names = _folders(folder)
    if len(names) < 2:
        raise DatasetError(
            f"{folder}: needs a folder of images for each of at least 2 classes, received "
            f"{', '.join(names) or 'none'}"
        )
    return names


def _list_files(
    folders: Sequence[pathlib.Path], names: Sequence[str]
) -> tuple[list[pathlib.Path], np.ndarray]:
    """Image files of all classes, sorted, and their labels int32 [n]."""
    files, labels = [], []
    for folder in folders:
        for label, name in enumerate(names):
            if not (folder / name).is_dir():
                continue
            found = _images_below(folder / name)
            if not found:
                raise DatasetError(f"{folder / name}: this class has no PNG or JPEG file; add some")
            files += found
            labels += [label] * len(found)
    return files, np.asarray(labels, np.int32)


def _images_below(folder: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.startswith(".") or name.lower() in _OF_THE_SYSTEM:
                continue
            if not name.lower().endswith(_SUFFIXES):
                raise DatasetError(
                    f"{pathlib.Path(parent, name)}: only PNG and JPEG files are read "
                    f"({', '.join(_SUFFIXES)}); convert or remove it"
                )
            found.append(pathlib.Path(parent, name))
    return sorted(found)


def _fingerprint(root: pathlib.Path, *parts: Sequence[pathlib.Path]) -> str:
    """Of names and sizes: the contents are not read."""
    digest = hashlib.sha256()
    for files in parts:
        for path in files:
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]
