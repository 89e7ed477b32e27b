"""Which rows of parameters each operation of a program has, numbered table by table.

Legend: `I` and `O` inputs and outputs of a table's matrices, `k` taps.
"""

import functools
from collections.abc import Mapping

import numpy as np

from ppuda_jax.archs.op_params import param_rows
from ppuda_jax.archs.plan import Op
from ppuda_jax.executor.layout import NORMED, Group, Layout

_NO_MATS, _NO_VECS = np.zeros((0, 5), np.int32), np.zeros((0, 4), np.int32)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)), constant_values=-1)


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
) -> tuple[np.ndarray, np.ndarray]:
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
            mats += [
                (param, y, x, i, o)
                for y, x in taps
                for i in range(0, shape[-2], block_in)
                for o in range(0, shape[-1], block_out)
            ]
    return (np.array(mats, np.int32).reshape(-1, 5), np.array(vecs, np.int32).reshape(-1, 4))


class RowTables:
    """Collects the rows of each table."""

    def __init__(self, layout: Layout, first_param: Mapping[int, int]) -> None:
        self.layout, self.first_param = layout, first_param
        self.mats: dict[str, list[np.ndarray]] = {name: [] for name in layout.mats}
        self.vecs: dict[str, list[np.ndarray]] = {name: [] for name in layout.vecs}
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
        rows = self._rows(op, width, width) if op is not None else (_NO_MATS, _NO_VECS)
        halves = [_padded(half, vecs // 2) for half in np.split(rows[1], 2)]
        self._extend("s0", "s0", _padded(rows[0], mats), np.concatenate(halves))

    def pad_stem(self, mats: int, vecs: int) -> None:
        """Fills the stem's block up to fixed totals."""
        self._extend(
            "s0",
            "s0",
            _padded(_NO_MATS, mats - self.count["m", "s0"]),
            _padded(_NO_VECS, vecs - self.count["v", "s0"]),
        )

    def _rows(self, op: Op, block_in: int, block_out: int) -> tuple[np.ndarray, np.ndarray]:
        mats, vecs = _row_templates(
            op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out, block_in, block_out
        )
        if op.kind == "stem_conv" and op.name in ("stem.0", "stem0.0"):
            mats = mats[:0]  # the first convolution has a tensor of its own
        first = self.first_param[op.output]
        mats, vecs = mats.copy(), vecs.copy()
        for rows in (mats, vecs):
            rows[:, 0] = np.where(rows[:, 0] < 0, -1, rows[:, 0] + first)
        return mats, vecs

    def _extend(self, mat_table: str, vec_table: str, mats: np.ndarray, vecs: np.ndarray) -> None:
        self.mats[mat_table].append(mats)
        self.vecs[vec_table].append(vecs)
        self.count["m", mat_table] += len(mats)
        self.count["v", vec_table] += len(vecs)

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns the tables as arrays."""

        def join(parts, none):
            return np.concatenate([none, *parts])

        return (
            {name: join(parts, _NO_MATS) for name, parts in self.mats.items()},
            {name: join(parts, _NO_VECS) for name, parts in self.vecs.items()},
        )
