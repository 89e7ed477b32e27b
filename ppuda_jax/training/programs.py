"""The compiled steps of a run.

XLA:CPU leaves gigabytes of debris behind in a process that compiles, and what runs there later is
slower (training with four variants had a third of its speed when this was measured). On a CPU other
processes therefore compile into the cache on disk, and this one only reads the programs from there.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from ppuda_jax import parallel
from ppuda_jax.data.batches import LoadFn
from ppuda_jax.data.stream import end_with_parent
from ppuda_jax.programs import PROGRAMS, NoRoomError
from ppuda_jax.runtime.compilation import CompileCounter
from ppuda_jax.runtime.processors import processors
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.state import TrainState
from ppuda_jax.training.step import LossFn, Metrics, make_dispatch, make_step

Example = tuple[Hashable, tuple[Any, ...]]
"""A variant and arguments of its step."""


@dataclasses.dataclass(frozen=True)
class _Builder:
    """What a variant's step is made of; it travels to the processes that compile."""

    loss_for: Callable[[Hashable], LossFn]
    load: LoadFn
    config: TrainConfig

    def lower(self, variant: Hashable, args: tuple[Any, ...], topology: parallel.Topology) -> Any:
        step = make_step(self.loss_for(variant), self.load, self.config, topology.axis_name)
        split_args = (False, True, False, False)
        return parallel.jit_step(make_dispatch(step), topology, split_args).lower(*args)


class StepPrograms:
    """The compiled steps of a run: one per executor variant, however many architectures."""

    def __init__(
        self,
        loss_for: Callable[[Hashable], LossFn],
        load: LoadFn,
        config: TrainConfig,
        topology: parallel.Topology,
    ) -> None:
        """Prepares to compile.

        Args:
            loss_for: the loss of a variant's networks; picklable.
            load: what makes images of a batch.
            config: the run.
            topology: devices.
        """
        self._builder, self._topology = _Builder(loss_for, load, config), topology
        self._programs: dict[Hashable, Any] = {}
        self._run = object()  # other runs of this process have the same variants

    @property
    def count(self) -> int:
        """Programs compiled so far."""
        return len(self._programs)

    def warm_up(self, examples: Sequence[Example]) -> float:
        """Compiles variants side by side from example arguments (concrete arrays or shapes).

        Returns:
            How many of the programs the cache on disk already had; NaN if JAX does not say.

        Raises:
            ValueError: more programs than this process has room for.
        """
        config = self._builder.config
        workers = config.compile_threads or min(8, processors())
        on_cpu = self._topology.mesh is None and self._topology.devices[0].platform == "cpu"
        if on_cpu and config.compilation_cache is not None:
            return self._warm_up_in_processes(examples, workers)
        with CompileCounter() as counter, concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = [
                (variant, pool.submit(self._compile, variant, args)) for variant, args in examples
            ]
            self._programs |= {variant: job.result() for variant, job in jobs}
        return counter.cache_hits

    def _warm_up_in_processes(self, examples: Sequence[Example], workers: int) -> int:
        context, on_disk = multiprocessing.get_context("spawn"), 0
        with concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=end_with_parent
        ) as pool:
            flags = dict(jax.config.values)
            # The first ones tell whether there is room for all, before most are compiled.
            for group in (examples[:workers], examples[workers:]):
                jobs = [
                    pool.submit(_compile_into_cache, flags, self._builder, variant, _shapes(args))
                    for variant, args in group
                ]
                lowered = [(variant, self._lower(variant, args)) for variant, args in group]
                on_disk += sum(job.result() for job in jobs)
                for variant, program in lowered:
                    lower = functools.partial(_already, program)
                    left = len(examples) - self.count
                    self._programs[variant] = self._load(variant, lower, left)
        return on_disk

    def run(
        self,
        variant: Hashable,
        state: TrainState,
        resident: Any,
        networks: Any,
        batches: Any,
        rates: Any,
    ) -> tuple[TrainState, Metrics]:
        """K steps with networks of `variant`; compiles if it was not warmed up. Donates `state`.

        Raises:
            ValueError: there is no room to compile another program.
        """
        args = (state, resident, networks, batches, rates)
        if variant not in self._programs:
            self._programs[variant] = self._compile(variant, args)
        return self._programs[variant](*args)

    def _lower(self, variant: Hashable, args: tuple[Any, ...]) -> Any:
        return self._builder.lower(variant, args, self._topology)

    def _compile(self, variant: Hashable, args: tuple[Any, ...]) -> Any:
        return self._load(variant, lambda: self._lower(variant, args))

    def _load(self, variant: Hashable, lower: Callable[[], Any], planned: int = 1) -> Any:
        """Compiles, or refuses where the process would be ended for want of memory mappings.

        Args:
            variant: what for.
            lower: makes what is compiled.
            planned: how many more programs the process is to hold, this one included.
        """
        try:
            return PROGRAMS.load(
                (self._run, variant), lower, kind="training steps", pinned=True, planned=planned
            )
        except NoRoomError as error:
            raise ValueError(
                f"{error}, or train on fewer variants (max_variants={error.room})"
            ) from error


def _already(lowered: Any) -> Any:
    return lowered


def _shapes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)


def _compile_into_cache(
    flags: Mapping[str, Any], builder: _Builder, variant: Hashable, args: tuple[Any, ...]
) -> bool:
    """Runs in a process of its own, with the JAX flags of its parent: some decide the program.

    Returns:
        Whether the program was in the cache already.
    """
    for name, value in flags.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)
    topology = parallel.make_topology(1)
    place = SingleDeviceSharding(topology.devices[0])  # as the caller's arrays; part of the key
    args = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), args)
    lowered = builder.lower(variant, args, topology)
    with CompileCounter() as counter:
        lowered.compile()
    return counter.cache_hits > 0
