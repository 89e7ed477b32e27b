"""The training loop: start or resume, compile ahead, dispatch, log, save, stop cleanly.

A run is a pure function of its configuration: the state, the stream of architectures, the image
order and the open averages are saved together, so that a resumed run equals an uninterrupted one
bit for bit, by the same driver on the same number of CPU processors and devices, unless its
schedule follows the clock (`time_limit_s`). On a GPU the same arithmetic is repeated from the same
state, but its last bits are not promised: sums of rows that share an index are added in any order,
and each process chooses the algorithms of its convolutions anew.
XLA_FLAGS=--xla_gpu_deterministic_ops=true asks XLA for deterministic ones; what that gives here has
not been measured.
"""

import collections
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import jax
import numpy as np

from ppuda_jax import config, parallel
from ppuda_jax.data.grouping import GroupingState
from ppuda_jax.data.stream import ArchitectureStream, MetaBatches
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache
from ppuda_jax.runtime.memory import freed_memory_kept
from ppuda_jax.runtime.progress import Progress, say
from ppuda_jax.training.clock import Clock, StoppedAtStart, StopReason
from ppuda_jax.training.config import TrainConfig, learning_rate
from ppuda_jax.training.driver import Placed
from ppuda_jax.training.metrics import MetricsLog, Window
from ppuda_jax.training.state import TrainState, best_theta, make_state
from ppuda_jax.training.step import Metrics
from ppuda_jax.training.store import RunStore
from ppuda_jax.training.task import NonFiniteError, Task, TrainResult

_IN_FLIGHT = 2  # dispatches queued on the device before the oldest one's metrics are fetched


def train(settings: TrainConfig, task: Task) -> TrainResult:
    """Runs or resumes a meta-training run to its end, its limit or a signal.

    On a CPU the process keeps memory that it frees while it trains; call
    `runtime.memory.share_one_arena` before anything else, or that has little effect.

    Raises:
        ValueError: settings that do not fit the devices, the data or the run in `workdir`.
        CheckpointError: checkpoints that cannot be read or written.
        OSError: metrics that cannot be written.
        NonFiniteError: `max_nonfinite` updates in a row were skipped.
    """
    with compilation_cache(settings.compilation_cache), CompileCounter() as compiles:
        run = _Run(settings, task, compiles)
        try:
            return run.loop()
        finally:
            run.close()


@dataclasses.dataclass(frozen=True)
class _Dispatched:
    """Steps that are queued on the device.

    Attributes:
        first_step: number of the first of them.
        group: their meta-batches, without the arrays.
        schedule: (progress, learning rate) that each of them was given.
        metrics: arrays [K] that may still be computed.
    """

    first_step: int
    group: MetaBatches
    schedule: list[tuple[float, float]]
    metrics: Metrics


class _Run:
    """One session of a run; every attribute is either fixed or part of the saved position."""

    def __init__(self, settings: TrainConfig, task: Task, compiles: CompileCounter) -> None:
        self.settings, self.task, self.compiles = settings, task, compiles
        self.topology = parallel.make_topology(settings.num_devices)
        self.total = settings.total_steps(task.images.num_images)
        self.store = RunStore(settings, self.topology, task.record["metadata"])
        fresh = parallel.to_host(make_state(task.theta, settings))
        state, record = self.store.resume(fresh, say)
        self.step = int(state.step)
        self.clock = Clock(settings, self.total, float(record.get("elapsed_s", 0.0)))
        self.best = record.get("best")
        self.window = Window(record.get("window"))
        self.position = GroupingState.from_dict(record["stream"]) if "stream" in record else None
        self.driver = task.make_driver(settings, self.topology)
        self.stream = ArchitectureStream(
            task.networks,
            meta_batch_size=settings.meta_batch_size,
            steps_per_dispatch=settings.steps_per_dispatch,
            num_shards=self.topology.num_shards,
            host_shards=self.topology.host_shards,
            max_nodes=settings.max_nodes,
            mixed=self.driver.mixed,
            workers=settings.arch_workers,
            state=self.position,
        )
        self.state: TrainState = parallel.replicate(state, self.topology)
        self.resident = parallel.replicate(task.images.resident, self.topology)
        log_dir = settings.workdir if self.topology.is_primary else None
        self.log = MetricsLog(log_dir, self.step)
        self.ahead: collections.deque[MetaBatches] = collections.deque()
        self.in_flight: collections.deque[_Dispatched] = collections.deque()
        self.offending: collections.deque[tuple[int, tuple[int, ...]]]
        self.offending = collections.deque(maxlen=settings.max_nonfinite)
        self.line_step, self.line_seconds = self.step, self.clock.elapsed()

    def close(self) -> None:
        self.driver.close()
        self.stream.close()
        self.log.close()
        self.store.close()

    # ---- start -----------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Compiles what has to be compiled before the first step."""
        bar = Progress("compiling")

        def show(compiled: int, asked: int) -> None:
            bar.move(compiled / max(1, asked), f"{compiled} of {asked} programs")

        try:
            if not bar.shown:
                say("compiling for the first networks")
            started, hits = time.monotonic(), self.compiles.cache_hits
            steps = range(self.step, self.step + self.settings.steps_per_dispatch)
            self.driver.prepare(self.stream, self._placed(steps, self._schedule(steps)), show)
            self._look_ahead(self.settings.compile_ahead)
            compiled = self.driver.finish(show)
        finally:
            bar.close()
        if not bar.shown:
            say(
                f"compiled {compiled} in {time.monotonic() - started:.1f} s "
                f"({self.compiles.cache_hits - hits:.0f} programs were in the cache)"
            )

    def _look_ahead(self, count: int) -> None:
        """Takes so many of the next groups from the stream, if the run is long enough."""
        left = -(-(self.total - self.step) // self.settings.steps_per_dispatch)
        while len(self.ahead) < min(count, left):
            self.ahead.append(next(self.stream))
            self.driver.request(self.ahead[-1])

    # ---- loop ------------------------------------------------------------------------------

    def loop(self) -> TrainResult:
        """Compiles and trains, until the run is over."""
        try:
            with self.clock.catching_signals():
                reason = self._start_and_train()
        except StoppedAtStart:
            reason = "signal"
        if reason != "finished":
            say(f"stopped at step {self.step} of {self.total}: {reason}")
        host = parallel.to_host(self.state)
        skipped = int(host.skipped)
        return TrainResult(
            best_theta(host), self.step, reason, skipped, self.driver.count, self.clock.elapsed()
        )

    def _start_and_train(self) -> StopReason:
        if self.step < self.total:
            self._warm_up()
        on_cpu = self.topology.devices[0].platform == "cpu"
        with freed_memory_kept() if on_cpu else contextlib.nullcontext():
            return self._train()

    def _train(self) -> StopReason:
        """Dispatches until the run is over, and saves; returns the reason."""
        self.clock.start_training()
        reason = self.clock.stop_reason(self.step)
        while reason is None:
            self._look_ahead(1 + self.driver.ahead)
            self._dispatch(self.ahead.popleft())
            reason = self.clock.stop_reason(self.step)
        self._drain(0)
        self._save("last")
        self.store.wait()
        return reason

    def _dispatch(self, group: MetaBatches) -> None:
        """Queues the K steps of a group, and looks at results that have become old enough."""
        steps = range(self.step, self.step + self.settings.steps_per_dispatch)
        schedule = self._schedule(steps)
        self.state, metrics = self.driver.run(group, self._placed(steps, schedule))
        group = dataclasses.replace(group, arrays=None)
        self.in_flight.append(_Dispatched(self.step, group, schedule, metrics))
        before, self.step, self.position = self.step, steps.stop, group.state
        # Metrics are looked at two dispatches late, so that the device never waits for the host.
        self._drain(_IN_FLIGHT)
        if self._passed(before, self.settings.eval_every):
            self._evaluate()
        if self._passed(before, self.settings.checkpoint_every):
            self._drain(0)
            self._save("last")

    def _schedule(self, steps: range) -> list[tuple[float, float]]:
        """(progress, learning rate) of steps; asked once per step, as the clock goes on."""
        progress = [self.clock.progress(step) for step in steps]
        return [(done, learning_rate(self.settings, done)) for done in progress]

    def _placed(self, steps: range, schedule: Sequence[tuple[float, float]]) -> Placed:
        """What steps need besides their networks, on the devices."""
        rows = [self.task.images.batch(step) for step in steps]
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        rates = np.asarray([rate for _, rate in schedule], np.float32)
        return self.state, self.resident, *parallel.replicate((batches, rates), self.topology)

    def _drain(self, left: int) -> None:
        """Fetches the metrics of all but the newest `left` dispatches; they may stop the run."""
        while len(self.in_flight) > left:
            done = self.in_flight.popleft()
            host = parallel.to_host(done.metrics)
            size = self.settings.meta_batch_size
            for k in range(len(host["loss"])):
                row = {name: values[k] for name, values in host.items()}
                self.window.add(row)
                if not row["finite"]:
                    indices = done.group.indices[k * size : (k + 1) * size]
                    self.offending.append((done.first_step + k, indices))
                if row["skipped_in_a_row"] >= self.settings.max_nonfinite:
                    self._stop_non_finite(int(row["skipped_in_a_row"]))
                self._log_step(done.first_step + k + 1, row, done.group.state, done.schedule[k])

    def _log_step(
        self,
        step: int,
        row: Mapping[str, Any],
        position: GroupingState,
        schedule: tuple[float, float],
    ) -> None:
        seconds = self.clock.elapsed()
        speed = (step - self.line_step) / max(1e-9, seconds - self.line_seconds)
        nets = speed * self.settings.meta_batch_size
        progress, rate = schedule
        self.log.advance(
            progress,
            f"step {step} of {self.total}, loss {row['loss']:.2f}, accuracy "
            f"{row.get('accuracy', math.nan):.2f}, {self.driver.count} programs",
        )
        if step % self.settings.log_every:
            return
        self.log.write(
            step,
            {
                **self.window.take(),
                "learning_rate": rate,
                "progress": progress,
                "seconds": round(seconds, 3),
                "steps_per_s": speed,
                "nets_per_s": nets,
                "programs": self.driver.count,
                "rare_skipped": position.rare_skipped,
                "large_skipped": position.large_skipped,
                "unfit_skipped": position.unfit_skipped,
                "compiler_calls": self.compiles.calls,
            },
        )
        self.line_step, self.line_seconds = step, seconds

    def _passed(self, before: int, every: int) -> bool:
        return bool(every) and self.step // every > before // every

    # ---- saving ----------------------------------------------------------------------------

    def _save(self, name: Literal["last", "best"]) -> None:
        with self.clock.paused():
            record = {
                **self.task.record,
                "settings": config.to_dict(self.settings),
                "step": self.step,
                "elapsed_s": self.clock.elapsed(),
                "best": self.best,
                "window": self.window.to_dict(),
                "stream": (self.position or GroupingState()).to_dict(),
            }
            self.store.save(name, parallel.to_host(self.state), record)

    def _evaluate(self) -> None:
        if self.task.evaluate is None:
            return
        self._drain(0)
        with self.clock.paused():
            values = dict(self.task.evaluate(best_theta(self.state), self.step))
        self.log.write(self.step, values)
        score = values.get("val_accuracy")
        if score is None:
            return
        better = math.isfinite(score) and (self.best is None or score > self.best)
        # Each host computes its own score, and rounding may tell them apart; all must save, or
        # those that do wait for the others for ever.
        if bool(parallel.agree(np.asarray(better))):
            self.best = float(score)
            self._save("best")

    def _stop_non_finite(self, count: int) -> NoReturn:
        """Saves the architectures of the skipped updates and raises."""
        report = [
            {"step": step, "networks": self.stream.describe(indices)}
            for step, indices in self.offending
        ]
        where = "(no workdir to save the architectures in)"
        if self.store.folder is not None:
            path = self.store.folder / f"nonfinite_{self.step}.json"
            if self.topology.is_primary:
                config.write_atomic(path, json.dumps(report, indent=1))
            where = f"their architectures are in {path}"
        raise NonFiniteError(
            f"the last {count} updates were skipped because loss or gradient was not finite; "
            f"{where}; resume from an earlier checkpoint with a lower learning_rate"
        )
