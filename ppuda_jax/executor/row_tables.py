"""Which rows of parameters each operation of a program has, numbered table by table.

Legend: ``I`` and ``O`` inputs and outputs of a table's matrices, ``k`` taps.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from ppuda_jax.archs.op_params import param_rows
from ppuda_jax.archs.plan import Op
from ppuda_jax.executor.layout import NORMED, Group, Layout


@functools.lru_cache(maxsize=4096)
def _row_templates(kind: str, c_in: int, c_out: int, kernel: int, norm: bool, h_out: int,
                   block_in: int, block_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of an operation's tensors, as (mats [n, 5], vecs [m, 4]) with local parameter indices.

    Norms that the network lacks keep their rows, marked -1, so that instructions stay the same.
    """
    mats, vecs, index = [], [], 0
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
            mats += [(param, y, x, i, o) for y, x in taps
                     for i in range(0, shape[-2], block_in)
                     for o in range(0, shape[-1], block_out)]
    return (np.array(mats, np.int32).reshape(-1, 5), np.array(vecs, np.int32).reshape(-1, 4))


class RowTables:
    """Collects the rows of each table."""

    def __init__(self, layout: Layout, first_param: Mapping[int, int]) -> None:
        self.layout, self.first_param = layout, first_param
        self.mats: dict[str, list[np.ndarray]] = {name: [] for name in layout.mats}
        self.vecs: dict[str, list[np.ndarray]] = {name: [] for name in layout.vecs}
        self.count = dict.fromkeys([("m", n) for n in layout.mats] +
                                   [("v", n) for n in layout.vecs], 0)

    def size(self, stage: str) -> tuple[int, int]:
        return self.count["m", stage], self.count["v", stage]

    def add(self, group: Group, op: Op | None) -> tuple[int, int]:
        """Adds an operation's rows and returns where they start."""
        start = self.count["m", group.mats], self.count["v", group.vecs]
        if op is not None:
            block_in, block_out = self.layout.mats[group.mats]
            self._append(op, group.mats, group.vecs, block_in, block_out)
        return start

    def _append(self, op: Op, mat_table: str, vec_table: str, block_in: int,
                block_out: int) -> tuple[int, int]:
        mats, vecs = _row_templates(op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out,
                                    block_in, block_out)
        if op.kind == "stem_conv" and op.name in ("stem.0", "stem0.0"):
            mats = mats[:0]  # the first convolution has a tensor of its own
        first = self.first_param[op.output]
        for rows, table, name, key in ((mats, self.mats, mat_table, "m"),
                                       (vecs, self.vecs, vec_table, "v")):
            rows = rows.copy()
            rows[:, 0] = np.where(rows[:, 0] < 0, -1, rows[:, 0] + first)
            table[name].append(rows)
            self.count[key, name] += len(rows)
        return len(mats), len(vecs)

    def add_stem(self, op: Op | None, mats: int, vecs: int) -> None:
        """Adds rows of one stem operation in a block of fixed size."""
        width = self.layout.mats["s0"][0]
        used = self._append(op, "s0", "s0", width, width) if op is not None else (0, 0)
        self._pad(mats - used[0], vecs - used[1])

    def pad_stem(self, mats: int, vecs: int) -> None:
        """Fills the stem's block up to fixed totals."""
        self._pad(mats - self.count["m", "s0"], vecs - self.count["v", "s0"])

    def _pad(self, mats: int, vecs: int) -> None:
        self.mats["s0"].append(np.full((mats, 5), -1, np.int32))
        self.vecs["s0"].append(np.full((vecs, 4), -1, np.int32))
        self.count["m", "s0"] += mats
        self.count["v", "s0"] += vecs

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns the tables as arrays."""

        def join(parts, columns):
            return np.concatenate([np.zeros((0, columns), np.int32), *parts])

        return ({name: join(parts, 5) for name, parts in self.mats.items()},
                {name: join(parts, 4) for name, parts in self.vecs.items()})
