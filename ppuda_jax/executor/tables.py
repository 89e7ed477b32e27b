"""Stacking programs into a meta-batch, and packing parameter pytrees into tables of rows.

Meta-training never packs: the GHN writes rows directly (`training/objective.py`). Packing is
for parameters that exist as pytrees: evaluation of other predictors, and tests.

Legend: `M` networks, `T` and `V` rows of matrices and vectors, `I, O` channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.executor.layout import STEM_MATS, STEM_VECS, Group, Variant, layout_of
from ppuda_jax.executor.program import Program
from ppuda_jax.executor.run import Programs, Tables
from ppuda_jax.executor.variants import UnsupportedPlanError


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Rows per table, static in a compiled program.

    Attributes:
      mats: (table, rows) pairs.
      vecs: (table, rows) pairs.
    """

    mats: tuple[tuple[str, int], ...]
    vecs: tuple[tuple[str, int], ...]


class CapacityError(ValueError):
    """A meta-batch needs more rows than its capacity."""


def spill(variant: Variant) -> tuple[dict[str, int], dict[str, int]]:
    """Rows past the last one that fixed-size reads and writes may touch, per table."""
    layout = layout_of(variant)
    mats, vecs = dict.fromkeys(layout.mats, 0), dict.fromkeys(layout.vecs, 0)
    mats["s0"], vecs["s0"] = STEM_MATS, STEM_VECS
    for group in layout.groups:
        mats[group.mats] = max(mats[group.mats], group.max_mats)
        vecs[group.vecs] = max(vecs[group.vecs], group.max_vecs)
    return mats, vecs


def rows_needed(programs: Sequence[Program]) -> Capacity:
    """Smallest capacity for a meta-batch."""
    more_mats, more_vecs = spill(programs[0].variant)
    mats = {name: sum(len(p.mat_rows[name]) for p in programs) + n for name, n in more_mats.items()}
    vecs = {name: sum(len(p.vec_rows[name]) for p in programs) + n for name, n in more_vecs.items()}
    return Capacity(tuple(mats.items()), tuple(vecs.items()))


def stack_programs(programs: Sequence[Program]) -> Programs:
    """Stacks programs of one variant, with absolute row numbers.

    Args:
      programs: M programs.

    Returns:
      NumPy arrays with leading dimension M.

    Raises:
      ValueError: no programs, or of different variants.
      UnsupportedPlanError: a program is longer than its group allows.
    """
    variants = {program.variant for program in programs}
    if len(variants) != 1:
        raise ValueError(
            f"a meta-batch needs programs of one variant, received {len(variants)}: "
            "group the networks by variant_of(plan)."
        )
    layout = layout_of(programs[0].variant)
    first_mat = {name: _starts(p.mat_rows[name] for p in programs) for name in layout.mats}
    first_vec = {name: _starts(p.vec_rows[name] for p in programs) for name in layout.vecs}
    forward, backward, counts = {}, {}, ({}, {})
    for group in layout.groups:
        for code, kind, cap, out in (
            (forward, "forward", group.cap, counts[0]),
            (backward, "backward", 2 * group.cap, counts[1]),
        ):
            lines = [getattr(p, kind)[group.name] for p in programs]
            out[group.name] = np.array([len(x) for x in lines], np.int32)
            code[group.name] = _absolute(
                group, lines, cap, first_mat[group.mats], first_vec[group.vecs]
            )
    stem = np.stack([p.stem for p in programs])
    stem[:, 1] += first_mat["s0"]
    stem[:, 2] += first_vec["s0"]
    return Programs(
        forward=forward,
        forward_count=counts[0],
        backward=backward,
        backward_count=counts[1],
        stem=stem,
        head=np.stack([p.head for p in programs]),
        norm=np.array([p.norm for p in programs], np.float32),
        registers={
            name: np.array([p.registers[name] for p in programs], np.int32) for name in layout.files
        },
    )


def _starts(tables) -> np.ndarray:
    sizes = [len(rows) for rows in tables]
    return np.cumsum([0, *sizes[:-1]]).astype(np.int32)


def _absolute(group: Group, lines, cap: int, mats: np.ndarray, vecs: np.ndarray) -> np.ndarray:
    longest = max(len(x) for x in lines)
    if longest > cap:
        raise UnsupportedPlanError(
            f"group {group.name} has room for {cap} instructions, a "
            f"network needs {longest}: run its Flax network instead."
        )
    out = np.zeros((len(lines), cap, lines[0].shape[1]), np.int32)
    for i, code in enumerate(lines):
        out[i, : len(code)] = code
        out[i, : len(code), -2] += mats[i]
        out[i, : len(code), -1] += vecs[i]
    return out


def empty_tables(variant: Variant, count: int, capacity: Capacity, num_classes: int) -> Tables:
    """Zero tables (NumPy) for `count` networks."""
    layout, zeros = layout_of(variant), lambda *shape: np.zeros(shape, np.float32)
    patch = 3 if variant.image_size == 32 else 16
    k = patch if variant.attention else 7
    last = variant.channels(0) * (1 if variant.attention or variant.image_size != 32 else 3)
    size, width, hidden = variant.size, variant.width, variant.hidden
    return Tables(
        mats={name: zeros(rows, *layout.mats[name]) for name, rows in capacity.mats},
        vecs={name: zeros(rows, layout.vecs[name]) for name, rows in capacity.vecs},
        stem=zeros(count, k, k, 3, last),
        positions=zeros(count, size, size, width) if variant.attention else zeros(count, 0),
        hidden=zeros(count, variant.features, hidden),
        hidden_bias=zeros(count, hidden),
        classifier=zeros(count, max(variant.features, hidden), num_classes),
        classifier_bias=zeros(count, num_classes),
    )


def pack_params(
    programs: Sequence[Program],
    params: Sequence[Mapping[str, Any]],
    capacity: Capacity | None = None,
) -> Tables:
    """Packs parameter pytrees of networks into tables.

    Args:
      programs: M programs of one variant.
      params: one pytree per program, as the Flax network of its plan takes it.
      capacity: rows to allocate, by default what is needed.

    Returns:
      NumPy tables.

    Raises:
      CapacityError: more rows are needed than `capacity` has.
      KeyError: a pytree lacks a parameter.
    """
    need = rows_needed(programs)
    capacity = capacity or need
    for (name, have), (_, want) in zip(
        capacity.mats + capacity.vecs, need.mats + need.vecs, strict=True
    ):
        if want > have:
            raise CapacityError(f"table {name} has {have} rows, the meta-batch needs {want}.")
    plan = programs[0].plan
    tables = empty_tables(programs[0].variant, len(programs), capacity, plan.num_classes)
    mat_start = {name: 0 for name, _ in capacity.mats}
    vec_start = {name: 0 for name, _ in capacity.vecs}
    for index, (program, tree) in enumerate(zip(programs, params, strict=True)):
        leaves = [_leaf(tree, spec.path) for spec in program.plan.params]
        for name, rows in program.mat_rows.items():
            _fill_mats(tables.mats[name], mat_start[name], rows, leaves)
            mat_start[name] += len(rows)
        for name, rows in program.vec_rows.items():
            _fill_vecs(tables.vecs[name], vec_start[name], rows, leaves)
            vec_start[name] += len(rows)
        _fill_own(tables, index, program, leaves)
    return tables


def _leaf(tree: Any, path: tuple[str, ...]) -> np.ndarray:
    for key in path:
        tree = tree[key]
    return np.asarray(tree, np.float32)


def _fill_mats(table: np.ndarray, start: int, rows: np.ndarray, leaves: list) -> None:
    for row, (param, y, x, i, o) in enumerate(rows, start):
        if param >= 0:
            leaf = leaves[param]
            leaf = leaf[y, x] if leaf.ndim == 4 else leaf
            block = leaf[i : i + table.shape[1], o : o + table.shape[2]]
            table[row, : block.shape[0], : block.shape[1]] = block


def _fill_vecs(table: np.ndarray, start: int, rows: np.ndarray, leaves: list) -> None:
    for row, (param, y, x, o) in enumerate(rows, start):
        if param >= 0:
            leaf = leaves[param]
            leaf = leaf[y, x, 0] if leaf.ndim == 4 else leaf
            block = leaf[o : o + table.shape[1]]
            table[row, : block.shape[0]] = block


def _fill_own(tables: Tables, index: int, program: Program, leaves: list) -> None:
    specs = program.plan.params
    kernel = leaves[0]
    tables.stem[index, : kernel.shape[0], : kernel.shape[1], :, : kernel.shape[3]] = kernel
    if program.variant.attention:
        tables.positions[index] = leaves[1][0]
    *_, weight, bias = leaves
    tables.classifier[index, : weight.shape[0]] = weight
    tables.classifier_bias[index] = bias
    if specs[-4].path[0].startswith("classifier"):
        weight, bias = leaves[-4:-2]
        tables.hidden[index, : weight.shape[0], : weight.shape[1]] = weight
        tables.hidden_bias[index, : bias.shape[0]] = bias
