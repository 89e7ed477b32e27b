"""Small image sets that tests write: in TFDS's format, as folders, as arrays."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image


def pictures(count: int, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Random uint8 images [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """PNG (exact) or JPEG bytes of uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]."""
    data = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels).save(data, kind)
    return data.getvalue()


def write_tfds(
    root: pathlib.Path,
    name: str,
    splits: Mapping[str, Sequence[Sequence[tuple[bytes, int]]]],
    class_names: Sequence[str],
    shape: Sequence[int | None] = (None, None, 3),
    version: str = "1.0.0",
    features: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a prepared set; returns its folder.

    Args:
        root: what `--data_dir` takes.
        name: of the set, perhaps with a configuration.
        splits: by name, shards of (encoded image, label).
        class_names: by label.
        shape: declared shape of the images.
        version: of the set.
        features: other features than an image and a label.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / name / version
    folder.mkdir(parents=True)
    declared = features or {
        "image": tfds.features.Image(shape=tuple(shape)),
        "label": tfds.features.ClassLabel(names=list(class_names)),
    }
    table = tfds.features.FeaturesDict(declared)
    table.save_metadata(str(folder))
    (folder / "features.json").write_text(json.dumps(table.to_json()))
    base = name.split("/")[0]
    for split, shards in splits.items():
        for index, rows in enumerate(shards):
            path = folder / f"{base}-{split}.array_record-{index:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for picture, label in rows:
                writer.write(example(picture, label))
            writer.close()
    info = {
        "name": base,
        "version": version,
        "fileFormat": "array_record",
        "moduleName": "tests",
        "splits": [
            {
                "name": split,
                "shardLengths": [str(len(rows)) for rows in shards],
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, shards in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def example(picture: bytes, label: int) -> bytes:
    """One record as TFDS writes it: a serialised tf.train.Example, made without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(picture)
    record.features.feature["label"].int64_list.value.append(label)
    return record.SerializeToString()


def simple_tfds(
    root: pathlib.Path, name: str, shape: Sequence[int] = (28, 28, 1), classes: int = 4
) -> pathlib.Path:
    """A set of 40 training images in two shards and 12 test images."""

    def rows(count: int, seed: int) -> list[tuple[bytes, int]]:
        return [(encode(p), i % classes) for i, p in enumerate(pictures(count, shape, seed))]

    names = [f"class {label}" for label in range(classes)]
    splits = {"train": [rows(30, 0), rows(10, 1)], "test": [rows(12, 2)]}
    return write_tfds(root, name, splits, names, shape)


def write_folder(
    path: pathlib.Path, classes: Mapping[str, int], sizes: Sequence[Sequence[int]] = ((20, 30, 3),)
) -> None:
    """Writes `PATH/CLASS/NUMBER.png`, so many per class, of sizes in turn."""
    for seed, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = pictures(1, sizes[index % len(sizes)], seed * 1000 + index)[0]
            (path / name / f"{index:03d}.png").write_bytes(encode(pixels))
