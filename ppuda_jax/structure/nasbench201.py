"""NAS-Bench-201 (Dong and Yang 2020): its space, its cells as text, and its table of accuracies.

A cell has four nodes and an edge from every node to every later one, each with one of five
operations. Cells that compute the same function are isomorphic: of 15,625 cells 6,466 differ.

Legend: `K` = 5 operations.
"""

import csv
import dataclasses
import functools
import gzip
import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Operations of an edge, in the order of their numbers."""
KERNEL_SIDES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
"""Side of the kernel of each operation that has one."""
NODES = 4
"""Vertices of a cell."""
EDGES: tuple[Edge, ...] = tuple((j, k) for k in range(1, NODES) for j in range(k))
"""Edges of a cell, from an earlier vertex to a later one."""
NUM_CELLS = len(OPS) ** len(EDGES)
"""Cells of the space, isomorphic ones counted apart: 15,625."""
NAMES: dict[Edge, tuple[str, ...]] = dict.fromkeys(EDGES, OPS)
"""The operations' names, for every edge."""

DATASETS = ("cifar10", "cifar100", "imagenet16-120")
"""Image sets of the benchmark's table."""
_PREFIXES = dict(zip(DATASETS, ("c10", "c100", "im16"), strict=True))


def to_text(choice: Choice) -> str:
    """A cell in the benchmark's notation, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

    Raises:
      ValueError: an edge without an operation, or an operation that does not exist.
    """
    if set(choice) != set(EDGES) or not all(0 <= op < len(OPS) for op in choice.values()):
        raise ValueError(
            f"a cell has one of the operations 0 to {len(OPS) - 1} on each of {EDGES}, received "
            f"{dict(choice)}"
        )
    nodes = ["|" + "".join(f"{OPS[choice[j, k]]}~{j}|" for j in range(k)) for k in range(1, NODES)]
    return "+".join(nodes)


def from_text(text: str) -> Choice:
    """Reads a cell in the benchmark's notation.

    Raises:
      ValueError: text that is no cell.
    """
    nodes = text.strip().split("+")
    choice: Choice = {}
    for k, node in enumerate(nodes, 1):
        for op, source in re.findall(r"([^|~]+)~(\d+)", node):
            if op not in OPS or (int(source), k) not in EDGES:
                raise ValueError(f"{op}~{source} is no edge to node {k} in the cell {text!r}")
            choice[int(source), k] = OPS.index(op)
    if set(choice) != set(EDGES) or to_text(choice) != text.strip():
        raise ValueError(
            f"a cell must read like {to_text(dict.fromkeys(EDGES, 1))!r}, received {text!r}"
        )
    return choice


def all_cells() -> Iterable[Choice]:
    """All 15,625 cells."""
    for numbers in itertools.product(range(len(OPS)), repeat=len(EDGES)):
        yield dict(zip(EDGES, numbers, strict=True))


def canonical(choice: Choice) -> str:
    """A text that isomorphic cells share: the output as an expression of the input.

    It is the benchmark's own, by which 6,466 cells differ: `0` is the input, `#` nothing, and
    `(a)@op` an operation on a; skip connections vanish and sums are sorted. Nothing stays a term of
    its sum, and a sum under a skip connection is not taken apart, so that some cells count as
    different which are not.
    """
    values = {0: "0"}
    for k in range(1, NODES):
        terms = []
        for j in range(k):
            op, value = OPS[choice[j, k]], values[j]
            if op == "none" or value == "#":
                terms.append("#")
            else:
                terms.append(value if op == "skip_connect" else f"({value})@{op}")
        values[k] = "+".join(sorted(terms))
    return values[NODES - 1]


@dataclasses.dataclass(frozen=True)
class Table:
    """Accuracies of all cells, in %.

    Attributes:
      cells: their texts.
      columns: name -> [15625] float: `<c10|c100|im16>_<test|val>_<12|200>`, as far as known.
    """

    cells: tuple[str, ...]
    columns: dict[str, np.ndarray]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {cell: row for row, cell in enumerate(self.cells)}

    def accuracy(
        self, choice: Choice, dataset: str = "cifar10", split: str = "test", epochs: int = 200
    ) -> float:
        """The accuracy of a cell after so many epochs.

        Raises:
          ValueError: a column or cell that the table does not have.
        """
        return float(self.column(dataset, split, epochs)[self.row(choice)])

    def row(self, choice: Choice) -> int:
        """The row of a cell.

        Raises:
          ValueError: the table does not have it.
        """
        text = to_text(choice)
        if text not in self._rows:
            raise ValueError(f"the table of {len(self.cells)} cells does not have {text}")
        return self._rows[text]

    def column(self, dataset: str, split: str, epochs: int) -> np.ndarray:
        """A column by what it holds.

        Raises:
          ValueError: the table does not have it.
        """
        name = f"{_PREFIXES.get(dataset, dataset)}_{split}_{epochs}"
        if name not in self.columns:
            raise ValueError(
                f"the table has the columns {sorted(self.columns)}, received {dataset!r}, "
                f"{split!r} and {epochs}"
            )
        return self.columns[name]

    def rank(self, choice: Choice, dataset: str = "cifar10") -> int:
        """How many cells have a larger test accuracy after 200 epochs."""
        column = self.column(dataset, "test", 200)
        return int(np.sum(column > column[self.row(choice)]))


def read_table(path: str | os.PathLike[str]) -> Table:
    """Reads a table from CSV, plain or gzipped: the columns `cell` and those of `Table`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is no such table; the line is named.
    """
    place = pathlib.Path(path).expanduser()
    content = place.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    reader = csv.DictReader(io.StringIO(content.decode()))
    known = re.compile(r"(c10|c100|im16)_(test|val)_(12|200)")
    names = [name for name in reader.fieldnames or () if known.fullmatch(name)]
    if "cell" not in (reader.fieldnames or ()) or not names:
        raise ValueError(
            f"{place} must have the columns cell and <c10|c100|im16>_<test|val>_<12|200>, received "
            f"{reader.fieldnames}"
        )
    cells, rows = [], []
    for number, row in enumerate(reader, 2):
        try:
            cells.append(to_text(from_text(row["cell"])))
            rows.append([float(row[name]) for name in names])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place}, line {number}: {error}") from error
    values = np.array(rows).reshape(len(cells), len(names))
    return Table(tuple(cells), {name: values[:, i] for i, name in enumerate(names)})


def summary(table: Table, choices: Sequence[Choice]) -> tuple[str, ...]:
    """Mean and deviation of the test accuracy after 200 epochs on every data set, as published."""
    cells = []
    for dataset in DATASETS:
        values = [table.accuracy(choice, dataset) for choice in choices]
        cells.append(f"{np.mean(values):.2f} ± {np.std(values):.2f}")
    return tuple(cells)
