"""Times a step of training a network: by its own jitted function, in the executor, from the host.

    python -m experiments.bench_finetune --num_nets=6 --max_variants=1 --batch_size=32

Every network takes the steps of `ppuda_jax.finetune.fit` (images, gradient, update by SGD) each way
by turns, so that ratios hold on a busy machine; seconds of processors hold better. Compiling is not
part of a step; its seconds are shown beside, from no cache: the executor's are those of its first
network, as the others share its programs. Images are scikit-learn's digits.
"""

import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import flags
from ppuda_jax.archs.widths import BASE_CHANNELS
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.memory import freed_memory_kept, share_one_arena
from ppuda_jax.runtime.processors import processors

WAYS = ("own", "executor", "host")


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    split: str = described("test", "a split, or a file path.hdf5[:split]")
    num_nets: int = described(6, "networks")
    channels: int | None = described(BASE_CHANNELS, "width of all networks; none for their own")
    max_variants: int | None = described(1, "most frequent executor variants only; none for all")
    batch_size: int = described(32, "images per step")
    rounds: int = described(5, "turns of each way")
    block: int = described(2, "steps of a turn")
    compilation_cache: str | None = described(None, "folder of compiled programs, or none")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_nets", "rounds", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, received {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class Timing:
    """One network.

    Attributes:
      name: of the network.
      operations: of its plan.
      step: seconds of a step, median of the turns, for each of `WAYS`.
      cpu: seconds of processors that it takes, likewise.
      first: seconds until the first step is over, for each of them.
    """

    name: str
    operations: int
    step: tuple[float, ...]
    cpu: tuple[float, ...]
    first: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, float]:
        """The executor's step to the network's own: of seconds, and of those of processors."""
        return self.step[1] / self.step[0], self.cpu[1] / self.cpu[0]


class _Way:
    """A network that is trained one way."""

    def __init__(self, network: Any, images: Any, recipe: Any) -> None:
        from ppuda_jax.finetune.fit import beginning, make_step

        now = beginning(network, network.pack(network.initial(0)), recipe)
        self._now = now.params, now.optimiser, now.state
        self._number, self._step = 0, make_step(network, images, recipe, 10**6, 0)

    def seconds(self, steps: int) -> tuple[float, float]:
        """Mean of some steps: seconds, and seconds of processors."""
        import jax

        started = np.array([time.perf_counter(), time.process_time()])
        for _ in range(steps):
            *self._now, _ = self._step(*self._now, self._number)
            self._number += 1
        jax.block_until_ready(self._now)
        ended = np.array([time.perf_counter(), time.process_time()])
        spent, of_processors = ((ended - started) / steps).tolist()
        return spent, of_processors


def run(options: BenchConfig) -> str:
    """Times; returns the report.

    Raises:
      ValueError: networks that there are not, or that the executor cannot train.
    """
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation import choose_networks
    from ppuda_jax.finetune.deepnets import by_itself, on_host
    from ppuda_jax.finetune.in_executor import in_executor, rooms_of
    from ppuda_jax.finetune.recipe import Recipe

    share_one_arena()
    recipe = Recipe(batch_size=options.batch_size)
    images = training_images("digits", options.batch_size, 0)
    nets = choose_networks(
        options.split,
        options.num_nets,
        channels=options.channels,
        max_variants=options.max_variants,
    )
    rooms = rooms_of(nets)
    makers: tuple[Callable[[Any], Any], ...] = (
        by_itself,
        lambda net: in_executor(net, options.batch_size, rooms=rooms),
        lambda net: on_host(net, options.batch_size),
    )
    timings = []
    with compilation_cache(options.compilation_cache), freed_memory_kept():
        for net in nets:
            ways = [_Way(make(net), images, recipe) for make in makers]
            first = tuple(way.seconds(1)[0] for way in ways)
            turns = [[way.seconds(options.block) for way in ways] for _ in range(options.rounds)]
            step, cpu = (tuple(row) for row in np.median(turns, axis=0).T.tolist())
            timings.append(Timing(net.name, len(net.plan.ops), step, cpu, first))
            print(report_line(timings[-1]), flush=True)
    return flags.report("", machine(options), "", times_table(timings))


def machine(options: BenchConfig) -> str:
    """What it was measured on."""
    import jax

    return (
        f"{jax.devices()[0].device_kind} ({platform.machine()}, {processors()} cores), JAX "
        f"{jax.__version__}, {options.batch_size} images a step"
    )


def report_line(timing: Timing) -> str:
    """What is said of a network once it is timed."""
    steps = ", ".join(f"{way} {s:.3f} s" for way, s in zip(WAYS, timing.step, strict=True))
    return f"{timing.name}: {steps}, executor to own {timing.ratios[0]:.2f}"


def times_table(timings: Sequence[Timing]) -> str:
    """The table: a row per network, their medians, and seconds until the first step."""
    numbers = np.array([[*t.step, t.ratios[0], *t.cpu, t.ratios[1], *t.first] for t in timings])
    rows: list[list[object]] = [
        [t.name, t.operations, *row] for t, row in zip(timings, numbers.tolist(), strict=True)
    ]
    rows.append(["median", None, *np.median(numbers, axis=0).tolist()])
    rows.append(["sum", None, *[None] * 8, *numbers[:, 8:].sum(axis=0).tolist()])
    header = ["network", "operations", *(f"{way}, s" for way in WAYS), "executor / own"]
    header += [*(f"{way}, CPU s" for way in WAYS), "of CPU s"]
    return flags.table(header + [f"{way}, first" for way in WAYS], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
