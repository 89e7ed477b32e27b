"""Which rows of parameters each operation of a program has, numbered table by table.

Legend: `I` and `O` inputs and outputs of a table's matrices, `k` taps.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from ppuda_jax.archs.op_params import param_rows
from ppuda_jax.archs.plan import Op
from ppuda_jax.executor.columns import MatRow, VecRow
from ppuda_jax.executor.layout import NORMED, Group, Layout

_NO_MATS, _NO_VECS = MatRow.of([]), VecRow.of([])


@functools.lru_cache(maxsize=4096)
def _row_templates(
    kind: str,
    c_in: int,
    c_out: int,
    kernel: int,
    norm: bool,
    h_out: int,
    block_in: int,
    block_out: int,
) -> tuple[MatRow, VecRow]:
    """Rows of an operation's tensors, with local parameter indices.

    Norms that the network lacks keep their rows, marked -1, so that instructions stay the same.
    """
    mats: list[tuple[int, ...]] = []
    vecs: list[tuple[int, ...]] = []
    index = 0
    with_norm = kind.startswith(NORMED)
    for _, _, shape, role in param_rows(kind, c_in, c_out, kernel, norm or with_norm, h_out):
        absent = role.startswith("norm") and with_norm and not norm
        param = -1 if absent else index
        index += not absent
        if len(shape) == 1:
            vecs += [(param, 0, 0, o) for o in range(0, shape[0], block_out)]
        elif len(shape) == 4 and shape[2] == 1 and kind.startswith(("sep", "dil")):
            vecs += [(param, y, x, 0) for y in range(shape[0]) for x in range(shape[1])]
        else:
            taps = [(0, 0)] if len(shape) == 2 else list(np.ndindex(shape[:2]))
            mats += [
                (param, y, x, i, o)
                for y, x in taps
                for i in range(0, shape[-2], block_in)
                for o in range(0, shape[-1], block_out)
            ]
    return MatRow.of(mats), VecRow.of(vecs)


class RowTables:
    """Collects the rows of each table."""

    def __init__(self, layout: Layout, first_param: Mapping[int, int]) -> None:
        self.layout, self.first_param = layout, first_param
        self.mats: dict[str, list[MatRow]] = {name: [] for name in layout.mats}
        self.vecs: dict[str, list[VecRow]] = {name: [] for name in layout.vecs}
        self.count = dict.fromkeys(
            [("m", n) for n in layout.mats] + [("v", n) for n in layout.vecs], 0
        )

    def size(self, stage: str) -> tuple[int, int]:
        """Rows of matrices and of vectors that a stage has so far."""
        return self.count["m", stage], self.count["v", stage]

    def add(self, group: Group, op: Op | None) -> tuple[int, int]:
        """Adds an operation's rows and returns where they start."""
        start = self.count["m", group.mats], self.count["v", group.vecs]
        if op is not None:
            self._extend(group.mats, group.vecs, *self._rows(op, *self.layout.mats[group.mats]))
        return start

    def add_stem(self, op: Op | None, mats: int, vecs: int) -> None:
        """Adds rows of one stem operation in a block of fixed size.

        The biases of its norm start in the middle of the block's vectors, however wide it is.
        """
        width = self.layout.mats["s0"][0]
        found = self._rows(op, width, width) if op is not None else (_NO_MATS, _NO_VECS)
        middle = len(found[1]) // 2
        halves = [half.padded(vecs // 2) for half in (found[1][:middle], found[1][middle:])]
        self._extend("s0", "s0", found[0].padded(mats), VecRow.join(halves))

    def pad_stem(self, mats: int, vecs: int) -> None:
        """Fills the stem's block up to fixed totals."""
        self._extend(
            "s0",
            "s0",
            _NO_MATS.padded(mats - self.count["m", "s0"]),
            _NO_VECS.padded(vecs - self.count["v", "s0"]),
        )

    def _rows(self, op: Op, block_in: int, block_out: int) -> tuple[MatRow, VecRow]:
        mats, vecs = _row_templates(
            op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out, block_in, block_out
        )
        if op.kind == "stem_conv" and op.name in ("stem.0", "stem0.0"):
            mats = mats[:0]  # the first convolution has a tensor of its own
        first = self.first_param[op.output]

        def of_plan(local: np.ndarray) -> np.ndarray:
            return np.where(local < 0, -1, local + np.int32(first))

        return (
            dataclasses.replace(mats, param=of_plan(mats.param)),
            dataclasses.replace(vecs, param=of_plan(vecs.param)),
        )

    def _extend(self, mat_table: str, vec_table: str, mats: MatRow, vecs: VecRow) -> None:
        self.mats[mat_table].append(mats)
        self.vecs[vec_table].append(vecs)
        self.count["m", mat_table] += len(mats)
        self.count["v", vec_table] += len(vecs)

    def tables(self) -> tuple[dict[str, MatRow], dict[str, VecRow]]:
        """Returns the rows of every table of matrices and of vectors."""
        return (
            {name: MatRow.join(parts) for name, parts in self.mats.items()},
            {name: VecRow.join(parts) for name, parts in self.vecs.items()},
        )
