"""What one waits for before training: `python -m experiments.bench_start --dataset=cifar10`.

For each driver, a session of training in a process of its own with an empty folder of compiled
programs, and another one with the folder that it left: seconds from the start of the process to the
end of the first step, the longest later step, how many programs were compiled (or read) and how
long one took, memory mappings and memory. The executor trains on few variants only (`--variants`);
the host on all.
"""

import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments import flags
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.memory import mappings, share_one_arena

_ANSWER = "bench_start: "


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is started; every field is a flag."""

    dataset: str = described("digits", "as for training")
    data_dir: str | None = described(None, "as for training")
    driver: Literal["both", "host", "executor"] = described("both", "which ones are started")
    meta_batch_size: int = described(8, "networks per step")
    batch_size: int = described(64, "images per step")
    steps: int = described(6, "steps of a session")
    variants: int = described(1, "most frequent variants that the executor trains on")
    session: str | None = described(
        None, "run one session with the programs in this folder, and print a line of JSON"
    )

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("meta_batch_size", "batch_size", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, received {self.steps}")
        if self.session is not None and self.driver == "both":
            raise ValueError("a session has one driver: set driver=host or driver=executor")


class Timed:
    """A driver that notes when each dispatch was over; satisfies `training.driver.Driver`."""

    def __init__(self, driver: Any, ends: list[float]) -> None:
        self._driver, self._ends = driver, ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def run(self, group: Any, placed: Any) -> Any:
        """Runs the steps to their end, so that nothing is counted for the next ones."""
        import jax

        result = jax.block_until_ready(self._driver.run(group, placed))
        self._ends.append(time.monotonic())
        return result


def session(options: BenchConfig) -> dict[str, float]:
    """Trains in this process; what it took."""
    share_one_arena()
    from ppuda_jax.runtime.compilation import CompileCounter
    from ppuda_jax.training.config import TrainConfig
    from ppuda_jax.training.loop import train
    from ppuda_jax.training.setup import deepnets_task

    settings = TrainConfig(
        dataset=options.dataset,
        data_dir=options.data_dir,
        meta_batch_size=options.meta_batch_size,
        batch_size=options.batch_size,
        steps=options.steps,
        num_devices=1,
        driver="host" if options.driver == "host" else "executor",
        max_variants=options.variants if options.driver == "executor" else None,
        compilation_cache=options.session,
    )
    ends: list[float] = []
    task = deepnets_task(settings)
    make_driver = task.make_driver
    task = dataclasses.replace(task, make_driver=lambda *args: Timed(make_driver(*args), ends))
    with CompileCounter() as compiles:
        result = train(settings, task)
    later = [end - before for before, end in itertools.pairwise(ends)]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "first": ends[0],
        "longest": max(later),
        "programs": result.programs,
        "calls": compiles.calls,
        "hits": compiles.cache_hits,
        "each": compiles.seconds / max(1.0, compiles.calls),
        "cpu": usage.ru_utime + usage.ru_stime,
        "mappings": mappings(),
        "gib": usage.ru_maxrss / 2**20,
    }


def start(options: BenchConfig, driver: str, folder: str) -> Mapping[str, float]:
    """Runs a session in a process of its own.

    Raises:
        ValueError: it ended with an error.
    """
    given = dataclasses.asdict(options) | {"driver": driver, "session": folder}
    settings = [f"--{name}={value}" for name, value in given.items() if value is not None]
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "experiments.bench_start", *settings],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith(_ANSWER)]
    if process.returncode or not lines:
        raise ValueError(f"the session of driver={driver} ended with {process.returncode}")
    answer = json.loads(lines[-1].removeprefix(_ANSWER))
    return {**answer, "first": answer["first"] - started}  # one clock for all processes


def row(driver: str, cache: str, found: Mapping[str, float]) -> list[object]:
    """A row of the table."""
    return [
        f"{driver}, {cache} cache",
        found["first"],
        found["longest"],
        int(found["programs"]),
        f"{found['calls']:.0f} ({found['hits']:.0f})",
        found["each"],
        found["cpu"],
        int(found["mappings"]),
        found["gib"],
    ]


HEADER = (
    "session",
    "first step after, s",
    "longest later step, s",
    "programs",
    "compiler calls (answered by the cache)",
    "s per call",
    "CPU s in all",
    "mappings",
    "peak GiB",
)


def run(options: BenchConfig) -> str:
    """Starts all sessions; returns the table, or the line of one session."""
    if options.session is not None:
        return _ANSWER + json.dumps(session(options))
    drivers = ("host", "executor") if options.driver == "both" else (options.driver,)
    rows = []
    for driver in drivers:
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("empty", "full"):
                rows.append(row(driver, cache, start(options, driver, folder)))
                print(flags.table(HEADER, rows[-1:]), file=sys.stderr, flush=True)
    return flags.table(HEADER, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
