"""Pools: both forms agree, padding does not count, ties go to the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import pools
from tests.nets.forms import array, assert_forms_agree


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [pools.max_pool, pools.avg_pool])
@pytest.mark.parametrize("size", [7, 8])
def test_pools(pool, stride, size):
    assert_forms_agree(lambda context, x: pool(x, stride, context), array(2, size, size, 3))


def test_average_pool_leaves_padding_out():
    ones = jnp.ones((1, 5, 5, 1))
    np.testing.assert_allclose(pools.avg_pool(ones), ones, rtol=1e-6)


def test_max_pool_sends_ties_to_the_first():
    gradient = jax.grad(lambda x: pools.max_pool(x).sum())(jnp.zeros((1, 3, 3, 1)))
    assert float(gradient.sum()) == 9.0
    assert float(gradient[0, 0, 0, 0]) == 4.0  # windows whose first pixel inside is the corner
