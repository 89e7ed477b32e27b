"""Kills a training run at random moments and compares what comes out with an uninterrupted run.

    python -m experiments.check_resume --kills=20

A small run on digits goes through once without interruption. The same run is then started again
and again and killed (SIGKILL) at random moments of every phase, until it has gone through as well;
there is a new one as long as kills are left. Each must end with the same theta, optimiser state
and metrics, bit for bit on a CPU. Two more runs meet a disk that is full while a checkpoint is
written (a limit on the size of files, RLIMIT_FSIZE, stands for it) and a newest checkpoint that
was cut in half: the one before must be taken, and said. Exits with 1 at a difference.
"""

import collections
import dataclasses
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from experiments import flags
from ppuda_jax.config import check_types, described
from ppuda_jax.training.metrics import read_metrics

# What a clock says, and what only this session did.
_CLOCKS = ("seconds", "steps_per_s", "nets_per_s", "compiler_calls", "programs", "val_seconds")
PHASES = ("sampling", "compiling", "stepping", "saving", "evaluating")
_MEAN_DELAY_S = {
    "sampling": 3.0,
    "compiling": 2.0,
    "stepping": 0.05,
    "saving": 0.01,
    "evaluating": 5.0,
}
_POLL_S = 0.005
_FULL = 2**16  # bytes of a file on the full disk: less than theta, more than a line of metrics


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """How often and what is killed; every field is a flag."""

    kills: int = described(20, "random moments")
    steps: int = described(24, "length of the run")
    every: int = described(4, "steps between checkpoints, and between evaluations")
    seed: int = described(0, "of the moments")
    folder: str | None = described(None, "where the runs are kept; a temporary one by default")

    def __post_init__(self) -> None:
        check_types(self)
        if self.kills < 0 or self.every < 1 or self.steps < 2 * self.every:
            raise ValueError(
                "kills must not be negative and steps at least twice every, received "
                f"kills={self.kills}, steps={self.steps}, every={self.every}"
            )


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the training script, in processes of its own."""

    workdir: pathlib.Path
    options: CheckConfig

    def start(self, limit: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
        """Starts or continues it; `limit` runs in the new process before the script."""
        settings = {
            "dataset": "digits",
            "init_from": "none",
            "hidden": 8,
            "meta_batch_size": 1,
            "batch_size": 8,
            "max_variants": 1,
            "probe_archs": 32,
            "num_devices": 1,
            "arch_workers": 1,
            "steps": self.options.steps,
            "checkpoint_every": self.options.every,
            "eval_every": self.options.every,
            "log_every": 1,
            "workdir": self.workdir,
        }
        command = [sys.executable, "-m", "experiments.train", "--noreport"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            return subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, text=True, preexec_fn=limit
            )

    @property
    def log(self) -> pathlib.Path:
        """What the newest session says."""
        return self.workdir.with_suffix(".log")

    def finish(self) -> str:
        """Runs it to its end; returns what it said.

        Raises:
          ValueError: it ended with an error.
        """
        status, said = self.start().wait(), self.log.read_text()
        if status:
            raise ValueError(f"{self.workdir} ended with {status}: {said[-2000:]}")
        return said

    def phase(self) -> str:
        """What the newest session does or did, from what it said and what lies there."""
        said = self.log.read_text()
        if "compiling" not in said:
            return "sampling"  # imports and reading of checkpoints included
        if "compiled" not in said:
            return "compiling"
        if list(self.workdir.glob("*/*orbax-checkpoint-tmp*")):
            return "saving"
        rows = read_metrics(self.workdir)
        newest = max([row["step"] for row in rows], default=0)
        validated = any("val_accuracy" in row for row in rows if row["step"] == newest)
        if newest and newest % self.options.every == 0 and not validated:
            return "evaluating"
        return "stepping"

    def checkpoints(self) -> list[pathlib.Path]:
        """Complete checkpoints, oldest first."""
        found = [p for p in (self.workdir / "last").glob("*") if p.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name))

    def result(self) -> dict[str, np.ndarray]:
        """Arrays of the last checkpoint and rows of metrics, by name."""
        newest = self.checkpoints()[-1]
        found: dict[str, np.ndarray] = {"step": np.asarray(int(newest.name))}
        for item in ("theta", "run"):
            tree = ocp.PyTreeCheckpointer().restore((newest / item).resolve())
            found |= {f"{item}{key}": np.asarray(leaf) for key, leaf in _leaves(tree)}
        for row in read_metrics(self.workdir):
            for name, value in row.items():
                if name not in _CLOCKS and not isinstance(value, str):
                    found[f"metrics/{row['step']}/{name}"] = np.asarray(value)
        return found


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}/{key}")
    elif tree is not None:
        yield prefix, tree


def differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[str]:
    """Names of what is missing on a side or differs in a single bit."""
    names = sorted(first.keys() | second.keys())
    return [
        name
        for name in names
        if name not in first
        or name not in second
        or not np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
    ]


def kill_at_random(options: CheckConfig, folder: pathlib.Path) -> Iterator[str | Run]:
    """Kills runs until the kills are used up; yields each phase, and each run that went through.

    Moments are drawn phase by phase: most of the time goes by in a few of them.
    """
    draw, number = random.Random(options.seed), 0
    targets = [PHASES[kill % len(PHASES)] for kill in range(options.kills)]
    draw.shuffle(targets)
    while targets:
        number += 1
        run = Run(folder / f"killed-{number}", options)
        for _ in range(draw.randint(1, 4)):
            if targets and kill_in(run, targets[-1], draw):
                targets.pop()
                yield run.phase()
        run.finish()
        yield run


def kill_in(run: Run, phase: str, draw: random.Random) -> bool:
    """Kills a session soon after a phase began; False if it ended before."""
    process, left = run.start(), draw.randint(0, 2)  # further steps before the one of the kill
    seen: set[int] = set()
    while process.poll() is None:
        if run.phase() == phase:
            seen.add(len(run.log.read_text().splitlines()))
            if len(seen) > left or phase in ("sampling", "compiling"):
                break
        time.sleep(_POLL_S)
    # Long phases are hit in their middle; from a short one the run may have gone on.
    time.sleep(draw.expovariate(1 / _MEAN_DELAY_S[phase]))
    if process.poll() is not None:
        if process.returncode:
            raise ValueError(f"{run.workdir} ended with {process.returncode} after a kill")
        return False
    process.kill()
    process.wait()
    return True


def fill_disk(options: CheckConfig, folder: pathlib.Path) -> tuple[Run, str]:
    """A run whose checkpoints do not fit on the disk for a while, and what it said then."""
    run = Run(folder / "full-disk", options)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FULL, _FULL))

    status, said = run.start(limit).wait(), run.log.read_text()
    if status == 0:
        raise ValueError("the run did not notice that its checkpoints were not written")
    run.finish()
    return run, said.strip().splitlines()[-1] if said.strip() else f"exit {status}"


def cut_newest(options: CheckConfig, folder: pathlib.Path) -> tuple[Run, str]:
    """A run that was killed, whose newest checkpoint has lost half of its largest file."""
    run = Run(folder / "cut", options)
    process = run.start()
    while len(run.checkpoints()) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    files = [p for p in run.checkpoints()[-1].rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    said = [line for line in run.finish().splitlines() if "resuming from" in line]
    if not said:
        raise ValueError("the run did not say that it takes the checkpoint before the damaged one")
    return run, said[0]


def check(options: CheckConfig, folder: pathlib.Path) -> flags.Report:
    """Runs everything; returns a report, of status 1 if anything differed."""
    whole = Run(folder / "whole", options)
    whole.finish()  # fills the cache of compiled programs
    again = Run(folder / "again", options)
    started = time.monotonic()
    again.finish()
    seconds = time.monotonic() - started
    expected = whole.result()
    phases: collections.Counter[str] = collections.Counter()
    rows: list[list[object]] = []

    def compare(name: str, run: Run, note: str = "") -> None:
        different = differences(expected, run.result())
        rows.append([name, "equal" if not different else f"differs: {different[:4]}", note])

    compare("again, not interrupted", again)
    for event in kill_at_random(options, folder):
        if isinstance(event, str):
            phases[event] += 1
            print(f"kill {phases.total()} of {options.kills}: {event}", file=sys.stderr)
        else:
            compare(event.workdir.name, event)
    for name, meet in (("full disk", fill_disk), ("newest checkpoint cut", cut_newest)):
        run, said = meet(options, folder)
        compare(name, run, said[:160])
    kinds = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
    title = (
        f"{phases.total()} kills ({kinds}); {len(expected)} arrays and metrics compared, an "
        f"uninterrupted run takes {seconds:.0f} s"
    )
    differ = any(row[1] != "equal" for row in rows)
    return flags.report(flags.table(["run", "result", "said"], rows, title), status=int(differ))


def run(options: CheckConfig) -> flags.Report:
    """Checks; returns the report, of status 1 at a difference."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return check(options, folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(CheckConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
