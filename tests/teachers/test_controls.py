"""The controls of the audit take what fits, and nothing else."""

import numpy as np

from ppuda_jax.teachers.controls import borrowed, mean_of_all, nearest, with_noise
from ppuda_jax.teachers.store import open_store
from tests.networks import plan_of
from tests.teachers.stored import random_leaves, save_zoo

PLANS = [plan_of(f"conv_{k}x{k}:0 none:1", "none:0 max_pool_3x3:1", n_cells=2) for k in (1, 3, 5)]


def test_the_nearest_is_the_one_that_shares_most(tmp_path):
    save_zoo(tmp_path, PLANS)
    store = open_store(tmp_path)
    for number, plan in enumerate(PLANS):
        teacher = nearest(plan, store)
        assert teacher.record.index == number
        for ours, theirs in zip(
            borrowed(plan, teacher, random_leaves(plan, 8)), teacher.leaves, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_what_does_not_fit_is_left_as_it_is(tmp_path):
    save_zoo(tmp_path, PLANS[:2])
    store = open_store(tmp_path)
    others = random_leaves(PLANS[2], 8)
    teacher = nearest(PLANS[2], store)
    there = {
        spec.path: leaf
        for spec, leaf in zip(teacher.record.plan.params, teacher.leaves, strict=True)
    }
    taken = 0
    for spec, leaf, other in zip(
        PLANS[2].params, borrowed(PLANS[2], teacher, others), others, strict=True
    ):
        fits = spec.path in there and there[spec.path].shape == spec.shape
        np.testing.assert_array_equal(leaf, there[spec.path] if fits else other)
        taken += fits
    assert 0 < taken < len(others)


def test_the_mean_is_over_all_that_fit(tmp_path):
    save_zoo(tmp_path, PLANS[:2])
    store = open_store(tmp_path)
    first, second = (teacher.leaves for teacher in store.teachers.values())
    mean = mean_of_all(PLANS[0], store, random_leaves(PLANS[0], 8))
    np.testing.assert_allclose(mean[0], (first[0] + second[0]) / 2, rtol=1e-6)  # the stem's kernel
    alone = next(
        i for i, s in enumerate(PLANS[0].params) if s.path[1:] == ("ops_0", "conv", "kernel")
    )
    np.testing.assert_array_equal(mean[alone], first[alone])


def test_noise_is_relative():
    leaves = [np.full((64, 64), 2.0) + np.random.default_rng(0).standard_normal((64, 64))]
    (noisy,) = with_noise(leaves, 0.1, 1)
    assert 0.095 < np.std(noisy - leaves[0]) / leaves[0].std() < 0.105
    assert with_noise(leaves, 0.0, 1)[0].dtype == leaves[0].dtype
