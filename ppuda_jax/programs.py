"""The one cache of compiled programs: predictors, executors, training steps, steps of networks.

XLA:CPU gives every small function of a program memory mappings of its own, and ends the process
("Unable to allocate section memory") when the system allows no more. So the cache knows how many
mappings its programs take, and forgets those that were not used for longest before the limit.

A program that somebody still holds goes on living when it is forgotten; it is only gone, and its
mappings with it, when the last one lets go.
"""

import collections
import dataclasses
import gc
import math
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import jax
from jax.stages import Compiled

from ppuda_jax.runtime.memory import mapping_limit, mappings

_MARGIN = 1.25  # programs of one kind differ; the next may be larger than the largest so far
_FREE = 0.01  # share of the limit that is left for threads and buffers
_UNMEASURED = 500  # mappings expected of the very first program
_MAX_PROGRAMS = 64  # of a kind; where mappings are no limit, memory is
_UNCOUNTED = 0.005  # share of the limit that may be guessed between two counts
_SMALL, _BULK = 0.002, 0.05  # of the limit: programs below the first are forgotten in bulk

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_device")


class Lowered(Protocol):
    """What a program is compiled from, such as `jax.stages.Lowered`."""

    def compile(self) -> Any:
        """Compiles, and loads the program into the process."""


class NoRoomError(ValueError):
    """The process has no memory mappings left for another program, and none can be forgotten.

    Attributes:
      room: programs of this kind that the process could hold.
    """

    def __init__(self, message: str, room: int) -> None:
        super().__init__(message)
        self.room = room


@dataclasses.dataclass(eq=False)
class _Entry:
    """A program that lives.

    Attributes:
      kind: of the program.
      alive: the program, None when nobody holds it any more.
      held: the program again, None where the cache does not hold it.
      pinned: whether its caller holds it for good.
      mappings: how many it takes, as far as is known.
    """

    kind: str
    alive: weakref.ref[Any]
    held: Any
    pinned: bool
    mappings: float = 0.0


class ProgramCache:
    """Compiled programs by key, least recently used, within the process's memory mappings.

    For any number of threads. Different programs are compiled side by side where there is room for
    all of them; a program that two threads ask for is compiled once.
    """

    def __init__(
        self,
        limit: Callable[[], int | None] = mapping_limit,
        in_use: Callable[[], int] = mappings,
    ) -> None:
        """Makes an empty cache.

        Args:
          limit: mappings that the process may have; None for any number.
          in_use: mappings that it has.
        """
        self._limit, self._count = limit, in_use
        self._counted, self._guessed = 0.0, math.inf  # mappings, and those since they were counted
        self._fresh = False  # whether they were counted when the loads under way began
        self._changed = threading.Condition()
        self._entries: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()
        self._loading: dict[Hashable, str] = {}
        self._measured: dict[str, float] = {}  # the largest of each kind so far
        self._before, self._new = 0.0, list[_Entry]()  # of the loads that are under way together
        self._loads = 0

    @property
    def loads(self) -> int:
        """Programs compiled (or read from the cache on disk) since the process started."""
        return self._loads

    def __len__(self) -> int:
        """Programs that live now."""
        with self._changed:
            self._bury()
            return len(self._entries)

    def find(self, key: Hashable) -> Any:
        """A program that is there, which counts as used; None if it is not."""
        with self._changed:
            return self._find(key)

    def clear(self) -> None:
        """Lets go of all programs; those that somebody else holds live on, and are counted.

        Their mappings are free after `gc.collect()`: a program that has run lies in a cycle of
        references.
        """
        with self._changed:
            for entry in self._entries.values():
                entry.held = None
            self._guessed = math.inf

    def load(
        self,
        key: Hashable,
        lower: Callable[[], Lowered],
        *,
        kind: str,
        pinned: bool = False,
        most: int = _MAX_PROGRAMS,
    ) -> Any:
        """Returns a program; compiles it if it is not there.

        Args:
          key: what decides the program.
          lower: makes what is compiled; called without the lock.
          kind: programs of one kind are expected to be of similar size.
          pinned: the caller holds the program for good, and the cache only counts it.
          most: programs of this kind that are held, pinned ones not counted.

        Raises:
          NoRoomError: the limit of mappings would be reached.
        """
        with self._changed:
            while True:
                program = self._find(key)
                if program is not None:
                    return program
                if key not in self._loading and self._has_room(kind, most):
                    break
                self._changed.wait()
            if not self._loading:
                if kind not in self._measured:
                    self._guessed = math.inf  # it is about to be measured
                self._before, self._new = self._in_use(), list[_Entry]()
                self._fresh = self._guessed == 0.0
            self._loading[key] = kind
        program = None
        try:
            program = lower().compile()
        finally:
            with self._changed:
                del self._loading[key]
                if program is not None:
                    self._add(key, kind, program, pinned)
                self._changed.notify_all()
        return program

    def _find(self, key: Hashable) -> Any:
        entry = self._entries.get(key)
        program = entry.alive() if entry is not None else None
        if entry is not None and program is not None:
            self._entries.move_to_end(key)
            if not entry.pinned:
                entry.held = program
        return program

    def _add(self, key: Hashable, kind: str, program: Any, pinned: bool) -> None:
        """Enters a new program, and shares out what the loads that ran together have taken."""
        self._guessed += self._expected(kind)
        entry = _Entry(kind, weakref.ref(program), None if pinned else program, pinned)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._loads += 1
        self._new.append(entry)
        # While others load, part of the growth is theirs: what is shared out is too much by that,
        # so that somebody may wait, until the last of them sets it right. Without a count before
        # them, it may be that of programs that are compiled elsewhere.
        share = self._expected(kind)
        if self._fresh:
            share = max(0.0, self._in_use() - self._before) / len(self._new)
        for new in self._new:
            new.mappings = share
        if not self._loading:
            for new in self._new:
                self._measured[new.kind] = max(share, self._measured.get(new.kind, 0.0))
            self._new = []

    def _in_use(self) -> float:
        """Mappings of the process.

        To count them takes as long as to compile a small function, so that those of the last few
        small ones are guessed.
        """
        limit = self._limit()
        if limit is None or self._guessed >= _UNCOUNTED * limit:
            self._bury()
            self._counted, self._guessed = self._count(), 0.0
        return self._counted + self._guessed

    def _has_room(self, kind: str, most: int) -> bool:
        """Forgets programs until there is room for another one.

        Returns:
          False if that must wait for others that are loading.

        Raises:
          NoRoomError: nothing is left to forget or to wait for.
        """
        if len(self._entries) >= most:
            held = [e for e in self._entries.values() if e.held is not None and e.kind == kind]
            for entry in held[: max(0, len(held) + 1 - most)]:
                entry.held = None
        limit = self._limit()
        if limit is None:
            return True
        each = _MARGIN * self._expected(kind)
        coming = sum(_MARGIN * self._expected(other) for other in self._loading.values())
        free = (1 - _FREE) * limit - coming
        while (used := self._in_use()) + each > free:
            # Many small ones at a time: collecting garbage takes longer than compiling one.
            bulk = _BULK * limit if each < _SMALL * limit else 0.0
            forgotten = self._forget(used + each + bulk - free)
            gc.collect()  # a program that has run lies in a cycle of references
            self._guessed = math.inf
            if not forgotten and self._in_use() >= used:
                if self._loading:
                    return False
                raise self._no_room(kind, each, used, limit)
        return True

    def _expected(self, kind: str) -> float:
        """Mappings of the next program of a kind: of the largest so far, of any kind at first."""
        if kind in self._measured:
            return self._measured[kind]
        known = [entry.mappings for entry in self._entries.values() if entry.kind == kind]
        return max(known or self._measured.values(), default=_UNMEASURED)

    def _forget(self, excess: float) -> bool:
        """Lets go of the programs that were not used for longest; False if there are none."""
        forgotten = False
        for entry in self._entries.values():
            if excess <= 0:
                break
            if entry.held is not None:
                entry.held, forgotten, excess = None, True, excess - entry.mappings
        return forgotten

    def _bury(self) -> None:
        """Removes the entries of programs that nobody holds any more."""
        for key, entry in list(self._entries.items()):
            if entry.alive() is None:
                del self._entries[key]
                if entry in self._new:
                    self._new.remove(entry)
                else:
                    self._before -= entry.mappings

    def _no_room(self, kind: str, each: float, used: float, limit: int) -> NoRoomError:
        count = sum(entry.kind == kind for entry in self._entries.values())
        room = count + max(0, int(((1 - _FREE) * limit - used) / each))
        return NoRoomError(
            f"this process has room for {room} compiled programs ({kind}), {count + 1} are "
            f"wanted: each takes up to {each / _MARGIN:.0f} memory mappings, {used:.0f} of {limit} "
            f"are in use; allow more mappings (sysctl -w vm.max_map_count={4 * limit})",
            room,
        )


PROGRAMS = ProgramCache()
"""The cache of this process: mappings are the process's, so there is one."""


class CachedFunction:
    """A function whose programs, one per signature of its arguments, are in a `ProgramCache`.

    Two of them that have the same key share their programs. Inside other transformations of JAX
    (`jit`, `grad`, `vmap`) it is the plain function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: Hashable,
        kind: str,
        *,
        jit: Callable[[Callable[..., Any]], Any] = jax.jit,
        placed: bool = True,
        cache: ProgramCache | None = None,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          function: of pytrees of arrays.
          key: what decides the function, apart from its arguments.
          kind: as for `ProgramCache.load`.
          jit: makes what can be lowered.
          placed: whether it matters where the arguments lie; if not, all programs are for the
            default device.
          cache: where the programs are, instead of `PROGRAMS`.
        """
        self.function, self.kind = function, kind
        self.key, self._jit, self._placed = key, jit, placed
        self._cache = PROGRAMS if cache is None else cache

    def load(self, *args: Any) -> Compiled:
        """The program for arguments like these, arrays or their shapes."""
        if not self._placed:
            args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
        return self._cache.load(
            (self.kind, self.key, _signature(args)),
            lambda: self._jit(self.function).lower(*args),
            kind=self.kind,
        )

    def __call__(self, *args: Any) -> Any:
        """Runs the function."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
            return self.function(*args)
        return self.load(*args)(*args)


def _signature(args: tuple[Any, ...]) -> Hashable:
    """What of the arguments and of JAX's settings decides a program."""
    leaves, structure = jax.tree.flatten(args)
    settings = tuple(getattr(jax.config, name) for name in _SETTINGS)
    return (structure, settings, tuple(map(_aspects, leaves)))


def _aspects(leaf: Any) -> Hashable:
    # Where an array lies decides its program only if it may not be moved.
    fixed = getattr(leaf, "committed", isinstance(leaf, jax.ShapeDtypeStruct))
    place = getattr(leaf, "sharding", None) if fixed else None
    return (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False), place)
