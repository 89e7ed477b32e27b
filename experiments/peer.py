"""The reference implementation in a process of its own, for benchmarks that run beside it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.runtime.processors import processors

ARCHS_FILE = "deepnets1m_eval.hdf5"  # the name that the reference looks for


@contextlib.contextmanager
def reference(
    task: str,
    configs: Sequence[NetConfig],
    *,
    checkout: str,
    python: str,
    batch_size: int,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Callable[[Sequence[int]], dict[str, Any]]]:
    """Starts the reference on some architectures.

    Args:
      task: "step" or "evaluate", see `experiments.bench_peer`.
      configs: the architectures.
      checkout: folder of the reference implementation.
      python: interpreter that can import it.
      batch_size: images per batch.
      arrays: what the task needs besides.

    Yields:
      A function from numbers of architectures to the process's answer for them.

    Raises:
      SystemExit: the process ends without an answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_archs(os.path.join(folder, ARCHS_FILE), configs)
        if arrays is not None:
            np.savez(os.path.join(folder, "arrays.npz"), **arrays)
        script = pathlib.Path(__file__).with_name("bench_peer.py")
        command = [
            python,
            "-P",
            str(script),
            f"--task={task}",
            f"--checkout={checkout}",
            f"--folder={folder}",
            f"--batch_size={batch_size}",
            f"--threads={processors()}",
        ]
        # Leaving closes the pipes and waits for the process.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:

            def answer() -> dict[str, Any]:
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"the reference did not answer (its messages are above): {command}")
                return json.loads(line)

            def ask(numbers: Sequence[int]) -> dict[str, Any]:
                process.stdin.write(json.dumps(list(numbers)) + "\n")
                return answer()

            try:
                answer()
                yield ask
            finally:
                process.terminate()


def write_archs(path: str, configs: Sequence[NetConfig]) -> None:
    """Writes architectures as the split "val" of a DeepNets-1M file."""
    from ppuda_jax.archs.hdf5 import FILE_DISTANCE, SplitWriter
    from ppuda_jax.archs.plan import make_plan
    from ppuda_jax.graphs.from_plan import graph_from_plan
    from ppuda_jax.graphs.records import encode_nodes

    def records() -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        for config in configs:
            plan = make_plan(config)
            graph = graph_from_plan(plan)
            record = {**config.to_dict(), "num_nodes": graph.num_nodes}
            yield record, graph.distances(FILE_DISTANCE), encode_nodes(plan)

    with SplitWriter(path) as writer:
        writer.write_split("val", records())
