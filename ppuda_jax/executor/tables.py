"""Stacking programs into a meta-batch, and packing parameter pytrees into tables of rows.

Meta-training never packs: the GHN writes rows directly (`prediction/tables.py`). Packing is
for parameters that exist as pytrees: evaluation of other predictors, and tests.

Legend: `M` networks, `T` and `V` rows of matrices and vectors, `I, O` channels.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from ppuda_jax.executor.arrays import Programs, Tables
from ppuda_jax.executor.columns import Columns, HeadCode, Instruction, MatRow, StemCode, VecRow
from ppuda_jax.executor.layout import STEM_MATS, STEM_VECS, Group, Variant, layout_of
from ppuda_jax.executor.program import Program
from ppuda_jax.executor.variants import UnsupportedPlanError

_Code = TypeVar("_Code", Instruction, StemCode)


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

    def absolute(group: Group, codes: list[Instruction], cap: int) -> np.ndarray:
        starts = zip(codes, first_mat[group.mats], first_vec[group.vecs], strict=True)
        return _packed(group, [_moved(code, mat, vec) for code, mat, vec in starts], cap)

    forward = {g.name: [p.forward[g.name] for p in programs] for g in layout.groups}
    backward = {g.name: [p.backward[g.name] for p in programs] for g in layout.groups}
    stems = zip(programs, first_mat["s0"], first_vec["s0"], strict=True)
    return Programs(
        forward={g.name: absolute(g, forward[g.name], g.cap) for g in layout.groups},
        forward_count={name: _lengths(codes) for name, codes in forward.items()},
        backward={g.name: absolute(g, backward[g.name], 2 * g.cap) for g in layout.groups},
        backward_count={name: _lengths(codes) for name, codes in backward.items()},
        stem=StemCode.stack([_moved(p.stem, mat, vec) for p, mat, vec in stems]),
        head=HeadCode.stack([p.head for p in programs]),
        norm=np.array([p.norm for p in programs], np.float32),
        registers={
            name: np.array([p.registers[name] for p in programs], np.int32) for name in layout.files
        },
    )


def _lengths(parts: Iterable[Columns]) -> np.ndarray:
    return np.array([len(part) for part in parts], np.int32)


def _starts(tables: Iterable[Columns]) -> np.ndarray:
    return np.cumsum([0, *_lengths(tables)[:-1]]).astype(np.int32)


def _moved(code: _Code, mats: np.int32, vecs: np.int32) -> _Code:
    """Code whose rows begin at those of a meta-batch's tables."""
    return dataclasses.replace(code, mat=code.mat + mats, vec=code.vec + vecs)


def _packed(group: Group, codes: Sequence[Instruction], cap: int) -> np.ndarray:
    """Instructions int32 [M, cap, 7], with zeros past each network's own."""
    longest = max(map(len, codes))
    if longest > cap:
        raise UnsupportedPlanError(
            f"group {group.name} has room for {cap} instructions, a "
            f"network needs {longest}: run its Flax network instead."
        )
    out = np.zeros((len(codes), cap, len(codes[0].columns)), np.int32)
    for row, code in zip(out, codes, strict=True):
        row[: len(code)] = code.packed()
    return out


def empty_tables(variant: Variant, count: int, capacity: Capacity, num_classes: int) -> Tables:
    """Zero tables (NumPy) for `count` networks."""
    layout, zeros = layout_of(variant), lambda *shape: np.zeros(shape, np.float32)
    patch = 3 if variant.image_size == 32 else 16
    k = patch if variant.attention else 7
    last = variant.width * (1 if variant.attention else variant.simple_slots)
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
    leaves = [
        [np.asarray(leaf, np.float32) for leaf in program.plan.in_order(tree)]
        for program, tree in zip(programs, params, strict=True)
    ]
    for entries, part in _shared(tables, programs, leaves):
        entries[...] = part
    return tables


def unpack_params(programs: Sequence[Program], tables: Tables) -> list[dict[str, Any]]:
    """The inverse of `pack_params`: a pytree of NumPy arrays for each program."""
    tables = jax.tree.map(np.asarray, tables)
    leaves = [[np.zeros(spec.shape, np.float32) for spec in p.plan.params] for p in programs]
    for entries, part in _shared(tables, programs, leaves):
        part[...] = entries
    return [p.plan.as_tree(own) for p, own in zip(programs, leaves, strict=True)]


def _shared(
    tables: Tables, programs: Sequence[Program], leaves: Sequence[list[np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (part of a table, part of a leaf) of one shape: what each parameter is in both."""
    mat_start, vec_start = (dict.fromkeys(part, 0) for part in (tables.mats, tables.vecs))
    for index, (program, own) in enumerate(zip(programs, leaves, strict=True)):
        for name, rows in program.mat_rows.items():
            start, mat_start[name] = mat_start[name], mat_start[name] + len(rows)
            yield from _mat_parts(tables.mats[name][start : mat_start[name]], rows, own)
        for name, vectors in program.vec_rows.items():
            start, vec_start[name] = vec_start[name], vec_start[name] + len(vectors)
            yield from _vec_parts(tables.vecs[name][start : vec_start[name]], vectors, own)
        yield from _own_parts(tables, index, program, own)


def _mat_parts(
    table: np.ndarray, rows: MatRow, leaves: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for out, row in zip(table, rows, strict=True):
        if row.param >= 0:
            leaf = leaves[row.param]
            leaf = leaf[row.tap_y, row.tap_x] if leaf.ndim == 4 else leaf
            block = leaf[row.first_in :, row.first_out :][: out.shape[0], : out.shape[1]]
            yield out[: block.shape[0], : block.shape[1]], block


def _vec_parts(
    table: np.ndarray, rows: VecRow, leaves: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for out, row in zip(table, rows, strict=True):
        if row.param >= 0:
            leaf = leaves[row.param]
            leaf = leaf[row.tap_y, row.tap_x, 0] if leaf.ndim == 4 else leaf
            block = leaf[row.first_out :][: out.shape[0]]
            yield out[: block.shape[0]], block


def _own_parts(
    tables: Tables, index: int, program: Program, leaves: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    specs = program.plan.params
    kernel = leaves[0]
    yield tables.stem[index, : kernel.shape[0], : kernel.shape[1], :, : kernel.shape[3]], kernel
    if program.variant.attention:
        yield tables.positions[index], leaves[1][0]
    *_, weight, bias = leaves
    yield tables.classifier[index, : weight.shape[0]], weight
    yield tables.classifier_bias[index], bias
    if specs[-4].path[0].startswith("classifier"):
        weight, bias = leaves[-4:-2]
        yield tables.hidden[index, : weight.shape[0], : weight.shape[1]], weight
        yield tables.hidden_bias[index, : bias.shape[0]], bias
