"""Files of DeepNets-1M: HDF5 for graphs, JSON beside it for network records.

/<split>/<i>/adj is uint8 [N, N] with shortest path lengths up to 250 (1 = real edge, 0 = none),
/<split>/<i>/nodes uint16 [N, 3] with the ids of node kind, cell and name; the tables of ids are
in the JSON file (`meta_json`). Nothing is read before it is asked for, so the published training
file (10 GB) opens in seconds. Files are written under another name and renamed when complete.

Legend: N nodes. h5py is imported where it is used.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, overload

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.meta_json import MetaFile, MetaWriter
from ppuda_jax.archs.node_names import KIND_NAMES, NODE_NAMES
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.archs.widths import BASE_CHANNELS, evaluation_width, training_width, width_factor

TITLE = "DeepNets-1M"
"""What a file of the published format is called inside."""
FILE_DISTANCE = 250
"""Longest path that a file stores."""


@dataclasses.dataclass(frozen=True)
class StoredGraph:
    """A graph exactly as a file has it.

    Attributes:
      adjacency: [N, N] uint8, shortest path lengths, 1 for real edges.
      kinds: N names of node kinds as in the file ("conv_1x1", ...).
      cells: [N] cell of each node.
      names: N names of nodes within their cell ("_ops.0.op.1.weight", ...).
    """

    adjacency: np.ndarray
    kinds: tuple[str, ...]
    cells: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class NetRecord:
    """One network of a file.

    Attributes:
      split: name of the split.
      index: number of the network in its split.
      stored_args: the record as in the file.
      config: the network, with a width (drawn by the training rule where the file has none;
        multiplied in the wide split, as published).
      num_nodes: nodes of its graph.
    """

    split: str
    index: int
    stored_args: Mapping[str, Any]
    config: NetConfig
    num_nodes: int

    @property
    def net_args(self) -> dict[str, Any]:
        """The record with its width, as `build_network` takes it."""
        return self.config.to_dict()


class NetRecords(Sequence):
    """The networks of one split of a file, read when asked for."""

    def __init__(self, path: str, split: str, image_size: int = 32) -> None:
        """Opens a split; see `load_split`."""
        self.path = os.fspath(path)
        self.split = split
        self.image_size = image_size
        self._file: tuple[int, Any] | None = None
        self._tables: tuple[dict[int, str], dict[int, str]] | None = None
        meta_path = meta_path_of(self.path)
        for needed in (self.path, meta_path):
            if not os.path.exists(needed):
                raise FileNotFoundError(
                    f"{needed} must exist (an HDF5 file of DeepNets-1M and its JSON file lie "
                    "side by side): fetch it or generate it by experiments.generate."
                )
        self._meta = MetaFile(meta_path)
        group = self._group()
        known = self._meta.splits
        if split not in known or len(known[split].nets) != len(group):
            found = {name: len(entry.nets) for name, entry in known.items()}
            raise ValueError(
                f"{meta_path} must describe the {len(group)} networks of split {split!r} in "
                f"{self.path}, received {found}: the two files do not belong together."
            )

    def __len__(self) -> int:
        return len(self._meta.splits[self.split].nets)

    @overload
    def __getitem__(self, index: int) -> NetRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[NetRecord]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, received {index}.")
        index %= len(self)
        args = self._meta.record(self.split, index)
        config = _resolve_width(args, self.split, index, self.image_size)
        return NetRecord(self.split, index, args, config, int(args.get("num_nodes", 0)))

    def stored_graph(self, index: int) -> StoredGraph:
        """Reads the graph of one network as it is in the file.

        Args:
          index: number of the network.

        Returns:
          The graph.

        Raises:
          ValueError: if the arrays are missing or no graph.
        """
        group = self._group().get(str(index))
        if group is None or "adj" not in group or "nodes" not in group:
            raise ValueError(
                f"/{self.split}/{index} of {self.path} must hold 'adj' and 'nodes', received "
                f"{list(group or ())}: the file is incomplete, fetch or generate it again."
            )
        adjacency, nodes = group["adj"][()], group["nodes"][()]
        size = len(nodes)
        if adjacency.shape != (size, size) or nodes.shape != (size, 3) or np.tril(adjacency).any():
            raise ValueError(
                f"/{self.split}/{index} of {self.path} must be a strictly upper triangular "
                f"[N, N] and an [N, 3] array, received {adjacency.shape} and {nodes.shape}."
            )
        kinds, names = self._id_tables()
        return StoredGraph(
            adjacency.astype(np.uint8),
            tuple(kinds[int(i)] for i in nodes[:, 0]),
            nodes[:, 1].astype(np.int32),
            tuple(names[int(i)] for i in nodes[:, 2]),
        )

    def _id_tables(self) -> tuple[dict[int, str], dict[int, str]]:
        if self._tables is None:
            meta = self._meta.meta(self.split)
            if "primitives_ext" not in meta or "unique_op_names" not in meta:
                raise ValueError(
                    f"the meta file of {self.path} must have the tables 'primitives_ext' and "
                    f"'unique_op_names', received {sorted(meta)}."
                )
            kinds, names = (
                {int(key): name for key, name in meta[table].items()}
                for table in ("primitives_ext", "unique_op_names")
            )
            self._tables = (kinds, names)
        return self._tables

    def _group(self) -> Any:
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), _open_checked(self.path))
        file = self._file[1]
        if self.split not in file:
            raise ValueError(
                f"{self.path} must hold the split {self.split!r}, received {sorted(file)}."
            )
        return file[self.split]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def load_split(path: str, split: str, image_size: int = 32) -> NetRecords:
    """Opens one split of a DeepNets-1M file.

    Args:
      path: the HDF5 file; its JSON file lies beside it (`..._meta.json`).
      split: name of the split.
      image_size: 32 or 224, which decides the width of wide and training networks.

    Returns:
      A sequence of `NetRecord`s.

    Raises:
      FileNotFoundError: if one of the files is missing.
      ValueError: if they are foreign, truncated, or do not belong together.
    """
    return NetRecords(path, split, image_size)


def meta_path_of(path: str) -> str:
    """Returns the path of the JSON file that belongs to an HDF5 file."""
    return os.path.splitext(os.fspath(path))[0] + "_meta.json"


def _open_checked(path: str) -> Any:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} must be a complete HDF5 file of DeepNets-1M, received a file that HDF5 "
            f"cannot open ({error}): fetch or generate it again."
        ) from error
    title = file.attrs.get("title")
    if title != TITLE:
        file.close()
        raise ValueError(
            f"{path} must have the title {TITLE!r}, received {title!r}: it is another kind of file."
        )
    return file


def _resolve_width(args: Mapping[str, Any], name: str, index: int, image_size: int) -> NetConfig:
    """The network of a record, with a width."""
    split = SPLITS.get(name)
    if "C" not in args:
        config = NetConfig.from_dict(args, C=BASE_CHANNELS)
        if split is not None and split.width == "training":
            rng = np.random.default_rng((split.seed, index))
            return training_width(config, rng.random, image_size)
        config = dataclasses.replace(config, C=evaluation_width(config))
    else:
        config = NetConfig.from_dict(args)
    factor = 1 if split is None else width_factor(split, image_size)
    return config if factor == 1 else dataclasses.replace(config, C=factor * config.C)


class SplitWriter:
    """Writes an HDF5 file of DeepNets-1M and its JSON file; nothing appears before it is done.

    A context manager: on success the two files are renamed into place, on an exception what was
    written is removed.
    """

    def __init__(self, path: str, overwrite: bool = False) -> None:
        """Starts the two files under temporary names.

        Args:
          path: the HDF5 file to be.
          overwrite: whether existing files may be replaced.

        Raises:
          FileExistsError: if one of the files exists and may not be replaced.
        """
        self.path = os.fspath(path)
        self._targets = (self.path, meta_path_of(self.path))
        for target in self._targets:
            if os.path.exists(target) and not overwrite:
                raise FileExistsError(
                    f"{target} exists: choose another output or allow overwriting."
                )
        self._temporary = tuple(f"{target}.{os.getpid()}.part" for target in self._targets)

    def __enter__(self) -> "SplitWriter":
        import h5py

        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        self._h5 = h5py.File(self._temporary[0], "w")
        self._h5.attrs["title"] = TITLE
        self._json = open(self._temporary[1], "w", encoding="utf-8")
        self._meta = MetaWriter(self._json)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._meta.close()
        self._json.close()
        self._h5.close()
        for temporary, target in zip(self._temporary, self._targets, strict=True):
            if kind is None:
                os.replace(temporary, target)
            else:
                os.unlink(temporary)

    def write_split(
        self, split: str, records: Iterator[tuple[Mapping[str, Any], np.ndarray, np.ndarray]]
    ) -> int:
        """Writes one split.

        Args:
          split: name of the split.
          records: (record, adjacency [N, N] uint8, nodes [N, 3] uint16) for each network, with
            the ids of `node_names`.

        Returns:
          The number of networks written.
        """
        group = self._h5.create_group(split)
        self._meta.begin(split)
        count = 0
        for args, adjacency, nodes in records:
            entry = group.create_group(str(count))
            entry.create_dataset("adj", data=adjacency)
            entry.create_dataset("nodes", data=nodes)
            self._meta.add(args)
            count += 1
        self._meta.end(
            {
                "primitives_ext": dict(enumerate(KIND_NAMES)),
                "unique_op_names": dict(enumerate(NODE_NAMES)),
            }
        )
        return count
