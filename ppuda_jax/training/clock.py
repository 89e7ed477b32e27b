"""How far a run is, and whether it has to stop: steps, seconds and signals."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ppuda_jax import parallel
from ppuda_jax.training.config import TrainConfig

StopReason = Literal["finished", "signal", "time limit", "session limit"]
"""Why a session of a run ended."""
_REASONS: tuple[StopReason, ...] = ("signal", "time limit", "session limit")

_STARTING = b"stopping: start-up is left, the run is as its last checkpoint has it\n"
_STOPPING = (
    b"stopping after the step or validation in hand, then saving; once more to end at once\n"
)


class StoppedAtStart(BaseException):
    """SIGTERM or SIGINT came before the first step; no `except Exception` is to catch it."""


class Clock:
    """Measures one session of a run; with several hosts, all follow the first one's clock."""

    def __init__(self, settings: TrainConfig, total_steps: int, elapsed_before: float) -> None:
        """Starts the session's clock.

        Args:
            settings: limits.
            total_steps: steps of the whole run.
            elapsed_before: training seconds of earlier sessions.
        """
        self._settings, self._total, self._before = settings, total_steps, elapsed_before
        self._session_start = time.monotonic()
        self._train_start: float | None = None
        self._paused_s = 0.0
        self._signalled = False

    def start_training(self) -> None:
        """Marks the end of start-up; `elapsed` counts from here."""
        self._train_start = time.monotonic()

    def elapsed(self) -> float:
        """Training seconds of all sessions, without start-up and what was `paused`."""
        if self._train_start is None:
            return self._before
        return self._before + time.monotonic() - self._train_start - self._paused_s

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what happens inside, such as validation, as training."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - started

    def progress(self, step: int) -> float:
        """Fraction of the run in [0, 1]: of its steps, or of its time if that is further."""
        by_steps = step / self._total
        if self._settings.time_limit_s is None:
            return min(1.0, by_steps)
        elapsed = float(parallel.agree(np.asarray(self.elapsed(), np.float32)))
        return min(1.0, max(by_steps, elapsed / self._settings.time_limit_s))

    def stop_reason(self, step: int) -> StopReason | None:
        """Why the run has to stop before `step`, None if it goes on."""
        if step >= self._total:
            return "finished"
        settings = self._settings
        session = time.monotonic() - self._session_start
        over = settings.time_limit_s is not None and self.elapsed() >= settings.time_limit_s
        late = settings.session_limit_s is not None and session >= settings.session_limit_s
        flags = parallel.agree(np.asarray([self._signalled, over, late]))
        for flag, reason in zip(flags, _REASONS, strict=True):
            if flag:
                return reason
        return None

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Turns SIGTERM and SIGINT into a stop; only the main thread can receive them.

        During start-up, which compiles for minutes and has nothing to save, they raise
        `StoppedAtStart`. Later the first one stops the run after its step, and the next one does
        what it does without us.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _: Any) -> None:
            # Not through sys.stderr: its lock may be held where the signal came.
            os.write(2, _STARTING if self._train_start is None else _STOPPING)
            self._signalled = True
            for each, handler in previous.items():
                signal.signal(each, handler)
            if self._train_start is None:
                raise StoppedAtStart(signal.Signals(number).name)

        previous = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        for number in previous:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
