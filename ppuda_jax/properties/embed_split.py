"""Embeddings of very many networks: sampled, embedded and kept in chunks that are done once.

A hundred thousand networks fit neither into memory as graphs nor into one sitting. Graphs are made
by worker processes, a piece at a time, and a chunk of embeddings is a file that appears whole or
not at all, so that a stopped run loses a chunk at most.

Legend: `n` networks, `D` width of the node states.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.hdf5 import NetRecords, load_split
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at, fingerprint
from ppuda_jax.archs.splits import get_split
from ppuda_jax.config import differences, write_atomic
from ppuda_jax.evaluation.parameters import predicted
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.properties.embed import embed
from ppuda_jax.runtime.processors import processors

_PIECE = 125  # networks that a worker makes at a time
_AHEAD = 4000  # networks that are made while others go through the hypernetwork
_IN_PROCESS = 250  # fewer networks are not worth starting workers for
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks by number; the same number is always the same network.

    Attributes:
      split: whose rules they are sampled by, or which split of the file is read.
      image_size: 32 or 224.
      num_classes: of their classifiers.
      seed: another sequence for each; of sampled ones.
      path: HDF5 file to read instead of sampling.
    """

    split: str = "search"
    image_size: int = 32
    num_classes: int = 10
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is None:
            get_split(self.split)

    def config(self, index: int) -> NetConfig:
        """Network `index`."""
        if self.path is None:
            return arch_at(self.split, index, self.image_size, self.seed)
        return _records(self.path, self.split, self.image_size)[index].config


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Networks and their embeddings.

    Attributes:
      index: int64 [n], their numbers.
      embeddings: float32 [n, D].
      fingerprints: uint64 [n], equal for equal architectures (`archs.sampling.fingerprint`).
      num_params: int64 [n].
      num_nodes: int64 [n].
    """

    index: np.ndarray
    embeddings: np.ndarray
    fingerprints: np.ndarray
    num_params: np.ndarray
    num_nodes: np.ndarray


def embed_networks(
    ghn: LoadedGHN,
    networks: Networks,
    num: int,
    *,
    start: int = 0,
    folder: str | os.PathLike[str] | None = None,
    chunk: int = 4000,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embeds networks `start` to `start + num`.

    Args:
      ghn: the hypernetwork.
      networks: which ones there are.
      num: n.
      start: number of the first one.
      folder: where chunks are kept, and taken from; nowhere if None. A chunk that cannot be read
        is reported and done again.
      chunk: networks of a file; they are sorted by size, so that small chunks take longer.
      workers: processes that make graphs; as many as processors if None, and 0 makes them here.
      progress: called as (networks done, n).

    Raises:
      ValueError: no networks, an unknown split, or a folder of another hypernetwork or networks.
    """
    if num < 1 or start < 0 or chunk < 1:
        raise ValueError(
            f"num and chunk must be at least 1 and start not negative, received {num}, {chunk} and "
            f"{start}"
        )
    store = None if folder is None else _Store(folder, ghn, networks, chunk)
    last = start + num
    chunks = [
        range(max(first, start), min(first + chunk, last))
        for first in range(start - start % chunk, last, chunk)
    ]
    found = {numbers: store.read(numbers) if store else None for numbers in chunks}
    parts = {numbers: part for numbers, part in found.items() if part is not None}
    todo = [numbers for numbers in chunks if numbers not in parts]
    done = sum(map(len, parts))
    if done and progress:
        progress(done, num)
    if workers is None:
        few = sum(map(len, todo)) < _IN_PROCESS
        workers = 0 if few else processors()
    made = _graphs(networks, todo, workers)
    for numbers in todo:
        parts[numbers] = _chunk(ghn, numbers, made)
        if store:
            store.write(numbers, parts[numbers])
        done += len(numbers)
        if progress:
            progress(done, num)
    columns = [field.name for field in dataclasses.fields(Embedded)]
    return Embedded(*(np.concatenate([getattr(parts[c], n) for c in chunks]) for n in columns))


def num_kept(folder: str | os.PathLike[str], num: int) -> int:
    """How many of networks 0 to `num` a folder of `embed_networks` has, damaged chunks included."""
    names = (path.stem.split("-") for path in pathlib.Path(folder).expanduser().glob("*-*.npz"))
    return sum(int(last) - int(first) for first, last in names if int(last) <= num)


@dataclasses.dataclass(frozen=True)
class _Made:
    """A graph without what embedding does not need, small enough to travel between processes."""

    primitive: np.ndarray
    edges: np.ndarray
    shapes: np.ndarray
    fingerprint: int
    num_params: int


def _make(networks: Networks, indices: Sequence[int]) -> list[_Made]:
    """Graphs of some networks; in a worker process, NumPy only."""
    found = []
    for index in indices:
        config = networks.config(index)
        plan = make_plan(config, networks.num_classes, networks.image_size)
        graph = graph_from_plan(plan)
        found.append(
            _Made(graph.primitive, graph.edges, graph.shapes, fingerprint(config), plan.num_params)
        )
    return found


def _graphs(networks: Networks, chunks: Sequence[range], workers: int) -> Iterator[list[_Made]]:
    """Yields the pieces of all chunks in order, a few of them made ahead."""
    pieces = [piece for numbers in chunks for piece in _pieces(numbers)]
    make = functools.partial(_make, networks)
    if not workers:
        yield from map(make, pieces)
        return
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork does not take
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        ahead = workers + -(-_AHEAD // _PIECE)
        waiting = collections.deque(pool.submit(make, p) for p in pieces[:ahead])
        rest = iter(pieces[ahead:])
        try:
            while waiting:
                piece = waiting.popleft().result()
                waiting.extend(pool.submit(make, p) for p in (next(rest, None),) if p is not None)
                yield piece
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pieces(numbers: range) -> list[range]:
    return [numbers[i : i + _PIECE] for i in range(0, len(numbers), _PIECE)]


def _chunk(ghn: LoadedGHN, numbers: range, made: Iterator[list[_Made]]) -> Embedded:
    """Embeds the next pieces, which are those of one chunk."""
    nets = [net for _ in _pieces(numbers) for net in next(made)]
    graphs = [ArchGraph(net.primitive, net.edges, net.shapes) for net in nets]
    return Embedded(
        np.array(numbers, np.int64),
        embed(ghn, graphs),
        np.array([net.fingerprint for net in nets], np.uint64),
        np.array([net.num_params for net in nets], np.int64),
        np.array([graph.num_nodes for graph in graphs], np.int64),
    )


class _Store:
    """The folder of chunks."""

    def __init__(
        self, folder: str | os.PathLike[str], ghn: LoadedGHN, networks: Networks, chunk: int
    ) -> None:
        self._folder = pathlib.Path(folder).expanduser()
        told = {**predicted(ghn).identity, "networks": dataclasses.asdict(networks), "chunk": chunk}
        self._identity: Mapping[str, Any] = json.loads(json.dumps(told))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "embeddings.json"
        if path.exists():
            self._check(path)
        else:
            write_atomic(path, json.dumps(self._identity, indent=1) + "\n")

    def _check(self, path: pathlib.Path) -> None:
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove the folder") from error
        if there != self._identity:
            differing = differences(there, self._identity, self._identity)
            raise ValueError(
                f"{self._folder} holds embeddings of another hypernetwork or of other networks "
                f"({'; '.join(differing)}): choose another folder, or remove it"
            )

    def read(self, numbers: range) -> Embedded | None:
        """A chunk; None if it is not there, or cannot be read."""
        path = self._path(numbers)
        if not path.exists():
            return None
        try:
            with open(path, "rb") as file, np.load(file) as arrays:  # checked by its checksums
                found = {field.name: arrays[field.name] for field in dataclasses.fields(Embedded)}
                identity = json.loads(str(arrays["identity"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _LOG.warning("%s cannot be read (%s): it is made again", path, error)
            return None
        if identity != self._identity or found["index"].tolist() != list(numbers):
            raise ValueError(
                f"{path} is of another hypernetwork or of other networks: remove it, or choose "
                "another folder"
            )
        return Embedded(**found)

    def write(self, numbers: range, chunk: Embedded) -> None:
        """Writes a chunk, whole or not at all."""
        target = self._path(numbers)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        arrays = {f.name: getattr(chunk, f.name) for f in dataclasses.fields(Embedded)}
        try:
            with open(temporary, "wb") as file:
                np.savez(file, identity=np.array(json.dumps(self._identity)), **arrays)
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _path(self, numbers: range) -> pathlib.Path:
        return self._folder / f"{numbers.start:09d}-{numbers.stop:09d}.npz"


@functools.lru_cache(maxsize=1)
def _records(path: str, split: str, image_size: int) -> NetRecords:
    return load_split(path, split, image_size)
