"""Times evaluation through the executor against one compilation per architecture, in one run.

    python -m experiments.bench_evaluate --split=test --num_nets=8 --max_variants=1

Both ways predict the parameters of the same networks with the same (random) GHN-2 and run them on
the same images, in turns, without a cache of compiled programs, so that ratios hold on a busy
machine. The accuracies must agree.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, logging

from experiments import flags as config_flags
from ppuda_jax import config as config_lib
from ppuda_jax.config import described


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    dataset: str = described("digits", "images")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("test", "architectures")
    num_nets: int = described(8, "architectures evaluated through the executor")
    num_compiled: int = described(3, "how many of them are also compiled by themselves")
    max_variants: int | None = described(1, "executor variants that the architectures may have")
    batch_size: int = described(64, "images per batch")
    max_images: int | None = described(320, "only the first images")
    memory_limit_gib: float = described(4.0, "room for the executor")
    output: str | None = described(None, "JSON file for the figures")


@dataclasses.dataclass(frozen=True)
class Timing:
    """One architecture by one of the two ways.

    Attributes:
      name: of the architecture.
      way: "executor" or "network".
      seconds: wall time of the evaluation, compilation included.
      run_s: seconds to run the network on the images.
      predict_s: seconds to predict its parameters.
      compiler_calls: calls of the XLA compiler.
      top1: accuracy.
      loss: mean cross-entropy.
    """

    name: str
    way: str
    seconds: float
    run_s: float
    predict_s: float
    compiler_calls: int
    top1: float
    loss: float


def bench(options: BenchConfig) -> list[Timing]:
    """Evaluates the same architectures both ways."""
    from ppuda_jax import evaluation
    from ppuda_jax.ghn.config import ghn2_cifar10
    from ppuda_jax.ghn.loaded import LoadedGHN
    from ppuda_jax.ghn.model import init_theta
    from ppuda_jax.training.compilation import CompileCounter, use_cache

    use_cache(None)
    images = evaluation.load_eval_images(
        options.dataset, "test", options.data_dir, batch_size=options.batch_size,
        max_images=options.max_images,
    )  # fmt: skip
    spec = images.spec
    nets = evaluation.choose_networks(
        options.split, options.num_nets, num_classes=spec.num_classes,
        image_size=spec.image_size, max_variants=options.max_variants,
    )  # fmt: skip
    config = dataclasses.replace(ghn2_cifar10(), num_classes=spec.num_classes)
    ghn = LoadedGHN(config, jax.jit(init_theta, static_argnums=0)(config, jax.random.key(0)))
    limit, counter = options.memory_limit_gib, CompileCounter()
    ways = {
        name: evaluation.EvalSettings(memory_limit_gib=gib, num_devices=1, compile_threads=0)
        for name, gib in (("executor", limit), ("network", 0.0))
    }
    evaluators = {name: evaluation.Evaluator(config, images, s) for name, s in ways.items()}
    timings = []
    for number, net in enumerate(nets):
        for way in ways if number < options.num_compiled else ("executor",):
            calls, started = counter.calls, time.perf_counter()
            result = evaluators[way].evaluate(ghn, net)
            seconds = time.perf_counter() - started
            timings.append(Timing(net.name, way, seconds, result.run_s, result.predict_s,
                                  counter.calls - calls, result.top1, result.loss))  # fmt: skip
            print(f"{net.name} {way}: {seconds:.1f} s", file=sys.stderr)
    return timings


def report(timings: Sequence[Timing]) -> str:
    """Table of both ways; the executor's first architecture of a variant stands apart."""
    def of(way):
        return [t for t in timings if t.way == way]

    ready = [t for t in of("executor") if t.compiler_calls == 0]
    compiled = [t for t in of("executor") if t.compiler_calls]
    rows = [("executor, compiling its variant", compiled), ("executor, variant compiled", ready),
            ("compiled by itself", of("network"))]  # fmt: skip
    lines = [f"{'median per architecture':<34}{'nets':>6}{'total s':>10}{'predict s':>11}"
             f"{'run s':>9}{'compiler calls':>16}"]  # fmt: skip
    for label, group in rows:
        if not group:
            continue
        total, predict, run, calls = (
            float(np.median([getattr(t, name) for t in group]))
            for name in ("seconds", "predict_s", "run_s", "compiler_calls")
        )
        lines.append(f"{label:<34}{len(group):>6}{total:>10.2f}{predict:>11.3f}{run:>9.2f}"
                     f"{calls:>16.0f}")  # fmt: skip
    pairs = {t.name: t for t in of("executor")}
    worst = max((abs(t.loss - pairs[t.name].loss) for t in of("network")), default=0.0)
    lines.append(f"largest difference of the loss between the two ways: {worst:.1e}")
    if ready and of("network"):
        own, shared = (np.median([t.seconds for t in g]) for g in (of("network"), ready))
        once = float(np.median([t.seconds for t in compiled])) if compiled else 0.0
        lines.append(
            f"a further architecture of a variant is {own / shared:.1f} times faster; a variant's "
            f"compilation pays off after {1 + int(once / max(1e-9, own - shared))} architectures"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flag=value")
    logging.set_verbosity(logging.ERROR)
    try:
        names = tuple(field.name for field in dataclasses.fields(BenchConfig))
        options = config_flags.apply(BenchConfig(), names)
        timings = bench(options)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(report(timings))
    if options.output is not None:
        rows = [dataclasses.asdict(timing) for timing in timings]
        config_lib.write_atomic(pathlib.Path(options.output), json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    config_flags.define(BenchConfig)
    app.run(main)
