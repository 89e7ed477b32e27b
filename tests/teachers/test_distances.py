"""Distances and penalties of parameters, against finite differences and closed forms."""

import numpy as np
import pytest

from ppuda_jax.teachers.distances import (
    kernels_before_norms,
    norm_penalty,
    regression,
    squared_scale,
)
from tests.networks import plan_of
from tests.teachers.nets import PLANS, leaves_of

PLAN = PLANS["concat, residual, sep_conv, cse"]
FILTERS = kernels_before_norms(PLAN)


def _slope(function, leaves, gradients):
    """The gradient along a random direction, and by central differences."""
    rng = np.random.default_rng(3)
    direction = [rng.standard_normal(leaf.shape) for leaf in leaves]
    step = 1e-5
    ahead, behind = (
        function([leaf + s * d for leaf, d in zip(leaves, direction, strict=True)])
        for s in (step, -step)
    )
    return sum(np.vdot(g, d) for g, d in zip(gradients, direction, strict=True)), (
        (ahead - behind) / (2 * step)
    )


@pytest.mark.parametrize("filters", [(), FILTERS], ids=["as they are", "scale-free"])
def test_gradients_of_regression_are_those_of_finite_differences(filters):
    leaves, targets = leaves_of(PLAN, 0), leaves_of(PLAN, 1)
    value, gradients = regression(leaves, targets, filters)
    assert 0.5 < value < 4
    slope, expected = _slope(
        lambda moved: regression(moved, targets, filters)[0], leaves, gradients
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_regression_by_hand():
    leaves = [np.array([[1.0, 2.0]]), np.array([0.5, 0.0]), np.zeros((2, 2))]
    targets = [np.array([[1.0, 0.0]]), np.array([0.0, 0.0]), np.zeros((2, 2))]
    value, gradients = regression(leaves, targets)
    assert value == pytest.approx((4 / 1 + 0.25 / 2) / 2)  # the kernel of zeros is left out
    np.testing.assert_allclose(gradients[0], [[0, 2.0]])
    np.testing.assert_allclose(gradients[1], [0.25, 0])
    np.testing.assert_array_equal(gradients[2], 0)
    assert squared_scale(np.array([3.0, 4.0])) == 25 and squared_scale(np.zeros(7)) == 7


def test_the_distance_from_itself_is_zero():
    leaves = leaves_of(PLAN, 0)
    for filters in ((), FILTERS):
        value, gradients = regression(leaves, leaves, filters)
        assert value < 1e-30 and max(np.abs(g).max() for g in gradients) < 1e-15


def test_filters_before_norms_have_no_scale():
    leaves, targets = leaves_of(PLAN, 0), leaves_of(PLAN, 1)
    scaled = [3 * leaf if i in FILTERS else leaf for i, leaf in enumerate(leaves)]
    assert regression(scaled, targets, FILTERS)[0] == pytest.approx(
        regression(leaves, targets, FILTERS)[0], rel=1e-12
    )
    assert regression(scaled, targets)[0] > 1.5 * regression(leaves, targets)[0]
    dead = [np.zeros_like(leaf) for leaf in leaves]
    value, gradients = regression(dead, targets, FILTERS)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_which_kernels_norms_scale():
    names = {"/".join(PLAN.params[number].path[-2:]) for number in FILTERS}
    expected = {"conv/kernel", "conv2/kernel", "pointwise/kernel", "pointwise1/kernel"}
    assert expected <= names and not names & {"fc1/kernel", "depthwise1/kernel"}
    halves = plan_of("skip_connect:0 none:1", "skip_connect:0 none:1", n_cells=3)
    names = {"/".join(halves.params[number].path[-2:]) for number in kernels_before_norms(halves)}
    assert {"conv1/kernel", "conv2/kernel"} <= names
    assert not kernels_before_norms(PLANS["no norm, two dense layers"])


def test_the_penalty_of_norms():
    leaves = [np.array([[3.0, 4.0]]), np.zeros(2)]
    value, gradients = norm_penalty(leaves)
    assert value == 5
    np.testing.assert_allclose(gradients[0], [[0.6, 0.8]])
    np.testing.assert_array_equal(gradients[1], 0)
    leaves = leaves_of(PLAN, 0)
    slope, expected = _slope(lambda moved: norm_penalty(moved)[0], leaves, norm_penalty(leaves)[1])
    np.testing.assert_allclose(slope, expected, rtol=1e-7)
