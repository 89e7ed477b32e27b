"""Sets of structures: membership, projection, samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from ppuda_jax.structure import constraints

SETS = {
    "cube": constraints.Cube(),
    "cube_vertices": constraints.CubeVertices(),
    "simplex": constraints.Simplex(),
    "simplex_vertices": constraints.SimplexVertices(),
}
values = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4)


@pytest.mark.parametrize("name", SETS)
def test_samples_are_members_and_spread(name):
    points = SETS[name].sample(jax.random.key(0), (4000, 3))
    assert bool(SETS[name].is_member(points).all())
    mean = 0.5 if name.startswith("cube") else 1 / 3
    np.testing.assert_allclose(points.mean(0), mean, atol=0.05)


@pytest.mark.parametrize("name", SETS)
@given(value=values)
@settings(deadline=None, max_examples=25)
def test_projection_is_a_member_and_stays(name, value):
    projected = SETS[name].project(jnp.array(value))
    assert bool(SETS[name].is_member(projected))
    np.testing.assert_allclose(SETS[name].project(projected), projected, atol=1e-5)


@given(value=values)
@settings(deadline=None, max_examples=10)
def test_projection_on_the_simplex_is_the_nearest_point(value):
    value = np.array(value, np.float64)
    solved = optimize.minimize(
        lambda g: np.sum((g - value) ** 2),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda g: g.sum() - 1},
    )
    projected = constraints.Simplex().project(jnp.array(value, jnp.float32))
    assert np.sum((projected - value) ** 2) <= solved.fun + 1e-4


def test_points_outside_are_refused():
    with pytest.raises(ValueError, match=r"must lie in Simplex, received .* project it"):
        constraints.check_member(constraints.Simplex(), jnp.array([0.5, 0.6]))
    constraints.check_member(constraints.Cube(), jnp.array([0.5, 0.6]))
    assert not bool(constraints.SimplexVertices().is_member(jnp.array([1.0, 1.0])))
    assert not bool(constraints.CubeVertices().is_member(jnp.array([0.5, 1.0])))
