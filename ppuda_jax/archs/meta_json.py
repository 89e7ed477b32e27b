"""The JSON file beside a DeepNets-1M HDF5 file, read and written without holding it in memory.

The file is {split: {"nets": [record, ...], "meta": {...}}, ...}. The training split's has a
million records (about 600 MB), so reading only finds where each record starts and ends; records
are parsed when asked for. Writing streams them.
"""

import dataclasses
import json
import mmap
import os
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

_CHUNK = 1 << 24
_RECORD_BRACES = 3  # file, split, record
_SPLIT_BRACES = 2


@dataclasses.dataclass(frozen=True)
class MetaSplit:
    """Where the parts of one split lie in the file.

    Attributes:
      nets: [n, 2] int64, first byte and end of each record.
      meta: first byte and end of the "meta" object.
    """

    nets: np.ndarray
    meta: tuple[int, int]


class MetaFile:
    """Random access to the records of a meta file; safe to pickle and to use after a fork."""

    def __init__(self, path: str) -> None:
        """Finds the records.

        Args:
          path: the JSON file.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it is no meta file of DeepNets-1M, or ends too early.
        """
        self.path = path
        self.splits = _scan(path)

    def record(self, split: str, index: int) -> dict[str, Any]:
        """Parses one record of a split.

        Args:
          split: name of the split.
          index: number of the record.

        Returns:
          The record as JSON values.

        Raises:
          ValueError: the file no longer holds JSON there.
        """
        start, end = self.splits[split].nets[index]
        return self._parse(int(start), int(end))

    def meta(self, split: str) -> dict[str, dict[str, str]]:
        """Parses the "meta" object of a split: tables id -> name."""
        return self._parse(*self.splits[split].meta)

    def _parse(self, start: int, end: int) -> dict[str, Any]:
        with open(self.path, "rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"bytes {start} to {end} of {self.path} must be a JSON object, received "
                f"{text[:80]!r}: the file changed or is damaged, fetch or generate it again."
            ) from error


def _scan(path: str) -> dict[str, MetaSplit]:
    """Finds splits, records and tables by counting braces and brackets (names hold none)."""
    if os.path.getsize(path) == 0:
        raise ValueError(_foreign(path, "an empty file"))
    opened: list[tuple[int, int]] = []
    closed: list[tuple[int, int]] = []
    in_list: list[bool] = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        depth = brackets = 0
        for first in range(0, len(data), _CHUNK):
            codes = np.frombuffer(data[first : first + _CHUNK], np.uint8)
            marks = np.flatnonzero(np.isin(codes, np.frombuffer(b"{}[]", np.uint8)))
            kinds = codes[marks]
            braces = np.where(kinds == ord("{"), 1, np.where(kinds == ord("}"), -1, 0))
            lists = np.where(kinds == ord("["), 1, np.where(kinds == ord("]"), -1, 0))
            depths = depth + np.cumsum(braces)
            levels = brackets + np.cumsum(lists)
            if marks.size:
                depth, brackets = int(depths[-1]), int(levels[-1])
            for level in (_SPLIT_BRACES, _RECORD_BRACES):
                start = (braces == 1) & (depths == level)
                opened.extend((level, int(p)) for p in marks[start] + first)
                in_list.extend((levels[start] > 0).tolist())
                end = (braces == -1) & (depths == level - 1)
                closed.extend((level, int(p) + 1) for p in marks[end] + first)
        if depth or brackets or data[:1] != b"{":
            raise ValueError(_foreign(path, "a file that ends within an object or a list"))
        return _assemble(path, data, opened, closed, in_list)


def _assemble(path: str, data: mmap.mmap, opened, closed, in_list) -> dict[str, MetaSplit]:
    starts = {level: np.array([p for lv, p in opened if lv == level], np.int64) for level in (2, 3)}
    ends = {level: np.array([p for lv, p in closed if lv == level], np.int64) for level in (2, 3)}
    listed = np.array(
        [flag for (lv, _), flag in zip(opened, in_list, strict=True) if lv == 3], bool
    )
    splits = {}
    for start, end in zip(starts[2], ends[2], strict=True):
        name = data[max(0, int(start) - 80) : int(start)].rsplit(b'"', 2)[-2].decode()
        inside = (starts[3] > start) & (starts[3] < end)
        records = np.stack([starts[3], ends[3]], axis=1)[inside]
        meta = records[~listed[inside]]
        if len(meta) != 1:
            raise ValueError(_foreign(path, f"a split {name!r} without one 'meta' object"))
        splits[name] = MetaSplit(records[listed[inside]], (int(meta[0, 0]), int(meta[0, 1])))
    if not splits:
        raise ValueError(_foreign(path, "no split"))
    return splits


def _foreign(path: str, received: str) -> str:
    layout = "{split: {'nets': [...], 'meta': {...}}}"
    return (
        f"{path} must be a meta file of DeepNets-1M ({layout}), received {received}: fetch it "
        "again or generate it by experiments.generate."
    )


class MetaWriter:
    """Streams records into an open text file, split after split."""

    def __init__(self, file: TextIO) -> None:
        """Starts the file."""
        self._file = file
        self._splits = 0
        self._records = 0
        file.write("{")

    def begin(self, split: str) -> None:
        """Starts a split."""
        self._file.write(f'{", " if self._splits else ""}{json.dumps(split)}: {{"nets": [')
        self._splits += 1
        self._records = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends a record to the current split."""
        self._file.write((", " if self._records else "") + json.dumps(record))
        self._records += 1

    def end(self, meta: Mapping[str, Mapping[int, str]]) -> None:
        """Ends the current split with its tables."""
        self._file.write('], "meta": ' + json.dumps(meta) + "}")

    def close(self) -> None:
        """Ends the file's object; the caller closes the file."""
        self._file.write("}")
