"""Times the training step on architectures it never saw, alone and beside the reference.

    python -m experiments.bench_train --num_archs=500
    python -m experiments.bench_train --peer=DIR --peer_python=PYTHON --peer_archs=40

`--peer` is a checkout of the reference implementation and `--peer_python` an interpreter that can
import it; both implementations then train on the same architectures by turns, a block of steps
each, so that their ratio holds on a busy machine too. Images are scikit-learn's digits.
"""

import dataclasses
import json
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments import flags
from experiments.bench_train_tables import Row, breakdown_table, comparison, summary
from experiments.peer import reference
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache
from ppuda_jax.runtime.memory import freed_memory_kept, mappings, share_one_arena
from ppuda_jax.runtime.processors import processors
from ppuda_jax.runtime.progress import say


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    num_archs: int = described(100, "never-seen architectures of the first table")
    meta_batch_size: int = described(1, "networks per step")
    batch_size: int = described(64, "images per step")
    model: Literal["ghn2", "ghn1", "mlp"] = described("ghn2", "hypernetwork")
    compute_dtype: Literal["float32", "bfloat16"] = described("float32", "of activations")
    driver: Literal["auto", "host", "executor"] = described("auto", "as for training")
    max_variants: int | None = described(None, "most frequent variants only; all by default")
    probe_archs: int = described(512, "architectures drawn to find the variants")
    breakdown_archs: int = described(
        20, "architectures whose steps in the executor are taken apart"
    )
    compilation_cache: str | None = described(
        "~/.cache/ppuda_jax/xla", "folder of compiled programs, or none"
    )
    peer: str | None = described(None, "checkout of the reference implementation")
    peer_python: str = described(sys.executable, "interpreter with PyTorch")
    peer_archs: int = described(20, "architectures of the comparison")
    block: int = described(5, "steps of one implementation before the other's turn")
    seed: int = described(1111, "of the architectures")
    rows: str | None = described(None, "JSONL file to write every step taken beside the peer to")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_archs", "meta_batch_size", "batch_size", "probe_archs", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")


# ---- ours ------------------------------------------------------------------------------------


class Bench:
    """The training step as `ppuda_jax.training.loop` runs it, step by step."""

    def __init__(self, options: BenchConfig, compiles: CompileCounter) -> None:

        from ppuda_jax import parallel
        from ppuda_jax.training.config import TrainConfig
        from ppuda_jax.training.setup import deepnets_task, ghn_config
        from ppuda_jax.training.state import make_state

        self.settings = TrainConfig(
            dataset="digits",
            model=options.model,
            meta_batch_size=options.meta_batch_size,
            batch_size=options.batch_size,
            compute_dtype=options.compute_dtype,
            max_variants=options.max_variants,
            probe_archs=options.probe_archs,
            driver=options.driver,
            seed=options.seed,
            num_devices=1,
            steps=10**6,
            compilation_cache=options.compilation_cache,
        )
        self.options, self.compiles = options, compiles
        self.task = deepnets_task(self.settings)
        spec = self.task.images.spec
        self.ghn = ghn_config(self.settings, spec.image_size, spec.num_classes)
        topology = parallel.make_topology(1)
        state = parallel.to_host(make_state(self.task.theta, self.settings))
        batch = self.task.images.batch(0)[None]
        rate = np.full(1, 1e-3, np.float32)
        self.state, *self.rest = parallel.replicate(
            (state, self.task.images.resident, batch, rate), topology
        )
        self.driver = self.task.make_driver(self.settings, topology)
        self.stream = self._stream()
        self.predictors: dict[Any, tuple[Any, Any]] = {}

    def _stream(self) -> Any:
        """Meta-batches of networks that start-up does not look at, built in this thread."""
        from ppuda_jax.data.grouping import GroupingState
        from ppuda_jax.data.stream import ArchitectureStream

        return ArchitectureStream(
            self.task.networks,
            meta_batch_size=self.settings.meta_batch_size,
            mixed=self.driver.mixed,
            workers=0,
            prefetch=0,
            state=GroupingState(next_index=self.options.probe_archs),
        )

    def prepare(self) -> str:
        """Compiles what the driver compiles before the first step; says what."""
        started = time.perf_counter()
        self.driver.prepare(self.stream, (self.state, *self.rest))
        compiled = self.driver.finish()
        return (
            f"before the first step: {compiled} in {time.perf_counter() - started:.1f} s "
            f"({self.compiles.cache_hits:.0f} programs were in the cache)"
        )

    def compile_for(self, group: Any) -> float:
        """Seconds until all is compiled that a group needs; training goes on meanwhile."""
        started = time.perf_counter()
        self.driver.request(group)
        self.driver.finish()
        return time.perf_counter() - started

    def step(self, group: Any) -> float:
        """Seconds of one step, arrays on the host included."""
        import jax

        started = time.perf_counter()
        self.state, metrics = self.driver.run(group, (self.state, *self.rest))
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - started

    def take_apart(self, group: Any) -> Row:
        """Seconds of an executor's step, of it without parts of its programs, and of predicting.

        Programs are data, so that nothing is compiled but the predictors.
        """
        import jax

        variant, arrays = group.variant, group.arrays
        programs = arrays.programs
        none = jax.tree.map(np.zeros_like, programs.backward_count)
        no_backward = dataclasses.replace(programs, backward_count=none)
        empty = dataclasses.replace(
            no_backward, forward_count=jax.tree.map(np.zeros_like, programs.forward_count)
        )
        cases = {
            "step": programs,
            "no_backward": no_backward,
            "empty": empty,
            "additions": _additions(variant, programs),
        }
        row = {
            name: self.step(
                dataclasses.replace(group, arrays=dataclasses.replace(arrays, programs=case))
            )
            for name, case in cases.items()
        }
        one = jax.device_put(jax.tree.map(lambda leaf: leaf[0, 0], arrays))
        for name, program in zip(
            ("predict", "predict_grad"), self._predictors(variant), strict=True
        ):
            jax.block_until_ready(program(self.state.theta, one))
            started = time.perf_counter()
            jax.block_until_ready(program(self.state.theta, one))
            row[name] = time.perf_counter() - started
        return row

    def _predictors(self, variant: Any) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        from ppuda_jax.prediction.tables import predict_tables

        def predict(theta: Any, networks: Any) -> Any:
            return predict_tables(self.ghn, variant, theta, networks)

        def total(theta: Any, networks: Any) -> jax.Array:
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(predict(theta, networks)))

        if variant not in self.predictors:
            self.predictors[variant] = jax.jit(predict), jax.jit(jax.grad(total))
        return self.predictors[variant]


def _additions(variant: Any, programs: Any) -> Any:
    """The same programs with every instruction inside a file an addition, the others left out."""
    from ppuda_jax.executor.layout import layout_of

    changed: dict[str, dict[str, np.ndarray]] = {}
    for kind in ("forward", "backward"):
        codes = {name: code.copy() for name, code in getattr(programs, kind).items()}
        counts = {name: c.copy() for name, c in getattr(programs, f"{kind}_count").items()}
        for group in layout_of(variant).groups:
            if group.inner:
                codes[group.name][..., 0] = group.opcode["add"]
            else:
                counts[group.name][...] = 0
        changed |= {kind: codes, f"{kind}_count": counts}
    return dataclasses.replace(programs, **changed)


# ---- the reference ---------------------------------------------------------------------------


def compare(bench: Bench, groups: Sequence[Any]) -> tuple[list[float], list[Row]]:
    """Steps of both implementations on the same groups, a block of each by turns."""
    configs = [bench.task.networks.config(i) for group in groups for i in group.indices]
    options = bench.options
    size = options.meta_batch_size
    ours: list[float] = []
    theirs: list[Row] = []
    with reference(
        "step",
        configs,
        checkout=options.peer,
        python=options.peer_python,
        batch_size=options.batch_size,
    ) as peer_step:
        for k in range(min(2, len(groups))):
            peer_step(range(k * size, (k + 1) * size))  # warm-up
        for first in range(0, len(groups), options.block):
            block = range(first, min(first + options.block, len(groups)))
            mine = [bench.step(groups[k]) for k in block]
            answers = [peer_step(range(k * size, (k + 1) * size)) for k in block]
            for k, seconds, row in zip(block, mine, answers, strict=True):
                if options.rows is not None:
                    _save_row(options.rows, groups[k], seconds, row)
                if "error" in row:
                    print(f"left out, the reference failed: {row['error']}", file=sys.stderr)
                else:
                    ours.append(seconds)
                    theirs.append(row)
    return ours, theirs


def _save_row(path: str, group: Any, seconds: float, row: Mapping[str, Any]) -> None:
    entry = {
        "indices": group.indices,
        "ours": seconds,
        "reference": row,
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


# ---- the run ---------------------------------------------------------------------------------


def memory_line(before: int) -> str:
    """Peak memory of this process, and of the device where it counts its own."""
    import jax

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = f"peak memory of the process {peak:.2f} GiB ({before / 2**20:.2f} after compiling)"
    stats = jax.devices()[0].memory_stats()
    if stats:
        line += f", of the device {stats['peak_bytes_in_use'] / 2**30:.2f} GiB"
    return line


def run(options: BenchConfig) -> flags.Report:
    """Compiles and times; returns what was measured."""
    share_one_arena()
    with compilation_cache(options.compilation_cache), CompileCounter() as compiles:
        bench = Bench(options, compiles)
        prepared = bench.prepare()
        with freed_memory_kept():
            found = _measure(bench, prepared)
        bench.driver.close()
    return found


def _measure(bench: Bench, prepared: str) -> flags.Report:
    import jax

    options = bench.options
    after_compiling = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    machine = (
        f"{jax.devices()[0].device_kind} ({platform.machine()}, {processors()} cores), JAX "
        f"{jax.__version__}, {options.model}, batch {options.batch_size}, meta-batch "
        f"{options.meta_batch_size}, {options.compute_dtype}, {type(bench.driver).__name__}"
    )
    say(f"{machine}\n{prepared}")
    seconds, waits, builds, groups = [], [], [], []
    kept = max(options.breakdown_archs, options.peer_archs if options.peer else 0)
    for _ in range(-(-options.num_archs // options.meta_batch_size)):
        started = time.perf_counter()
        group = next(bench.stream)
        builds.append(time.perf_counter() - started)
        waits.append(bench.compile_for(group))
        seconds.append(bench.step(group))
        if len(groups) < kept // options.meta_batch_size:
            groups.append(group)
    seen = len(seconds) * options.meta_batch_size
    programs = (
        f"{bench.driver.count} programs after {seen} never-seen architectures, "
        f"{mappings()} memory mappings"
    )
    rows = {
        "step": seconds,
        "compiling ahead (in threads)": waits,
        "sampling and arrays (in workers)": builds,
    }
    table = [[name, *summary(values)] for name, values in rows.items()]
    times = flags.table(["s", "mean", "median", "90 %", "max"], table)
    parts = [machine, "", prepared, "", programs, "", times, "", memory_line(after_compiling)]
    if options.peer:
        say(str(times))
        count = options.peer_archs // options.meta_batch_size
        parts.append(comparison(*compare(bench, groups[:count])))
    if groups and not bench.driver.mixed:
        apart = groups[: -(-options.breakdown_archs // options.meta_batch_size)]
        parts += ["", _take_apart(bench, apart)]
    return flags.report(*parts)


def _take_apart(bench: Bench, groups: Sequence[Any]) -> str:
    examples = {group.variant: group for group in groups}
    for group in examples.values():
        bench.take_apart(group)  # compiles the predictors
    return breakdown_table([bench.take_apart(group) for group in groups])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
