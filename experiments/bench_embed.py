"""Times embeddings of many networks: `python -m experiments.bench_embed [--num_nets=100000]`.

Prints what each part takes of a processor, per sampled network: sampling it, its plan and graph,
shortest paths with padding, and the hypernetwork (programs are compiled before). Then networks a
second with all of it (`embed_networks`, which makes graphs in other processes) and with graphs at
hand (`embed`), by the clock and as processors would do them that have nothing else to do. With
`--output` the embeddings are kept there, and an interrupted run continues.
"""

import collections
import dataclasses
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import flags
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.properties.embed import embed, embedding_function, make_batches
from ppuda_jax.properties.embed_split import Networks, embed_networks, num_kept
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.processors import processors
from ppuda_jax.runtime.progress import Progress

_HEADER = ("what", "networks a second, clock", "a processor", "all processors, idle")


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    split: str = described("search", "by whose rules networks are sampled")
    num_nets: int = described(2000, "networks that are sampled and embedded")
    parts: int = described(
        2000, "networks, at most, whose parts are timed and whose graphs are kept"
    )
    output: str | None = described(None, "folder for the embeddings")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        if min(self.num_nets, self.parts) < 1:
            raise ValueError(
                f"num_nets and parts must be at least 1, received {self.num_nets} and {self.parts}"
            )


def run(options: BenchConfig) -> str:
    """Measures; returns two tables and the peak of this process's memory."""
    with compilation_cache(options.compilation_cache):
        ghn = load_ghn(options.checkpoint)
        networks, num = Networks(options.split, 32, ghn.config.num_classes), options.num_nets
        few = min(num, options.parts)
        parts, graphs = _parts(ghn, networks, few)
        told = [(name, f"{1e3 * seconds / few:.2f}") for name, seconds in parts.items()]
        told.append(("together", f"{1e3 * sum(parts.values()) / few:.2f}"))
        rows = [
            ("embedded, graphs at hand", *_speed(few, lambda: embed(ghn, graphs))),
            ("sampled and embedded", *_speed_of_all(ghn, networks, options)),
        ]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    nodes = np.mean([graph.num_nodes for graph in graphs])
    title = f"{few} networks of {options.split}, {nodes:.0f} nodes in the mean"
    return flags.report(
        flags.table(("part", "CPU ms each"), told, title),
        flags.table(_HEADER, rows),
        f"peak memory {memory:.2f} GiB, {processors()} processors",
    )


def _parts(
    ghn: LoadedGHN, networks: Networks, num: int
) -> tuple[dict[str, float], list[ArchGraph]]:
    """CPU seconds of each part, for all networks, one after the other; and the graphs."""
    seconds: dict[str, float] = collections.defaultdict(float)

    def timed(name: str, function: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = function()
        seconds[name] += time.process_time() - start
        return found

    configs = timed("sampling", lambda: [networks.config(index) for index in range(num)])
    classes, size = networks.num_classes, networks.image_size
    plans = timed("plan", lambda: [make_plan(config, classes, size) for config in configs])
    graphs = timed("graph", lambda: [graph_from_plan(plan) for plan in plans])
    function, theta = embedding_function(ghn.config), jax.tree.map(jnp.asarray, dict(ghn.theta))
    for batch in make_batches([graph.num_nodes for graph in graphs]):
        members = [graphs[number] for number in batch.members]
        padded = timed(
            "shortest paths, padding", lambda m=members, b=batch: b.padded(m, ghn.config)
        )
        program = function.load(theta, padded)
        timed("hypernetwork", lambda p=padded, f=program: np.asarray(f(theta, p)))
    return dict(seconds), graphs


def _speed_of_all(ghn: LoadedGHN, networks: Networks, options: BenchConfig) -> tuple[str, str, str]:
    """Of those that the folder does not have yet, if there is one."""
    bar, there = Progress("networks"), 0

    def show(done: int, total: int) -> None:
        bar.move(done / total)

    if options.output is not None:
        there = num_kept(options.output, options.num_nets)
    try:
        return _speed(
            options.num_nets - there,
            lambda: embed_networks(
                ghn, networks, options.num_nets, folder=options.output, progress=show
            ),
        )
    finally:
        bar.close()


def _speed(num: int, function: Callable[[], Any]) -> tuple[str, str, str]:
    """Networks a second: by the clock, of one processor, of all of them."""
    wall, used = time.perf_counter(), _cpu_seconds()
    function()
    wall, used = time.perf_counter() - wall, _cpu_seconds() - used
    each = num / used
    return f"{num / wall:.0f}", f"{each:.0f}", f"{processors() * each:.0f}"


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
