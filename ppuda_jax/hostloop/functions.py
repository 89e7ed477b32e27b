"""The compiled functions of steps, shared by all networks and threads.

A function is compiled when a network first needs it, in the background and side by side with
others, while the network's first steps run.

Legend: `B` images, `L` parameters of a step.
"""

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ppuda_jax.hostloop.kinds import run_step
from ppuda_jax.hostloop.pages import blocks_of, read_leaves, write_leaves
from ppuda_jax.hostloop.steps import Shape, StepKey
from ppuda_jax.nets.context import OpContext

Source = Literal["pages", "leaves"]
"""Where the forward function of a step takes its parameters from."""

Name = Literal["pages", "leaves", "pullback", "leaf_pullback"]
Function = Callable[..., Any]

_MOST_FUNCTIONS = 2000
# Each takes 10 to 25 of the 65,530 memory mappings that Linux gives a process by default. 500 test
# networks have 2,200, 1,000 training networks 1,250; the least recently used ones are forgotten.

_CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": "1",
}
# For such small functions they take 0.56 of the CPU time of compiling and 0.33 of the mappings, and
# the functions themselves 0.92 of their time (100 functions of 12 networks, by turns).


@dataclasses.dataclass(frozen=True)
class Batch:
    """What all steps of a run have in common.

    Attributes:
      images: B.
      dtype: of the maps.
      param_dtype: of parameters and vectors.
      calibration: images at the front of a batch whose statistics norms use; 0 for all.
      dropout: whether there is dropout before the second of two dense layers.
    """

    images: int
    dtype: str = "float32"
    param_dtype: str = "float32"
    calibration: int = 0
    dropout: bool = False

    @property
    def context(self) -> OpContext:
        """Static choices of all operations."""
        return OpContext(norm_images=self.calibration)

    def map_shape(self, shape: Shape) -> jax.ShapeDtypeStruct:
        """A map, or a vector per image."""
        dtype = self.dtype if len(shape) == 3 else self.param_dtype
        return jax.ShapeDtypeStruct((self.images, *shape), dtype)


class StepFunctions:
    """Compiles each function once, whoever asks for it."""

    def __init__(self, batch: Batch, threads: int) -> None:
        """Prepares; compiles nothing.

        Args:
          batch: what the functions have in common.
          threads: functions that are compiled side by side.
        """
        self.batch = batch
        self._x64 = bool(jax.config.read("jax_enable_x64"))  # threads have settings of their own
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "compile")
        self._jobs: collections.OrderedDict[
            tuple[Name, StepKey], concurrent.futures.Future[Function]
        ] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Functions compiled or being compiled."""
        return len(self._jobs)

    def request(self, name: Name, keys: Iterable[StepKey]) -> None:
        """Starts to compile what is not compiled yet.

        Args:
          name: where the forward pass takes its parameters from, or "pullback" of pages or
            "leaf_pullback".
          keys: the steps.
        """
        for key in keys:
            self._job(name, key)

    def get(self, name: Name, key: StepKey) -> Function:
        """A compiled function; waits for it. See `request`."""
        return self._job(name, key).result()

    def wait(self, show: Callable[[int, int], None]) -> None:
        """Returns when everything that was asked for is compiled.

        Args:
          show: is told how many functions are compiled, of how many.
        """
        with self._lock:
            jobs = list(self._jobs.values())
        for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            job.result()
            show(done, len(jobs))

    def close(self) -> None:
        """Compiles no more; does not wait for what is being compiled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _job(self, name: Name, key: StepKey) -> "concurrent.futures.Future[Function]":
        with self._lock:
            job = self._jobs.get((name, key))
            if job is None:
                job = self._pool.submit(self._compile, name, key)
                self._jobs[name, key] = job
                if len(self._jobs) > _MOST_FUNCTIONS:
                    self._jobs.popitem(last=False)
            self._jobs.move_to_end((name, key))
            return job

    def _compile(self, name: Name, key: StepKey) -> Function:
        with jax.enable_x64(self._x64):
            function, shapes, donated = _BUILD[name](key, self.batch)
            lowered = jax.jit(function, donate_argnums=donated).lower(*shapes)
            return lowered.compile(_CPU_OPTIONS if jax.default_backend() == "cpu" else None)


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
