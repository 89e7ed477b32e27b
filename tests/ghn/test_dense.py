"""Dense layers: shapes, distribution, no hidden broadcasting."""

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.dense import MLP, Dense


def test_outputs_are_flat_and_arrays_keep_their_axes():
    module = Dense(3, (2, 5))
    variables = module.init(jax.random.key(0), jnp.zeros((4, 3)))
    assert variables["params"]["kernel"].shape == (3, 2, 5)
    assert module.apply(variables, jnp.ones((7, 4, 3))).shape == (7, 4, 10)


def test_initial_values_are_uniform_within_the_inverse_root_of_fan_in():
    variables = Dense(100, (200,)).init(jax.random.key(0), jnp.zeros((1, 100)))
    for leaf in variables["params"].values():
        assert np.abs(leaf).max() <= 0.1
        np.testing.assert_allclose(np.std(leaf), 0.1 / np.sqrt(3), rtol=0.1)


def test_the_last_relu_is_optional():
    x = jax.random.normal(jax.random.key(1), (64, 4))
    signs = {}
    for last in (True, False):
        module = MLP(4, 8, 4, last_relu=last)
        signs[last] = module.apply(module.init(jax.random.key(0), x), x).min()
    assert signs[True] >= 0 > signs[False]
