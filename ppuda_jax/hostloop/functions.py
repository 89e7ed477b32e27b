"""The compiled functions of steps, shared by all networks and threads.

A function is compiled when a network first needs it, in the background and side by side with
others, while the network's first steps run.

Legend: `B` images, `L` parameters of a step.
"""

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ppuda_jax.hostloop.compilation import jit_small
from ppuda_jax.hostloop.kinds import run_step
from ppuda_jax.hostloop.pages import blocks_of, read_leaves, write_leaves
from ppuda_jax.hostloop.steps import Shape, StepKey
from ppuda_jax.nets.context import OpContext
from ppuda_jax.programs import PROGRAMS, ProgramCache

Source = Literal["pages", "leaves"]
"""Where the forward function of a step takes its parameters from."""

Name = Literal["pages", "leaves", "pullback", "leaf_pullback"]
"""Which function of a step: forward from pages or leaves, or its pullback."""
Function = Callable[..., Any]
"""A compiled function."""

_MOST_FUNCTIONS = 4000  # 500 test networks need 2,200, 1,000 training networks twice 1,250


@dataclasses.dataclass(frozen=True)
class Batch:
    """What all steps of a run have in common.

    Attributes:
      images: B.
      dtype: of the maps.
      param_dtype: of parameters and vectors.
      calibration: images at the front of a batch whose statistics norms use; 0 for all.
      dropout: whether there is dropout before the second of two dense layers.
      norms: whether norms are computed.
    """

    images: int
    dtype: str = "float32"
    param_dtype: str = "float32"
    calibration: int = 0
    dropout: bool = False
    norms: bool = True

    @property
    def context(self) -> OpContext:
        """Static choices of all operations."""
        return OpContext(norm_images=self.calibration, norms=self.norms)

    def map_shape(self, shape: Shape) -> jax.ShapeDtypeStruct:
        """A map, or a vector per image."""
        dtype = self.dtype if len(shape) == 3 else self.param_dtype
        return jax.ShapeDtypeStruct((self.images, *shape), dtype)


class StepFunctions:
    """Compiles each function once, whoever asks for it, in the one cache of programs."""

    def __init__(self, batch: Batch, threads: int, cache: ProgramCache | None = None) -> None:
        """Prepares; compiles nothing.

        Args:
          batch: what the functions have in common.
          threads: functions that are compiled side by side.
          cache: where they are, instead of `PROGRAMS`.
        """
        self.batch = batch
        self._cache = PROGRAMS if cache is None else cache
        self._x64 = bool(jax.config.read("jax_enable_x64"))  # threads have settings of their own
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "compile")
        self._jobs: dict[Hashable, concurrent.futures.Future[None]] = {}
        self._asked: set[Hashable] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Functions that have been asked for."""
        return len(self._asked)

    def request(self, name: Name, keys: Iterable[StepKey]) -> None:
        """Starts to compile what is not compiled yet.

        Args:
          name: which function of a step.
          keys: the steps.
        """
        for key in keys:
            with self._lock:
                self._asked.add((name, key))
                if (name, key) in self._jobs:
                    continue
                if self._cache.find(self._key(name, key)) is None:
                    self._jobs[name, key] = self._pool.submit(self._compile_ahead, name, key)

    def start(self, job: Callable[[], Any]) -> None:
        """Has something else compiled in the same threads; `wait` waits for it."""
        with self._lock:
            self._jobs[job] = self._pool.submit(job)

    def _compile_ahead(self, name: Name, key: StepKey) -> None:
        self.get(name, key)
        with self._lock:
            del self._jobs[name, key]

    def get(self, name: Name, key: StepKey) -> Function:
        """A compiled function; waits for it, or compiles it. See `request`.

        Raises:
          NoRoomError: see `ProgramCache.load`.
        """
        return self._cache.load(
            self._key(name, key),
            lambda: _Lowered(name, key, self.batch, self._x64),
            kind="steps of networks",
            most=_MOST_FUNCTIONS,
        )

    def wait(
        self,
        show: Callable[[int, int], None],
        others: Sequence["concurrent.futures.Future[None]"] = (),
    ) -> None:
        """Returns when everything that was asked for is compiled.

        Args:
          show: is told how many functions are compiled, of how many.
          others: is waited for too.
        """
        with self._lock:
            jobs = [*others, *self._jobs.values()]
        for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            job.result()
            show(done, len(jobs))

    def close(self) -> None:
        """Compiles no more; does not wait for what is being compiled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _key(self, name: Name, key: StepKey) -> Hashable:
        return (name, key, self.batch, self._x64)


@dataclasses.dataclass(frozen=True)
class _Lowered:
    """A function that can be compiled; satisfies `programs.Lowered`."""

    name: Name
    key: StepKey
    batch: Batch
    x64: bool

    def compile(self) -> Any:
        """Traces and compiles."""
        with jax.enable_x64(self.x64):
            function, shapes, donated = _BUILD[self.name](self.key, self.batch)
            return jit_small(function, donated).lower(*shapes).compile()


_Built = tuple[Function, tuple[Any, ...], tuple[int, ...]]


def _rng_of(key: StepKey, batch: Batch) -> Any:
    if batch.dropout and key.kind == "dense" and key.relu:
        return jax.eval_shape(lambda: jax.random.key(0))
    return None


def _maps_of(key: StepKey, batch: Batch) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(batch.map_shape(shape) for shape in key.maps)


def _pages_of(key: StepKey, batch: Batch) -> tuple[Any, ...]:
    pages = tuple(jax.ShapeDtypeStruct(block.shape, batch.param_dtype) for block in blocks_of(key))
    return pages, jax.ShapeDtypeStruct((len(key.leaves),), jnp.int32)


def _from_pages(key: StepKey, batch: Batch) -> _Built:
    """(pages, starts, maps, rng) -> output."""

    def run(pages, starts, maps, rng):
        return run_step(key, read_leaves(key, pages, starts), maps, rng, batch.context)

    return run, (*_pages_of(key, batch), _maps_of(key, batch), _rng_of(key, batch)), ()


def _from_leaves(key: StepKey, batch: Batch) -> _Built:
    """(leaves, starts, maps, rng) -> output; starts are ignored."""

    def run(leaves, starts, maps, rng):
        del starts
        return run_step(key, leaves, maps, rng, batch.context)

    leaves = tuple(jax.ShapeDtypeStruct(leaf.shape, batch.param_dtype) for leaf in key.leaves)
    starts = jax.ShapeDtypeStruct((len(key.leaves),), jnp.int32)
    return run, (leaves, starts, _maps_of(key, batch), _rng_of(key, batch)), ()


def _pullback(key: StepKey, batch: Batch) -> _Built:
    """(gradient pages, pages, starts, maps, rng, g) -> (gradient pages, cotangents of the maps).

    The gradient's rows are written into its pages, which are donated. There are no cotangents of
    the image.
    """
    pages, starts = _pages_of(key, batch)
    maps, rng = _maps_of(key, batch), _rng_of(key, batch)

    def pull(gradient: Sequence[jax.Array], pages, starts, maps, rng, g):
        def forward(leaves, maps):
            return run_step(key, leaves, maps, rng, batch.context)

        leaves = read_leaves(key, pages, starts)
        if key.from_image:
            _, back = jax.vjp(lambda leaves: forward(leaves, maps), leaves)
            (g_leaves,), g_maps = back(g), ()
        else:
            _, back = jax.vjp(forward, leaves, maps)
            g_leaves, g_maps = back(g)
        return write_leaves(key, gradient, starts, g_leaves), g_maps

    shapes = (pages, starts, maps, rng)
    output = jax.eval_shape(
        lambda p, s, m, r: run_step(key, read_leaves(key, p, s), m, r, batch.context), *shapes
    )
    return pull, (pages, *shapes, output), (0,)


def _leaf_pullback(key: StepKey, batch: Batch) -> _Built:
    """(leaves, starts, maps, rng, g) -> (cotangents of the leaves, cotangents of the maps).

    There are no cotangents of the image.
    """
    forward, shapes, _ = _from_leaves(key, batch)

    def pull(leaves, starts, maps, rng, g):
        if key.from_image:
            _, back = jax.vjp(lambda leaves: forward(leaves, starts, maps, rng), leaves)
            return *back(g), ()
        _, back = jax.vjp(lambda leaves, maps: forward(leaves, starts, maps, rng), leaves, maps)
        return back(g)

    return pull, (*shapes, jax.eval_shape(forward, *shapes)), ()


_BUILD: dict[Name, Callable[[StepKey, Batch], _Built]] = {
    "pages": _from_pages,
    "leaves": _from_leaves,
    "pullback": _pullback,
    "leaf_pullback": _leaf_pullback,
}
