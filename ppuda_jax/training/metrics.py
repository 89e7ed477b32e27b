"""Metrics of a run: averages over the steps between two lines, and where the lines go."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from ppuda_jax import config
from ppuda_jax.runtime.progress import Progress, say

_SHOWN = ("loss", "accuracy", "val_accuracy", "skipped")
_EMPTY: Mapping[str, Any] = {"sums": {}, "steps": 0, "skipped": 0}


class Window:
    """Sums of metrics since the last line; JSON-ready, so that a resumed run logs the same."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._set(state or _EMPTY)

    def _set(self, state: Mapping[str, Any]) -> None:
        self._sums: dict[str, float] = dict(state["sums"])
        self.steps: int = state["steps"]
        self.skipped: int = state["skipped"]

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds one step's scalars; a skipped step counts as skipped and enters no average."""
        if not bool(metrics["finite"]):
            self.skipped += 1
            return
        self.steps += 1
        for name, value in metrics.items():
            if name not in ("finite", "skipped_in_a_row"):
                self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def take(self) -> dict[str, float]:
        """Returns the averages and starts afresh."""
        means = {name: total / max(1, self.steps) for name, total in self._sums.items()}
        result = {**means, "skipped": self.skipped}
        self._set(_EMPTY)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"sums": dict(self._sums), "steps": self.steps, "skipped": self.skipped}


class MetricsLog:
    """Writes `metrics.jsonl` and TensorBoard events, and shows a progress bar or plain lines."""

    def __init__(self, workdir: str | os.PathLike[str] | None, first_step: int) -> None:
        """Opens the files; lines of steps after `first_step`, of an interrupted run, are dropped.

        Args:
            workdir: folder of the run; None writes nothing.
            first_step: step that the run continues from.
        """
        self._file: TextIO | None = None
        self._events: Any = None
        if workdir is not None:
            from tensorboardX import SummaryWriter

            folder = pathlib.Path(workdir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "metrics.jsonl"
            _drop_after(path, first_step)
            self._file = path.open("a", encoding="utf-8")
            purge = {"purge_step": first_step + 1} if first_step else {}
            self._events = SummaryWriter(str(folder / "tensorboard"), **purge)
        self._bar: Progress | None = None

    def advance(self, done: float, note: str) -> None:
        """Moves the bar, which comes with the first call.

        Args:
            done: fraction of the run.
            note: shown behind the bar.
        """
        if self._bar is None:
            self._bar = Progress("training", done)
        self._bar.move(done, note)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line of metrics; the main ones are shown as text where there is no bar."""
        line = {"step": step, **values}
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)
        if self._bar is not None and self._bar.shown:
            return
        shown = [f"{name} {_short(values[name])}" for name in _SHOWN if values.get(name)]
        if self._bar is not None and "progress" in values:
            shown.append(f"{self._bar.left} left")
        say("  ".join([f"step {step}", *shown]))

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()
            self._events.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl`; none where there is no file.

    What is no line of metrics is left out: the half line of a killed session, that of a full disk
    which the next line continues, and whatever else was written into the file.
    """
    path = pathlib.Path(workdir).expanduser() / "metrics.jsonl"
    return _complete_lines(path) if path.exists() else []


def _complete_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    # Bytes that are no text are no metrics either, so they may be replaced.
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
    return rows


def _drop_after(path: pathlib.Path, step: int) -> None:
    if path.exists():
        kept = [line for line in _complete_lines(path) if line["step"] <= step]
        config.write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
