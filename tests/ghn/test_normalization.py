"""Fan-in scaling and bounded norm parameters."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.ghn.normalization import bound_bias, bound_norm_scale, kernel_scale
from tests.close import assert_close


@pytest.mark.parametrize(
    "shape, role, beta_over_fan_in",
    [
        ((64, 32, 3, 3), "kernel", 2 / 288),
        ((64, 32), "kernel", 2 / 32),
        ((10, 1), "kernel", 2 / 1),
        ((64, 1, 3, 3), "kernel", 1 / 9),
        ((64, 32, 1, 7), "kernel", 1 / 224),
        ((64, 32, 7, 1), "kernel", 2 / 224),
        ((1, 32, 11, 11), "pos_enc", 1.0),
        ((1, 32, 8, 8), "pos_enc", 1.0),
    ],
)
def test_kernel_scale(shape, role, beta_over_fan_in):
    assert kernel_scale(shape, role) == pytest.approx(math.sqrt(beta_over_fan_in))


def test_vectors_have_no_fan_in():
    with pytest.raises(ValueError, match="at least two axes"):
        kernel_scale((64,))


def test_bounds():
    values = jnp.array([-1e3, -1.0, 0.0, 1.0, 1e3])
    assert_close(bound_norm_scale(values)[jnp.array([0, 2, 4])], np.array([0, 1, 2]), 1e-6)
    np.testing.assert_allclose(bound_norm_scale(values)[3], 2 / (1 + math.exp(-0.5)), rtol=1e-6)
    assert_close(bound_bias(values)[jnp.array([0, 2, 4])], np.array([-1, 0, 1]), 1e-6)
    np.testing.assert_allclose(bound_bias(values)[3], math.tanh(0.2), rtol=1e-6)
