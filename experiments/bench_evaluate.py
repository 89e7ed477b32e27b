"""Times evaluation through the executor, by one compilation per architecture and by the reference.

    python -m experiments.bench_evaluate --split=test --num_nets=8 --max_variants=1
    python -m experiments.bench_evaluate --peer=DIR --peer_python=PYTHON

All ways predict the parameters of the same networks with the same GHN and run them on the same
images, in turns, without a cache of compiled programs, so that ratios hold on a busy
machine. The losses must agree. `--peer` is a checkout of the reference implementation and
`--peer_python` an interpreter that can import it.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import flags
from experiments.peer import reference
from ppuda_jax import config as config_lib
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    dataset: str = described("digits", "images")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("test", "architectures")
    num_nets: int = described(8, "architectures evaluated through the executor")
    num_compiled: int = described(3, "how many of them are also compiled by themselves")
    max_variants: int | None = described(1, "executor variants that the architectures may have")
    batch_size: int = described(64, "images per batch")
    max_images: int | None = described(320, "only the first images")
    memory_limit_gib: float = described(4.0, "room for the executor")
    peer: str | None = described(None, "checkout of the reference implementation")
    peer_python: str = described(sys.executable, "interpreter with PyTorch")
    output: str | None = described(None, "JSON file for the figures")

    def __post_init__(self) -> None:
        check_types(self)


@dataclasses.dataclass(frozen=True)
class Timing:
    """One architecture by one of the ways.

    Attributes:
      name: of the architecture.
      way: "executor", "network" or "reference".
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
    """Evaluates the same architectures in all ways.

    Raises:
      ValueError: the reference is asked for what it does otherwise.
    """
    with compilation_cache(None), CompileCounter() as counter:
        return _bench(options, counter)


def _bench(options: BenchConfig, counter: CompileCounter) -> list[Timing]:
    from ppuda_jax import evaluation
    from ppuda_jax.checkpoints import load_ghn

    ghn = load_ghn(options.checkpoint)
    images = evaluation.load_eval_images(
        options.dataset,
        "test",
        options.data_dir,
        batch_size=options.batch_size,
        max_images=options.max_images,
    )
    spec = images.spec
    nets = evaluation.choose_networks(
        options.split,
        options.num_nets,
        num_classes=spec.num_classes,
        image_size=spec.image_size,
        max_variants=options.max_variants,
    )
    limit = options.memory_limit_gib
    ways = {
        name: evaluation.EvalSettings(
            memory_limit_gib=gib, num_devices=1, compile_threads=0, driver="executor"
        )
        for name, gib in (("executor", limit), ("network", 0.0))
    }
    parameters = evaluation.predicted(ghn)

    def ours(way: str, net: Any) -> Timing:
        calls, started = counter.calls, time.perf_counter()
        (result,) = evaluation.evaluate_archs(parameters, [net], images, settings=ways[way])
        seconds = time.perf_counter() - started
        return Timing(
            net.name,
            way,
            seconds,
            result.run_s,
            result.predict_s,
            counter.calls - calls,
            result.top1,
            result.loss,
        )

    def theirs(ask: Any, number: int) -> Timing:
        answer = ask([number])
        named = {key: answer[key] for key in ("seconds", "run_s", "predict_s", "top1", "loss")}
        return Timing(nets[number].name, "reference", compiler_calls=0, **named)

    timings = []
    with _peer(options, nets, images, ghn) as ask:
        for number, net in enumerate(nets):
            new = [ours("executor", net)]
            if number < options.num_compiled:
                new.append(ours("network", net))
            if ask is not None:
                new.append(theirs(ask, number))
            for timing in new:
                print(f"{net.name} {timing.way}: {timing.seconds:.1f} s", file=sys.stderr)
            timings += new
    return timings


def _peer(options: BenchConfig, nets: Sequence[Any], images: Any, ghn: Any) -> Any:
    """The reference on the same networks and images, with the same GHN; None if not asked for."""
    if options.peer is None:
        return contextlib.nullcontext()
    from ppuda_jax.convert.state_dicts import config_to_torch, state_dict_from_theta

    if any(net.config is None for net in nets):
        raise ValueError(f"the reference runs networks of DeepNets-1M, not {options.split}")
    if images.spec.image_size != 32:
        raise ValueError(
            f"beside the reference, images are of 32 pixels, not those of {images.spec.name}"
        )
    if images.num_images % images.batch_size:
        raise ValueError(
            f"beside the reference, all batches are whole: {images.num_images} images are no "
            f"multiple of {images.batch_size}; choose --max_images"
        )
    pixels = np.concatenate([np.asarray(batch.images) for batch in images.batches])
    labels = np.concatenate([np.asarray(batch.labels) for batch in images.batches])
    tensors = state_dict_from_theta(ghn.config, jax.device_get(ghn.theta))
    arrays = {
        "images": pixels.transpose(0, 3, 1, 2),
        "labels": labels.astype(np.int64),
        "config": np.array(json.dumps(config_to_torch(ghn.config))),
        **{f"ghn/{name}": tensor for name, tensor in tensors.items()},
    }
    return reference(
        "evaluate",
        [net.config for net in nets],
        checkout=options.peer,
        python=options.peer_python,
        batch_size=images.batch_size,
        arrays=arrays,
    )


def report(timings: Sequence[Timing]) -> flags.Report:
    """Table of all ways; the executor's first architecture of a variant stands apart."""

    def of(way):
        return [t for t in timings if t.way == way]

    ready = [t for t in of("executor") if t.compiler_calls == 0]
    compiled = [t for t in of("executor") if t.compiler_calls]
    rows = [
        ("executor, compiling its variant", compiled),
        ("executor, variant compiled", ready),
        ("compiled by itself", of("network")),
        ("reference", of("reference")),
    ]
    cells, lines = [], []
    for label, group in rows:
        if not group:
            continue
        total, predict, run, calls = (
            float(np.median([getattr(t, name) for t in group]))
            for name in ("seconds", "predict_s", "run_s", "compiler_calls")
        )
        cells.append([label, len(group), f"{total:.2f}", predict, f"{run:.2f}", f"{calls:.0f}"])
    pairs = {t.name: t for t in of("executor")}
    for way in ("network", "reference"):
        differences = [abs(t.loss - pairs[t.name].loss) / abs(t.loss) for t in of(way)]
        if differences:
            lines.append(
                f"largest difference of the loss between executor and {way}: "
                f"{max(differences):.1e} of it"
            )
    if ready and of("network"):
        own, shared = (np.median([t.seconds for t in g]) for g in (of("network"), ready))
        once = float(np.median([t.seconds for t in compiled])) if compiled else 0.0
        lines.append(
            f"a further architecture of a variant is {own / shared:.1f} times faster; a variant's "
            f"compilation pays off after {1 + int(once / max(1e-9, own - shared))} architectures"
        )
    peers = {t.name: t for t in of("reference")}
    both = [(t.seconds, peers[t.name].seconds) for t in ready if t.name in peers]
    if both:
        ratio = float(np.median([a / b for a, b in both]))
        lines.append(
            f"executor to reference, {len(both)} architectures of compiled variants: "
            f"median of ratios {ratio:.2f}"
        )
    header = ["median per architecture", "nets", "total s", "predict s", "run s", "compiler calls"]
    return flags.report(flags.table(header, cells), *lines)


def run(options: BenchConfig) -> str:
    """Times; returns the report, and writes the figures where `output` says."""
    timings = bench(options)
    if options.output is not None:
        rows = [dataclasses.asdict(timing) for timing in timings]
        config_lib.write_atomic(pathlib.Path(options.output), json.dumps(rows, indent=1) + "\n")
    return report(timings)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
