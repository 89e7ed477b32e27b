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
from typing import Any

import numpy as np
from absl import app, flags

from experiments.bench_train_tables import Row, breakdown_table, comparison, summary, table
from experiments.peer import reference
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache
from ppuda_jax.runtime.memory import freed_memory_kept, share_one_arena
from ppuda_jax.runtime.processors import processors

_NUM_ARCHS = flags.DEFINE_integer("num_archs", 100, "never-seen architectures of the first table")
_META_BATCH = flags.DEFINE_integer("meta_batch_size", 1, "networks per step")
_BATCH = flags.DEFINE_integer("batch_size", 64, "images per step")
_MODEL = flags.DEFINE_enum("model", "ghn2", ["ghn2", "ghn1", "mlp"], "hypernetwork")
_DTYPE = flags.DEFINE_enum("compute_dtype", "float32", ["float32", "bfloat16"], "of activations")
_MAX_VARIANTS = flags.DEFINE_integer("max_variants", None, "most frequent variants to compile")
_PROBE = flags.DEFINE_integer("probe_archs", 512, "architectures drawn to find the variants")
_BREAKDOWN = flags.DEFINE_integer("breakdown_archs", 20, "steps taken apart; 0 for none")
_CACHE = flags.DEFINE_string(
    "compilation_cache", "~/.cache/ppuda_jax/xla", "folder of compiled programs; `none` for none"
)
_PEER = flags.DEFINE_string("peer", None, "checkout of the reference implementation")
_PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "interpreter with PyTorch")
_PEER_ARCHS = flags.DEFINE_integer("peer_archs", 20, "architectures of the comparison")
_BLOCK = flags.DEFINE_integer("block", 5, "steps of one implementation before the other's turn")
_SEED = flags.DEFINE_integer("seed", 1111, "of the architectures")
_ROWS = flags.DEFINE_string("rows", None, "JSONL file to write every step taken beside the peer to")

# ---- ours ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """What compiling ahead took.

    Attributes:
        found: variants among the probed architectures.
        compiled: of these, compiled.
        covered: share of the probed architectures that those run.
        seconds: wall time.
        on_disk: programs that the cache already had.
    """

    found: int
    compiled: int
    covered: float
    seconds: float
    on_disk: float


class Bench:
    """The training step as `ppuda_jax.training.loop` runs it, step by step."""

    def __init__(self, cache: str | None, compiles: CompileCounter) -> None:
        from ppuda_jax import parallel
        from ppuda_jax.training.config import TrainConfig
        from ppuda_jax.training.programs import StepPrograms
        from ppuda_jax.training.setup import deepnets_task, ghn_config
        from ppuda_jax.training.state import make_state

        self.parallel = parallel
        self.settings = TrainConfig(
            dataset="digits",
            model=_MODEL.value,
            meta_batch_size=_META_BATCH.value,
            batch_size=_BATCH.value,
            compute_dtype=_DTYPE.value,
            seed=_SEED.value,
            num_devices=1,
            steps=10**6,
            compilation_cache=cache,
        )
        self.compiles = compiles
        self.task = deepnets_task(self.settings)
        spec = self.task.images.spec
        self.ghn = ghn_config(self.settings, spec.image_size, spec.num_classes)
        self.topology = parallel.make_topology(1)
        state = parallel.to_host(make_state(self.task.theta, self.settings))
        self.state = parallel.replicate(state, self.topology)
        self.resident = parallel.replicate(self.task.images.resident, self.topology)
        self.programs = StepPrograms(
            self.task.loss_for, self.task.images.load, self.settings, self.topology
        )
        batch = self.task.images.batch(0)[None]
        rate = np.full(1, 1e-3, np.float32)
        self.inputs = parallel.replicate((batch, rate), self.topology)
        self.predictors: dict[Any, tuple[Any, Any]] = {}

    def stream(self, shares: dict | None, first: int) -> Any:
        """Meta-batches of the architectures from number `first` on, built in this thread."""
        from ppuda_jax.data.grouping import GroupingState
        from ppuda_jax.data.stream import ArchitectureStream

        return ArchitectureStream(
            self.task.networks,
            meta_batch_size=self.settings.meta_batch_size,
            workers=0,
            prefetch=0,
            shares=shares,
            state=GroupingState(next_index=first),
        )

    def warm_up(self) -> tuple[WarmUp, frozenset]:
        """Compiles the most frequent variants, and runs each once."""
        stream = self.stream(None, 0)
        found = stream.probe(_PROBE.value)
        chosen = found[: _MAX_VARIANTS.value]
        examples = []
        for variant, surveys in chosen:
            arrays = stream.example(surveys)
            if arrays is not None:
                networks = self.parallel.split(arrays, self.topology)
                args = (self.state, self.resident, networks, *self.inputs)
                examples.append((variant, args))
        started = time.perf_counter()
        on_disk = self.programs.warm_up(examples)
        seconds = time.perf_counter() - started
        for variant, args in examples:
            self.step(variant, args[2])
        covered = sum(len(surveys) for _, surveys in chosen) / _PROBE.value
        report = WarmUp(len(found), len(examples), covered, seconds, on_disk)
        return report, frozenset(variant for variant, _ in examples)

    def step(self, variant: Any, arrays: Any) -> float:
        """Seconds of one step, arrays on the host included."""
        import jax

        started = time.perf_counter()
        networks = self.parallel.split(arrays, self.topology)
        self.state, metrics = self.programs.run(
            variant, self.state, self.resident, networks, *self.inputs
        )
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - started

    def take_apart(self, variant: Any, arrays: Any) -> Row:
        """Seconds of a step, of the step without parts of its programs, and of predicting.

        Programs are data, so that nothing is compiled but the predictors.
        """
        import jax

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
        row = {k: self.step(variant, arrays.replace(programs=case)) for k, case in cases.items()}
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
    size = _META_BATCH.value
    ours: list[float] = []
    theirs: list[Row] = []
    with reference(
        "step", configs, checkout=_PEER.value, python=_PEER_PYTHON.value, batch_size=_BATCH.value
    ) as peer_step:
        for k in range(min(2, len(groups))):
            peer_step(range(k * size, (k + 1) * size))  # warm-up
        for first in range(0, len(groups), _BLOCK.value):
            block = range(first, min(first + _BLOCK.value, len(groups)))
            mine = [bench.step(groups[k].variant, groups[k].arrays) for k in block]
            answers = [peer_step(range(k * size, (k + 1) * size)) for k in block]
            for k, seconds, row in zip(block, mine, answers, strict=True):
                _save_row(groups[k], seconds, row)
                if "error" in row:
                    print(f"left out, the reference failed: {row['error']}", file=sys.stderr)
                else:
                    ours.append(seconds)
                    theirs.append(row)
    return ours, theirs


def _save_row(group: Any, seconds: float, row: Mapping[str, Any]) -> None:
    if _ROWS.value:
        with open(_ROWS.value, "a", encoding="utf-8") as file:
            entry = {
                "indices": group.indices,
                "variant": dataclasses.asdict(group.variant),
                "ours": seconds,
                "reference": row,
            }
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


def main(argv: list[str]) -> None:
    """Runs the script."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flag=value")
    share_one_arena()
    cache = None if _CACHE.value == "none" else _CACHE.value
    with compilation_cache(cache), CompileCounter() as compiles:
        bench = Bench(cache, compiles)
        warm_up = bench.warm_up()
        with freed_memory_kept():
            _measure(bench, *warm_up)


def _measure(bench: Bench, warm_up: WarmUp, variants: Sequence[Any]) -> None:
    import jax

    after_compiling = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{jax.devices()[0].device_kind} ({platform.machine()}, {processors()} cores), JAX "
        f"{jax.__version__}, {_MODEL.value}, batch {_BATCH.value}, meta-batch "
        f"{_META_BATCH.value}, {_DTYPE.value}\n"
    )
    print(
        f"warm-up: {warm_up.compiled} of {warm_up.found} variants compiled in "
        f"{warm_up.seconds:.1f} s ({warm_up.on_disk} were in the cache); they run "
        f"{warm_up.covered:.1%} of the networks\n",
        flush=True,
    )
    stream = bench.stream(dict.fromkeys(variants, 1.0), _PROBE.value)
    calls, seconds, builds, groups = bench.compiles.calls, [], [], []
    kept = max(_BREAKDOWN.value, _PEER_ARCHS.value if _PEER.value else 0) // _META_BATCH.value
    for _ in range(-(-_NUM_ARCHS.value // _META_BATCH.value)):
        started = time.perf_counter()
        group = next(stream)
        builds.append(time.perf_counter() - started)
        seconds.append(bench.step(group.variant, group.arrays))
        if len(groups) < kept:
            groups.append(group)
    new = bench.compiles.calls - calls
    seen = len(seconds) * _META_BATCH.value
    print(f"compilations over {seen} never-seen architectures: {new}\n")
    print(
        table(
            ["s", "mean", "median", "90 %", "max"],
            [["step", *summary(seconds)], ["sampling and arrays (in workers)", *summary(builds)]],
        )
    )
    print(f"\n{memory_line(after_compiling)}", flush=True)
    apart = groups[: -(-_BREAKDOWN.value // _META_BATCH.value)]
    for variant in {group.variant for group in apart}:
        example = next(group for group in apart if group.variant == variant)
        bench.take_apart(variant, example.arrays)  # compiles the predictors
    print("everything is compiled\n", flush=True)
    if _PEER.value:
        count = _PEER_ARCHS.value // _META_BATCH.value
        print(comparison(*compare(bench, groups[:count])), flush=True)
    if apart:
        rows = [bench.take_apart(group.variant, group.arrays) for group in apart]
        print(f"\n{breakdown_table(rows)}")


if __name__ == "__main__":
    app.run(main)
