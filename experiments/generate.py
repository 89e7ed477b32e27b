"""Writes splits of DeepNets-1M: `python -m experiments.generate --split=test --output=t.hdf5`.

Training needs no file (architectures are sampled on the fly); files serve to share a fixed set,
or to hand it to the reference implementation. The graphs hold virtual edges up to length 250,
as the published files do.
"""

import dataclasses
import itertools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ppuda_jax.archs.hdf5 import SplitWriter
from ppuda_jax.archs.splits import SPLITS, get_split
from ppuda_jax.config import check_types, described
from ppuda_jax.graphs.records import EncodedNet, encode_arch
from ppuda_jax.runtime.processors import processors

from . import flags

EVAL_SPLITS = ("val", "test", "wide", "deep", "dense", "bnfree")

_BLOCK = 4096


class SplitReport(NamedTuple):
    """What was written of one split.

    Attributes:
      split: its name.
      nets: networks written.
      repeats: architectures left out because they had occurred before.
      seconds: time taken.
      nodes_mean: mean number of nodes.
      nodes_std: standard deviation of the number of nodes.
    """

    split: str
    nets: int
    repeats: int
    seconds: float
    nodes_mean: float
    nodes_std: float


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """What is written; every field is a flag."""

    split: tuple[str, ...] = described(
        ("train",), f"of {', '.join(SPLITS)}; eval for the six of its file"
    )
    num_nets: int | None = described(None, "networks per split; by default as published")
    output: str | None = described(None, "HDF5 file to write; the JSON file lies beside it")
    processes: int | None = described(None, "worker processes; by default one per core")
    seed: int = described(0, "another sequence of architectures for each seed")
    overwrite: bool = described(False, "replace existing files")

    def __post_init__(self) -> None:
        check_types(self)
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1, received {self.processes}")


def run(options: GenerateConfig) -> str:
    """Writes the splits; returns a table."""
    names = EVAL_SPLITS if options.split == ("eval",) else options.split
    output = options.output or f"deepnets1m_{'eval' if len(names) > 1 else names[0]}.hdf5"
    reports = generate(
        names, options.num_nets, output, options.processes, options.seed, options.overwrite
    )
    return flags.report(table(reports, options.processes or processors()), f"written: {output}")


def generate(
    splits: tuple[str, ...],
    num_nets: int | None,
    output: str,
    processes: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> list[SplitReport]:
    """Writes splits into one HDF5 file and its JSON file.

    Args:
      splits: their names.
      num_nets: networks of each; the published number if None.
      output: path of the HDF5 file.
      processes: worker processes, one per core if None; 1 works in this process.
      seed: another sequence of architectures for each seed.
      overwrite: whether to replace existing files.

    Returns:
      One report per split.

    Raises:
      ValueError: for an unknown split or an impossible number.
      FileExistsError: if the output exists.
    """
    for split in splits:
        get_split(split)
    if num_nets is not None and num_nets < 1:
        raise ValueError(f"num_nets must be at least 1, received {num_nets}.")
    processes = processes or processors()
    reports = []
    with SplitWriter(output, overwrite) as writer:
        for split in splits:
            wanted = get_split(split).num_nets if num_nets is None else num_nets
            reports.append(_generate_split(writer, split, wanted, processes, seed))
    return reports


def _generate_split(
    writer: SplitWriter, split: str, wanted: int, processes: int, seed: int
) -> SplitReport:
    start = time.perf_counter()
    sizes: list[int] = []
    repeats = 0

    def unique() -> Iterator[tuple]:
        nonlocal repeats
        seen: set[int] = set()
        for net in _encoded(split, wanted, processes, seed):
            if net.key in seen:
                repeats += 1
                continue
            seen.add(net.key)
            sizes.append(net.record["num_nodes"])
            progress.update()
            yield net.record, net.adjacency, net.nodes
            if len(seen) == wanted:
                return

    with tqdm(total=wanted, desc=split, unit="net") as progress:
        written = writer.write_split(split, unique())
    seconds = time.perf_counter() - start
    return SplitReport(
        split, written, repeats, seconds, float(np.mean(sizes)), float(np.std(sizes))
    )


def _encoded(split: str, wanted: int, processes: int, seed: int) -> Iterator[EncodedNet]:
    """Endless sequence of encoded architectures, in order, computed in blocks."""
    encode = partial(encode_arch, split, seed=seed)
    if processes == 1:
        yield from map(encode, itertools.count())
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        first = 0
        while True:
            block = range(first, first + min(_BLOCK, wanted))
            chunk = max(1, min(64, len(block) // (4 * processes)))
            yield from pool.imap(encode, block, chunksize=chunk)
            first = block.stop


def table(reports: list[SplitReport], processes: int) -> str:
    """Formats the reports as a table."""
    header = ["split", "networks", "repeats left out", "nodes", "seconds", "nets/s"]
    rows = []
    for report in reports:
        rate = report.nets / report.seconds
        nodes = f"{report.nodes_mean:.1f} ± {report.nodes_std:.1f}"
        row = [report.split, report.nets, report.repeats, nodes, f"{report.seconds:.1f}"]
        rows.append([*row, f"{rate:.0f}", f"{rate / processes:.0f}"])
    return flags.table([*header, "nets/s/process"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(GenerateConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
