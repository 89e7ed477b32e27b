"""Compilation: the cache on disk, and how often the compiler was really called."""

import os
import pathlib

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"


class CompileCounter:
    """Counts calls of the XLA compiler in this process from the moment it is created.

    A program found in the cache on disk is a call too, a fast one; `cache_hits` says how many.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.cache_hits = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def _on_duration(self, event: str, seconds: float, **_: object) -> None:
        if event == _COMPILE_EVENT:
            self.calls += 1
            self.seconds += seconds

    def _on_event(self, event: str, **_: object) -> None:
        self.cache_hits += event == _CACHE_HIT_EVENT


def use_cache(folder: str | os.PathLike[str] | None) -> None:
    """Keeps compiled programs in `folder` between runs; None switches the cache off.

    Programs lie in a subfolder for this number of processors. XLA:CPU divides loops among those
    that it sees while it compiles, and JAX would hand a program that was compiled for one
    processor to a process that has many.
    """
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    path = pathlib.Path(folder).expanduser() / f"processors-{_processors()}"
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
