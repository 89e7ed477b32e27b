"""Compilation: the cache on disk, and how often the compiler was really called."""

import contextlib
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Self

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from ppuda_jax.runtime.processors import processors

# JAX reports these names to whoever listens but does not document them: `CompileCounter` checks.
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"
_CACHE_READ_EVENT = "/jax/compilation_cache/cache_retrieval_time_sec"

_CACHE_SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


class CompileCounter:
    """Counts calls of the XLA compiler in this process, from its creation until it is closed.

    A program found in the cache on disk is a call too, a fast one. Where the installed JAX reports
    under other names than those known here, a warning says so and the numbers are NaN, not 0.
    """

    def __init__(self) -> None:
        """Starts to count; the first counter of a process compiles a trivial program to check."""
        unknown = 0 if _compilations_are_reported() else math.nan
        self.calls: float = unknown
        self.seconds: float = unknown
        self._hits: float = unknown
        self._reads = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    @property
    def cache_hits(self) -> float:
        """How many of the calls the cache on disk answered."""
        # One fact under two names: where they differ, one of the names is another one by now.
        return self._hits if self._hits == self._reads else math.nan

    def close(self) -> None:
        """Ends counting; the numbers stay."""
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            self.calls += 1
            self.seconds += duration_secs
        self._reads += event == _CACHE_READ_EVENT

    def _on_event(self, event: str, **_: object) -> None:
        self._hits += event == _CACHE_HIT_EVENT


@functools.cache
def _compilations_are_reported() -> bool:
    """Whether compiling is reported under the known name; warns if not."""
    seen: set[str] = set()

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        del duration_secs  # the name is JAX's
        seen.add(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda: 0).lower().compile()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    if _COMPILE_EVENT in seen:
        return True
    warnings.warn(
        f"compilations cannot be counted: JAX {jax.__version__} does not report them as "
        f"{_COMPILE_EVENT}, received {sorted(seen)}; numbers of compilations are shown as nan",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


@contextlib.contextmanager
def compilation_cache(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keeps compiled programs in `folder` between runs; None uses no cache meanwhile.

    The settings of JAX that were there before come back at the end. They belong to the process:
    other threads compile by them too.

    Programs lie in a subfolder for this number of processors. XLA:CPU divides loops among those
    that it sees while it compiles, and JAX would hand a program that was compiled for one
    processor to a process that has many. Small ones are kept too: to read the functions of steps
    of `hostloop` took 2.0 CPU-seconds for 80 where compiling them took 7.0.

    Raises:
        OSError: the folder cannot be made.
    """
    before = {name: getattr(jax.config, name) for name in _CACHE_SETTINGS}
    if folder is None:
        new: dict[str, object] = {"jax_enable_compilation_cache": False}
    else:
        path = pathlib.Path(folder).expanduser() / f"processors-{processors()}"
        path.mkdir(parents=True, exist_ok=True)
        new = dict(zip(_CACHE_SETTINGS, [True, str(path), 0.0], strict=True))
    _configure_cache(new)
    try:
        yield
    finally:
        _configure_cache(before)


def _configure_cache(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()  # JAX opens the folder once and would go on with the one before
