"""Programs: every parameter has its rows, every register is written before it is read."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.executor.columns import Instruction
from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import (
    CapacityError,
    pack_params,
    rows_needed,
    stack_programs,
    unpack_params,
)
from ppuda_jax.executor.variants import UnsupportedPlanError, variant_of
from tests.networks import plan_of, random_params

SPLIT_NAMES = sorted(SPLITS)


def _programs(split, count=25):
    return [make_program(make_plan(arch_at(split, index))) for index in range(count)]


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_every_split_compiles_to_programs(split):
    for program in _programs(split):
        layout = layout_of(program.variant)
        for group in layout.groups:
            for code in (program.forward[group.name], program.backward[group.name]):
                assert len(code) <= 2 * group.cap
                if len(code):
                    assert code.source.max() < layout.files[group.source].registers
                    assert code.target.max() < layout.files[group.target].registers
                    assert code.opcode.max() < len(group.branches)


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_registers_are_written_before_they_are_read(split):
    for program in _programs(split):
        written = {("s0", register) for register in range(program.variant.stem_slots)}
        absent = _absent_states(program)
        for group in layout_of(program.variant).groups:
            for line in program.forward[group.name]:
                sources = group.branches[line.opcode].sources
                reads = {(group.source, line.source + k) for k in range(sources)}
                assert len(reads - written) <= absent
                written.add((group.target, line.target))
        assert (f"s{program.variant.stages - 1}", program.head.register) in written or absent


def _absent_states(program):
    """Registers that stand for states without input, which stay zero."""
    return sum(slot is None for op in program.plan.ops for slot in op.concat_slots)


@pytest.mark.parametrize("split", ["train", "dense"])
def test_rows_hold_every_parameter_once(split):
    for program in _programs(split):
        plan = program.plan
        covered = Counter()
        for rows in program.mat_rows.values():
            covered.update(p for p in rows.param if p >= 0)
        for rows in program.vec_rows.values():
            covered.update(p for p in rows.param if p >= 0)
        for index, spec in enumerate(plan.params):
            own = index == 0 or spec.role == "pos_enc" or spec.path[0].startswith("classifier")
            assert (covered[index] == 0) == own, spec
        for rows in program.mat_rows.values():
            used = rows[rows.param >= 0]
            assert len(np.unique(used.packed(), axis=0)) == len(used)


def test_variants_of_the_training_distribution_are_few():
    variants = {variant_of(make_plan(arch_at("train", index))) for index in range(200)}
    assert len(variants) < 40
    assert not any(variant.large for variant in variants)


def test_stacked_programs_use_disjoint_rows():
    programs = [make_program(make_plan(arch_at("train", 0)))] * 3
    stacked = stack_programs(programs)
    name = "cells0"
    count = stacked.forward_count[name][0]
    first, second = stacked.forward[name][0, :count], stacked.forward[name][1, :count]
    first, second = Instruction.unpack(first), Instruction.unpack(second)
    np.testing.assert_array_equal(second.mat - first.mat, len(programs[0].mat_rows["s0"]))
    moved = dataclasses.replace(first, mat=second.mat, vec=second.vec)
    np.testing.assert_array_equal(second.packed(), moved.packed())


def test_programs_of_two_variants_do_not_stack():
    plan = plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1")
    other = make_program(plan_of("msa:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1"))
    with pytest.raises(ValueError, match="one variant, received 2"):
        stack_programs([make_program(plan), other])


def test_too_small_a_capacity_is_refused():
    program = make_program(plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1"))
    need = rows_needed([program])
    less = dataclasses.replace(need, mats=tuple((name, rows - 1) for name, rows in need.mats))
    with pytest.raises(CapacityError, match="table s0 has"):
        pack_params([program], [random_params(program.plan)], less)


@pytest.mark.parametrize(
    "cells,options",
    [
        ("sep_conv_3x3:0 cse:1", {"fc_layers": 2}),
        ("msa:0 dil_conv_5x5:1", {"stem_type": 1}),
        ("conv_7x1_1x7:0 skip_connect:0", {"glob_avg": False, "C_mult": 2}),
    ],
)
def test_what_is_packed_is_unpacked(cells, options):
    programs = [make_program(plan_of(cells, cells, **options))] * 2
    trees = [random_params(programs[0].plan, seed) for seed in range(2)]
    unpacked = unpack_params(programs, pack_params(programs, trees))
    for tree, found in zip(trees, unpacked, strict=True):
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(a, b)


def test_unsupported_plans_say_what_to_do():
    plan = plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1", n_cells=2)
    with pytest.raises(UnsupportedPlanError, match="at least 3 cells, received 2: run the Flax"):
        variant_of(plan)
    wide = plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1", fc_layers=2, fc_dim=1024)
    with pytest.raises(UnsupportedPlanError, match="up to 512 units, received 2 layers of 1024"):
        variant_of(wide)


def test_variant_names_the_static_class():
    plan = plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1", stem_type=1)
    assert variant_of(plan) == Variant(16, 1, 16)
    flat = plan_of(
        "conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1", glob_avg=False, C_mult=2, stem_pool=False
    )
    assert variant_of(flat) == Variant(32, 2, 16, flat=True)
