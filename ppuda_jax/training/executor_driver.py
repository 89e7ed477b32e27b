"""Steps whose networks are data of the executor: one compiled program per variant."""

import concurrent.futures
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ppuda_jax import parallel
from ppuda_jax.data.batches import LoadFn
from ppuda_jax.data.stream import ArchitectureStream, MetaBatches
from ppuda_jax.programs import PROGRAMS, NoRoomError
from ppuda_jax.runtime.processors import processors
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.driver import Placed, Show, choose_variants, unseen
from ppuda_jax.training.state import TrainState
from ppuda_jax.training.step import LossFn, Metrics, make_dispatch, make_step

Example = tuple[Hashable, Any]
"""A variant and arrays [K, S, ...] of networks of it, as of `MetaBatches`."""


class ExecutorDriver:
    """Satisfies `driver.Driver`: a program per variant, however many architectures."""

    mixed = False
    ahead = 0

    def __init__(
        self,
        loss_for: Callable[[Hashable], LossFn],
        load: LoadFn,
        config: TrainConfig,
        topology: parallel.Topology,
    ) -> None:
        """Prepares to compile.

        Args:
            loss_for: the loss of a variant's networks.
            load: what makes images of a batch.
            config: the run.
            topology: devices.
        """
        self._loss_for, self._load = loss_for, load
        self._config, self._topology = config, topology
        self._programs: dict[Hashable, Any] = {}
        self._run = object()  # other runs of this process have the same variants
        self._covered = ""

    @property
    def count(self) -> int:
        """See `Driver`."""
        return len(self._programs)

    def prepare(self, stream: ArchitectureStream, placed: Placed, show: Show = unseen) -> None:
        """Compiles the variants of the first architectures side by side.

        Raises:
            ValueError: more programs than this process has room for.
        """
        found = choose_variants(stream, self._config)
        examples = [(variant, stream.example(surveys)) for variant, surveys in found]
        # Without an example it is compiled when its first meta-batch comes.
        self.warm_up([row for row in examples if row[1] is not None], placed, show)
        networks = sum(len(surveys) for _, surveys in found)
        self._covered = f", which run {networks / self._config.probe_archs:.1%} of the networks"

    def warm_up(self, examples: Sequence[Example], placed: Placed, show: Show = unseen) -> None:
        """Compiles variants side by side; see `prepare`."""
        workers = self._config.compile_threads or min(8, processors())
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = {
                pool.submit(self._compile, variant, self._args(arrays, placed)): variant
                for variant, arrays in examples
            }
            for job in concurrent.futures.as_completed(jobs):
                self._programs[jobs[job]] = job.result()
                show(self.count, len(examples))

    def request(self, group: MetaBatches) -> None:
        """See `Driver`; variants are compiled by `prepare`, or when one is run that was rare."""

    def finish(self, show: Show = unseen) -> str:
        """See `Driver`."""
        del show
        return f"{self.count} executor variants{self._covered}"

    def run(self, group: MetaBatches, placed: Placed) -> tuple[TrainState, Metrics]:
        """See `Driver`."""
        args = self._args(group.arrays, placed)
        if group.variant not in self._programs:
            self._programs[group.variant] = self._compile(group.variant, args)
        return self._programs[group.variant](*args)

    def close(self) -> None:
        """See `Driver`."""

    def _args(self, arrays: Any, placed: Placed) -> tuple[Any, ...]:
        state, resident, batches, rates = placed
        return state, resident, parallel.split(arrays, self._topology), batches, rates

    def _lower(self, variant: Hashable, args: tuple[Any, ...]) -> Any:
        axis_name = self._topology.axis_name
        step = make_step(self._loss_for(variant), self._load, self._config, axis_name)
        split_args = (False, True, False, False)
        return parallel.jit_step(make_dispatch(step), self._topology, split_args).lower(*args)

    def _compile(self, variant: Hashable, args: tuple[Any, ...]) -> Any:
        """Compiles, or refuses where the process would be ended for want of memory mappings."""
        try:
            return PROGRAMS.load(
                (self._run, variant),
                lambda: self._lower(variant, args),
                kind="training steps",
                pinned=True,
            )
        except NoRoomError as error:
            raise ValueError(
                f"{error}, train on fewer variants (max_variants={error.room}), or let the host "
                "drive the networks of one CPU device (driver=host)"
            ) from error
