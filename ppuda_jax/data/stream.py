"""Endless meta-batches, sampled and built by background processes.

The stream is random access: architecture `i` is a pure function of the seed and `i`. Workers first
survey architectures in chunks (variant and size only), the main process groups them, and workers
then build the groups, so that little but finished arrays travels between processes. Workers never
start a JAX backend.

Legend: `M` networks of a meta-batch, `K` meta-batches of a dispatch, `S` shards (devices).
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax import tree_util

from ppuda_jax.data.grouping import Group, Grouping, GroupingState, StreamError, Survey
from ppuda_jax.runtime.processors import processors

_CHUNK = 32
_PARKED_CHUNKS = 4
_MOST_UNFIT_GROUPS = 100


class Networks(Protocol):
    """A family of networks by index; picklable, pure, NumPy only."""

    def survey(self, index: int) -> Survey:
        """Variant and size of architecture `index`."""

    def build(self, indices: Sequence[int], variant: Hashable) -> Any:
        """Pytree of arrays for these architectures; shapes depend on variant and count only.

        In a mixed stream there is no variant (None), and what is built may be an array of objects.

        None if they do not fit together; the stream then leaves them out and counts them.
        """

    def describe(self, index: int) -> dict[str, Any]:
        """JSON-ready record of architecture `index`, to report it."""


@dataclasses.dataclass(frozen=True)
class MetaBatches:
    """The arrays of one dispatch: K meta-batches, of one variant unless the stream is mixed.

    Attributes:
        variant: executor variant of all its networks; None in a mixed stream.
        indices: stream indices [K * M] of its networks.
        arrays: pytree; every leaf [K, S, ...] for the shards of this host.
        state: position of the stream after it.
    """

    variant: Hashable
    indices: tuple[int, ...]
    arrays: Any
    state: GroupingState


def default_workers() -> int:
    """Worker processes that keep a training process busy without crowding it."""
    return max(1, min(12, processors() - 2))


class ArchitectureStream:
    """Iterator over `MetaBatches`; deterministic, resumable at any of them."""

    def __init__(
        self,
        networks: Networks,
        *,
        meta_batch_size: int,
        steps_per_dispatch: int = 1,
        num_shards: int = 1,
        host_shards: range | None = None,
        max_nodes: int = 2200,
        shares: Mapping[Hashable, float] | None = None,
        mixed: bool = False,
        workers: int | None = None,
        prefetch: int | None = None,
        state: GroupingState | None = None,
    ) -> None:
        """Starts the workers; nothing is sampled before the first dispatch is asked for.

        Args:
            networks: where architectures come from; handed to the workers.
            meta_batch_size: M, over all shards; a multiple of `num_shards`.
            steps_per_dispatch: K.
            num_shards: S, devices over all hosts.
            host_shards: the shards that this host gets; all of them if not given. (Each host
                builds all, so that all leave out the same.)
            max_nodes: larger meta-batches are dropped, see `grouping.node_limit`.
            shares: variants to keep and the share of their networks, see `Grouping`.
            mixed: whether networks of several variants may be in a meta-batch.
            workers: processes; 0 builds in the calling thread.
            prefetch: meta-batches built ahead; twice the workers if not given.
            state: position to continue from.

        Raises:
            ValueError: the meta-batch does not divide among the shards.
        """
        if meta_batch_size % num_shards:
            raise ValueError(
                f"meta_batch_size must be a multiple of the {num_shards} devices, received "
                f"{meta_batch_size}; choose a multiple or set num_devices"
            )
        workers = default_workers() if workers is None else workers
        self._networks, self._steps, self._shards = networks, steps_per_dispatch, num_shards
        self._host_shards = host_shards or range(num_shards)
        self._per_shard = meta_batch_size // num_shards
        self._max_nodes, self._mixed = max_nodes, mixed
        self._prefetch = prefetch if prefetch is not None else 2 * workers
        self._pool = WorkerPool(networks, workers)
        state = state or GroupingState()
        self._grouping = Grouping(meta_batch_size, max_nodes, shares, state, mixed=mixed)
        self._resumed, self._unfit = state.pending, state.unfit_skipped
        self._unfit_in_a_row = 0
        self._next_chunk = state.next_index
        self._surveys: collections.deque[Any] = collections.deque()
        self._groups: collections.deque[Group] = collections.deque()
        self._builds: collections.deque[tuple[Group, Any]] = collections.deque()
        self._ready: dict[Hashable, list[tuple[Group, Any]]] = collections.defaultdict(list)

    def probe(self, count: int) -> list[tuple[Hashable, list[Survey]]]:
        """Looks at the first `count` architectures of the stream, whatever its position.

        Returns:
            (variant, its architectures in stream order), most frequent first; ties by index.
        """
        chunks = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
        found: dict[Hashable, list[Survey]] = collections.defaultdict(list)
        for future in [self._pool.survey(chunk) for chunk in chunks]:
            for survey in future.result():
                found[survey.variant].append(survey)
        return sorted(found.items(), key=lambda row: (-len(row[1]), row[1][0].index))

    def restrict(self, shares: Mapping[Hashable, float]) -> None:
        """Keeps these shares of these variants only; before the first group is taken.

        Raises:
            ValueError: groups have already been taken.
        """
        if self._surveys or self._builds:
            raise ValueError("the variants of a stream must be chosen before its first group")
        size, state = self._per_shard * self._shards, self._grouping.state()
        self._grouping = Grouping(size, self._max_nodes, shares, state, mixed=self._mixed)

    def example(self, surveys: Sequence[Survey]) -> Any:
        """Arrays [K, S, ...] of networks of one variant: the right shapes, to compile ahead.

        The given architectures are taken in turn, smallest first, then each of the smallest alone;
        None if there is no room for any of these.
        """
        size = self._per_shard * self._shards
        ordered = [s.index for s in sorted(surveys, key=lambda s: (s.num_nodes, s.index))]
        choices = [ordered, *([index] for index in ordered[:8])]
        for choice in choices:
            indices = tuple(itertools.islice(itertools.cycle(choice), size))
            arrays = self._submit(surveys[0].variant, indices).result()
            if arrays is not None:
                return self._stack([arrays] * self._steps)
        return None

    def describe(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Records of architectures, with their index, for a report."""
        return [{"index": i, **self._networks.describe(i)} for i in indices]

    def __iter__(self) -> Iterator[MetaBatches]:
        return self

    def __next__(self) -> MetaBatches:
        """The next dispatch.

        Raises:
            StreamError: meta-batches are left out without end.
        """
        while True:
            self._top_up_builds()
            group, build = self._builds.popleft()
            arrays = build.result()
            if arrays is None:
                self._leave_out(group)
                continue
            self._unfit_in_a_row = 0
            ready = self._ready[group.variant]
            ready.append((group, arrays))
            if len(ready) == self._steps:
                del self._ready[group.variant]
                indices = tuple(index for taken, _ in ready for index in taken.indices)
                stacked = self._stack([built for _, built in ready])
                return MetaBatches(group.variant, indices, stacked, self._state_after(group))

    def _leave_out(self, group: Group) -> None:
        self._unfit += 1
        self._unfit_in_a_row += 1
        if self._unfit_in_a_row >= _MOST_UNFIT_GROUPS:
            raise StreamError(
                f"networks of a meta-batch must fit in the executor together, received "
                f"{self._unfit_in_a_row} meta-batches in a row that do not (the last one: "
                f"architectures {list(group.indices)} of variant {group.variant}); more networks "
                f"per device even out their sizes: raise meta_batch_size or lower num_devices"
            )

    def _state_after(self, group: Group) -> GroupingState:
        """Position once this meta-batch has been taken: those that are built but wait count too."""
        built = [i for ready in self._ready.values() for taken, _ in ready for i in taken.indices]
        pending = tuple(sorted([*group.state.pending, *built]))
        return dataclasses.replace(group.state, pending=pending, unfit_skipped=self._unfit)

    def _top_up_builds(self) -> None:
        while len(self._builds) <= self._prefetch:
            group = self._next_group(wait=not self._builds)
            if group is None:
                return
            self._builds.append((group, self._submit(group.variant, group.indices)))

    def _stack(self, steps: list[Any]) -> Any:
        """[K, S of this host, ...] from K meta-batches [S, ...]."""
        own = slice(self._host_shards.start, self._host_shards.stop)
        return tree_util.tree_map(lambda *leaves: np.stack([x[own] for x in leaves]), *steps)

    def close(self) -> None:
        """Stops the workers."""
        self._pool.close()

    def _next_group(self, wait: bool) -> Group | None:
        """The next meta-batch; None if not `wait` and its surveys are still running."""
        while not self._groups:
            self._top_up_surveys()
            if not wait and not self._surveys[0].done():
                return None
            for survey in self._surveys.popleft().result():
                group = self._grouping.feed(survey)
                if group is not None:
                    self._groups.append(group)
        return self._groups.popleft()

    def _top_up_surveys(self) -> None:
        while len(self._surveys) < max(1, self._pool.workers) + _PARKED_CHUNKS:
            if self._resumed:
                chunk: Sequence[int] = self._resumed[:_CHUNK]
                self._resumed = self._resumed[_CHUNK:]
            else:
                chunk = range(self._next_chunk, self._next_chunk + _CHUNK)
                self._next_chunk += _CHUNK
            self._surveys.append(self._pool.survey(chunk))

    def _submit(self, variant: Hashable, indices: tuple[int, ...]) -> Any:
        shards = np.asarray(indices).reshape(self._shards, self._per_shard).tolist()
        return self._pool.build(variant, shards)


class WorkerPool:
    """Runs surveys and builds in processes, or at once in this thread when `workers` is 0."""

    def __init__(self, networks: Networks, workers: int) -> None:
        self.workers = workers
        self._networks = networks
        self._executor = None
        if workers:
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(networks,),
            )

    def survey(self, chunk: Sequence[int]) -> Any:
        """Future of the surveys of a chunk of indices."""
        return self._run(_survey_chunk, chunk)

    def build(self, variant: Hashable, shards: list[list[int]]) -> Any:
        """Future of the arrays [S, ...] of indices [S][M/S]; None without room."""
        return self._run(_build_shards, variant, shards)

    def close(self) -> None:
        """Ends the processes without waiting for work in hand."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._executor is not None:
            return self._executor.submit(function, None, *args)
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(function(self._networks, *args))
        return future


_worker_networks: list[Networks] = []  # set once in each worker process


def _start_worker(networks: Networks) -> None:
    """Runs first in every worker: no accelerator, low priority, no interrupts, no orphans."""
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(5)
    _worker_networks[:] = [networks]
    end_with_parent()


def end_with_parent() -> None:
    """Makes a worker process end with the process that started it, however that one ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _survey_chunk(networks: Networks | None, chunk: Sequence[int]) -> list[Survey]:
    networks = networks or _worker_networks[0]
    return [_named(index, networks.survey, index) for index in chunk]


def _build_shards(networks: Networks | None, variant: Hashable, shards: list[list[int]]) -> Any:
    networks = networks or _worker_networks[0]
    built = [_named(indices, networks.build, indices, variant) for indices in shards]
    if any(arrays is None for arrays in built):
        return None
    return tree_util.tree_map(lambda *leaves: np.stack(leaves), *built)


def _named(which: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Calls the function; an error says which architectures it was about."""
    try:
        return function(*args)
    except Exception as error:
        raise RuntimeError(
            f"architectures {which} of the stream cannot be built: {error}"
        ) from error
