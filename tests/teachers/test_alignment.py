"""Weight matching finds permuted copies exactly, and is never worse than none."""

import numpy as np
import pytest

from ppuda_jax.teachers.alignment import aligned, permute, random_permutations, weight_matching
from ppuda_jax.teachers.distances import regression
from ppuda_jax.teachers.groups import channel_groups
from tests.close import assert_close
from tests.networks import plan_of
from tests.teachers.nets import PLANS, leaves_of, logits


@pytest.mark.parametrize("name", PLANS)
def test_a_permuted_network_is_found(name):
    plan = PLANS[name]
    leaves, groups = leaves_of(plan, 0), channel_groups(plan)
    permuted = permute(groups, leaves, random_permutations(groups, 1))
    back = aligned(groups, leaves, permuted)
    assert regression(leaves, permuted)[0] > 0.3
    assert regression(leaves, back)[0] < 1e-20
    assert_close(logits(plan, back), logits(plan, permuted), 1e-9)


def test_matched_networks_compute_the_same_and_are_closer():
    plan = PLANS["concat, residual, sep_conv, cse"]
    reference, leaves, groups = leaves_of(plan, 0), leaves_of(plan, 5), channel_groups(plan)
    matched = aligned(groups, reference, leaves)
    assert regression(reference, matched)[0] < 0.98 * regression(reference, leaves)[0]
    assert_close(logits(plan, matched), logits(plan, leaves), 1e-9)


def test_noise_does_not_hide_the_permutation():
    plan = PLANS["sampled"]
    leaves, groups = leaves_of(plan, 0), channel_groups(plan)
    rng = np.random.default_rng(2)
    noisy = [leaf + 0.5 * leaf.std() * rng.standard_normal(leaf.shape) for leaf in leaves]
    wanted = random_permutations(groups, 3)
    found = weight_matching(groups, leaves, permute(groups, noisy, wanted))
    undone = permute(groups, permute(groups, noisy, wanted), found)
    assert_close(undone, noisy, 1e-12)


def test_one_group_of_one_permutation_is_solved_like_by_hand():
    """With no group but the stem's, the best permutation is that of one assignment."""
    plan = plan_of("max_pool_3x3:0 none:1", "max_pool_3x3:0 none:1", preproc=False, n_cells=2)
    groups = channel_groups(plan)
    assert len(groups) == 1
    reference, leaves = leaves_of(plan, 0), leaves_of(plan, 1)
    (found,) = weight_matching(groups, reference, leaves)
    best = regression(reference, permute(groups, leaves, [found]))[0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        tried = found.copy()
        i, j = rng.choice(len(found), 2, replace=False)
        tried[[i, j]] = tried[[j, i]]
        assert regression(reference, permute(groups, leaves, [tried]))[0] >= best - 1e-12


def test_what_is_not_finite_keeps_its_order():
    plan = PLANS["without preprocessing"]
    groups = channel_groups(plan)
    leaves = [leaf.astype(np.float32) for leaf in leaves_of(plan, 0)]
    large = [np.full_like(leaf, np.inf) for leaf in leaves]
    with np.errstate(over="ignore", invalid="ignore"):
        found = weight_matching(groups, large, leaves)
    assert all(np.array_equal(p, np.arange(len(p))) for p in found)


def test_bad_input():
    plan = PLANS["without preprocessing"]
    groups, leaves = channel_groups(plan), leaves_of(plan, 0)
    identity = [np.arange(group.size) for group in groups]
    with pytest.raises(ValueError, match="groups need as many permutations"):
        permute(groups, leaves, identity[:-1])
    with pytest.raises(ValueError, match="group 0 needs a permutation of its 16 channels"):
        permute(groups, leaves, [np.zeros(16, int), *identity[1:]])
    with pytest.raises(ValueError, match="must have the same parameters"):
        weight_matching(groups, leaves, [leaf[..., :1] for leaf in leaves])
