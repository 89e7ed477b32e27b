"""Permuting any group leaves what a network computes as it is."""

import numpy as np
import pytest

from ppuda_jax.teachers.alignment import permute, random_permutations
from ppuda_jax.teachers.groups import channel_groups
from tests.close import assert_close
from tests.networks import plan_of
from tests.teachers.nets import PLANS, leaves_of, logits


@pytest.mark.parametrize("name", PLANS)
def test_a_permuted_network_computes_the_same(name):
    plan = PLANS[name]
    leaves, groups = leaves_of(plan, 0), channel_groups(plan)
    assert groups
    permuted = permute(groups, leaves, random_permutations(groups, 1))
    changed = [not np.array_equal(a, b) for a, b in zip(leaves, permuted, strict=True)]
    assert np.mean(changed) > 0.9
    assert_close(logits(plan, permuted), logits(plan, leaves), 1e-9)


def test_sums_tie_what_they_add():
    """A cell without preprocessing adds both of its inputs, so that all cells share one group."""
    plan = plan_of(
        "conv_3x3:0 skip_connect:1", "conv_3x3:0 skip_connect:1", preproc=False, n_cells=3
    )
    groups = channel_groups(plan)
    kernels = {
        number for number, spec in enumerate(plan.params) if spec.path[-2:] == ("conv", "kernel")
    }
    written = [{a.param for a in group.axes if a.axis == -1} & kernels for group in groups]
    assert max(map(len, written)) >= 2


def test_halves_of_a_factorised_reduction_do_not_mix():
    plan = plan_of("conv_1x1:0 skip_connect:1", "skip_connect:0 conv_1x1:1", n_cells=3)
    reduces = [op for op in plan.ops if op.kind == "factorized_reduce"]
    assert reduces
    number = next(i for i, s in enumerate(plan.params) if s.path[-2:] == ("conv1", "kernel"))
    groups = [g for g in channel_groups(plan) if any(a[:2] == (number, -1) for a in g.axes)]
    (group,) = groups
    assert (
        group.size == plan.params[number].shape[-1]
    )  # half of the channels of what it is added to


def test_image_classes_and_heads_stay():
    plan = PLANS["transformer"]
    groups = channel_groups(plan)
    permuted = {(axis.param, axis.axis) for group in groups for axis in group.axes}
    first, last = 0, len(plan.params) - 2
    assert plan.params[first].shape[2] == 3
    assert (first, -2) not in permuted and (first, -1) in permuted
    assert (last, -1) not in permuted and (last, -2) in permuted
    assert (last + 1, -1) not in permuted  # the classifier's bias
    heads = [g for g in groups if any(plan.params[a.param].path[-2] == "qkv" for a in g.axes)]
    assert min(group.size for group in heads) == 2  # of 16 channels and 8 heads
