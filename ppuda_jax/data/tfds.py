"""Image-classification sets prepared by TensorFlow Datasets, read without TensorFlow.

TFDS's folder says what is in it: `dataset_info.json` names the shards of each split and how many
records each has, `features.json` how a record is read. The shards are opened and counted before
anything is read, since the reader itself takes a cut file for an empty one.

Legend: `n` records of a split.
"""

import bisect
import difflib
import hashlib
import itertools
import json
import os
import pathlib
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppuda_jax.data.source import DatasetError, Row, Source
from ppuda_jax.runtime.logs import quiet_libraries

_FORMAT = "array_record"
# Test images under the names that published sets give them, best first.
_TEST_SPLITS = ("test", "validation", "val", "valid", "dev")
_ANSWERS = "https://storage.googleapis.com"  # where TFDS keeps checksums and copies of sets
# Sets whose published test split has no labels.
_TEST_SPLIT_OF = {"imagenet2012": "validation"}


def open_tfds(name: str, data_dir: str | None) -> Source:
    """Opens a prepared set, or has TFDS prepare it in its own folder.

    Args:
        name: TFDS's name, `name[/config][:version]`; without a version it is the newest there.
        data_dir: folder that is only read; None is TFDS's default folder, into which TFDS
            downloads what is not there.

    Raises:
        FileNotFoundError: the set is not prepared there and cannot be downloaded.
        DatasetError: damaged files, or a set without images of one class each.
    """
    import tensorflow_datasets as tfds

    root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser().absolute()
    folder = find_prepared(name, root)
    if folder is None:
        if data_dir is not None:
            raise FileNotFoundError(_not_found(name, root, "nothing is downloaded into a data_dir"))
        folder = _download(name, root)
    return read_folder(folder)


def find_prepared(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """The newest version's folder of a prepared set below `root`; None if there is none."""
    base, _, version = name.partition(":")
    versions = [path.parent for path in (root / base).glob("*/dataset_info.json")]
    if version:
        versions = [path for path in versions if path.name == version]
    return max(versions, key=_version_key, default=None)


def _version_key(path: pathlib.Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name


def _download(name: str, root: pathlib.Path) -> pathlib.Path:
    """Has TFDS prepare a set in its default folder."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.util import DownloadError

    if name.partition("/")[0].partition(":")[0] in tfds.list_builders(
        with_community_datasets=False
    ):
        _require_network(name, root)

    try:
        builder = tfds.builder(name, file_format=_FORMAT)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        close = difflib.get_close_matches(
            name, tfds.list_builders(with_community_datasets=False), n=3
        )
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise FileNotFoundError(_not_found(name, root, f"TFDS knows no {name!r}{hint}")) from error
    except (OSError, ImportError) as error:
        raise FileNotFoundError(_not_found(name, root, _failed(error))) from error
    try:
        builder.download_and_prepare(file_format=_FORMAT)
    except (OSError, ImportError, DownloadError) as error:
        raise FileNotFoundError(_not_found(name, root, _failed(error))) from error
    return pathlib.Path(builder.data_dir)


def _failed(error: Exception) -> str:
    return f"preparing it failed with {_one_line(error)}"


def _require_network(name: str, root: pathlib.Path) -> None:
    """Raises FileNotFoundError where nothing answers: TFDS itself would try for three minutes."""
    request = urllib.request.Request(_ANSWERS, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:  # it answered
        return
    except OSError as error:
        reason = f"no network to download it from ({_one_line(error)} at {_ANSWERS})"
        raise FileNotFoundError(_not_found(name, root, reason)) from error


def _not_found(name: str, root: pathlib.Path, reason: str) -> str:
    base = name.partition(":")[0]
    found = sorted(p.parent.parent.name for p in root.glob("*/*/dataset_info.json"))
    there = f"; prepared there: {', '.join(dict.fromkeys(found))}" if found else ""
    return (
        f"{name}: no prepared TFDS dataset, and {reason}. Looked for "
        f"{root / base}/<version>/dataset_info.json{there}. Prepare it where there is a network: "
        f'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='DIR', file_format='{_FORMAT}').download_and_prepare()\" "
        f"and pass --data_dir=DIR; or use --dataset=digits, which needs no files"
    )


def read_folder(folder: pathlib.Path) -> Source:
    """Opens one version's folder of a prepared set.

    Raises:
        DatasetError: damaged files, or a set without images of one class each.
    """
    import tensorflow_datasets as tfds

    described = _read_json(folder / "dataset_info.json")
    _read_json(folder / "features.json")
    try:
        with quiet_libraries():  # it advises on features that are not used here
            info = tfds.builder_from_directory(folder).info
        splits, features = dict(info.splits), info.features
        fields, supervised = dict(features), info.supervised_keys
    except Exception as error:  # a foreign parser of foreign JSON: whatever it meets, it is this
        raise DatasetError(
            f"{folder}: dataset_info.json and features.json do not describe a dataset "
            f"({_one_line(error)}); prepare it again"
        ) from error
    image_key, label_key = _supervised(folder, fields, supervised)
    names = tuple(fields[label_key].names)
    read = _example_reader(features, image_key, label_key)
    declared = tuple(fields[image_key].shape[:2])

    def rows(split: str) -> TfdsRows:
        paths = _shards(folder, splits[split])
        lengths = [int(length) for length in splits[split].shard_lengths]
        return TfdsRows(paths, lengths, read, len(names), declared)

    identity = json.dumps([described["splits"], described.get("version"), names], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Source(names, digest, rows("train"), rows(_test_split(folder, splits)))


def _supervised(folder: pathlib.Path, features: Mapping[str, Any], keys: Any) -> tuple[str, str]:
    """Names of the features that are the image and its class."""
    import tensorflow_datasets as tfds

    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if keys is not None and len(keys) == 2 and keys[0] in images and keys[1] in labels:
        return keys[0], keys[1]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    kinds = ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items())
    raise DatasetError(
        f"{folder}: an image-classification set has one image and one class label in each record, "
        f"received {kinds}; choose another dataset"
    )


def _test_split(folder: pathlib.Path, splits: Mapping[str, Any]) -> str:
    usual = _TEST_SPLIT_OF.get(folder.parent.name)
    test = next((name for name in (usual, *_TEST_SPLITS) if name in splits), None)
    if "train" not in splits or test is None:
        raise DatasetError(
            f"{folder / 'dataset_info.json'}: a set needs the splits train and one of "
            f"{', '.join(_TEST_SPLITS)}, received {', '.join(splits) or 'none'}"
        )
    return test


def _shards(folder: pathlib.Path, split: Any) -> list[pathlib.Path]:
    """Paths of a split's shards, by the template that TFDS names its files with."""
    template = split.filename_template.replace(data_dir=folder, filetype_suffix=_FORMAT)
    if not split.shard_lengths:
        raise DatasetError(f"{folder / 'dataset_info.json'}: split {split.name} has no shards")
    total = len(split.shard_lengths)
    paths = [pathlib.Path(path) for path in template.sharded_filepaths(total)]
    if not any(path.exists() for path in paths):
        other = sorted(folder.glob(f"*-{split.name}.*-of-*"))
        if other and _FORMAT not in other[0].name:
            raise DatasetError(
                f"{other[0]}: only {_FORMAT} files can be read without TensorFlow; convert them "
                f"where TensorFlow is: tfds convert_format --dataset_version_dir={folder} "
                f"--out_file_format={_FORMAT}"
            )
    return paths


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({_one_line(error)}); restore it") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: must be a JSON object, received {type(value).__name__}")
    return value


ReadExample = Callable[[bytes], tuple[bytes, int]]
"""One serialised record -> (encoded image, label)."""


def _example_reader(features: Any, image_key: str, label_key: str) -> ReadExample:
    """Reads the two features that count from TFDS's records."""
    import tensorflow_datasets as tfds

    decoders = {image_key: tfds.decode.SkipDecoding()}

    def read(record: bytes) -> tuple[bytes, int]:
        example = features.deserialize_example_np(record, decoders=decoders)
        return example[image_key], int(example[label_key])

    return read


class TfdsRows:
    """The records of one split: `ppuda_jax.data.source.Rows` over its shards."""

    def __init__(
        self,
        paths: Sequence[pathlib.Path],
        lengths: Sequence[int],
        read_example: ReadExample,
        num_classes: int,
        declared_size: tuple[int | None, ...],
    ) -> None:
        """Opens every shard and counts its records.

        Args:
            paths: shards, in order.
            lengths: records that each of them must have.
            read_example: record -> (encoded image, label).
            num_classes: labels are below it.
            declared_size: height and width of every image; None where they vary.

        Raises:
            DatasetError: a shard that is missing, empty, cut or of another length.
        """
        self._paths, self._read_example = list(paths), read_example
        self._num_classes, self.declared_size = num_classes, declared_size
        self._stops = list(itertools.accumulate(int(length) for length in lengths))
        self._lock = threading.Lock()
        self._readers: dict[int, Any] = {}
        for path, length in zip(paths, lengths, strict=True):
            _check_shard(path, int(length))

    def __len__(self) -> int:
        return self._stops[-1]

    def where(self, index: int) -> str:
        """Names the shard and the record."""
        shard, position = self._place(index)
        return f"{self._paths[shard]}, record {position}"

    def read(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, in that order."""
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            shard, position = self._place(int(index))
            by_shard.setdefault(shard, []).append((place, position))
        rows: dict[int, Row] = {}
        for shard, wanted in by_shard.items():
            records = self._records(shard, [position for _, position in wanted])
            for (place, _), record in zip(wanted, records, strict=True):
                rows[place] = self._row(record, int(indices[place]))
        return [rows[place] for place in range(len(indices))]

    def _place(self, index: int) -> tuple[int, int]:
        """(shard, position in it) of a row."""
        shard = bisect.bisect_right(self._stops, index)
        return shard, index - (self._stops[shard - 1] if shard else 0)

    def _records(self, shard: int, positions: list[int]) -> list[bytes]:
        with self._lock:  # a shard is opened once, whichever thread comes first
            if shard not in self._readers:
                self._readers[shard] = _open_shard(self._paths[shard])
        try:
            return self._readers[shard].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:  # by cause, from the C++ reader
            raise DatasetError(
                f"{self._paths[shard]}: damaged ({_one_line(error)}); restore it or prepare the "
                f"dataset again"
            ) from error

    def _row(self, record: bytes, index: int) -> Row:
        try:
            picture, label = self._read_example(record)
        except Exception as error:  # protobuf's parser and TFDS's features, on foreign bytes
            raise DatasetError(
                f"{self.where(index)}: no record as features.json says ({_one_line(error)})"
            ) from error
        if not 0 <= label < self._num_classes:
            raise DatasetError(
                f"{self.where(index)}: labels must lie in 0..{self._num_classes - 1}, received "
                f"{label}"
            )
        return Row(picture, label)


def _open_shard(path: pathlib.Path) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(
        os.fspath(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
    )


def _check_shard(path: pathlib.Path, length: int) -> None:
    """Raises DatasetError unless a shard is there, whole, and has `length` records."""
    repair = "restore it or prepare the dataset again"
    if not path.is_file():
        raise DatasetError(f"{path}: this shard is missing; {repair}")
    if not path.stat().st_size:
        raise DatasetError(f"{path}: this shard is empty; {repair}")
    reader = _open_shard(path)
    if not reader.ok():  # `close` would raise then, without naming the file
        raise DatasetError(f"{path}: this shard is damaged or cut short; {repair}")
    found = reader.num_records()
    reader.close()
    if found != length:
        raise DatasetError(
            f"{path}: dataset_info.json says {length} records, the shard has {found}; {repair}"
        )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
