"""The divergence of softened predictions, against SciPy and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ppuda_jax.teachers.distillation import distillation


def _logits(seed):
    return 2 * np.random.default_rng(seed).standard_normal((5, 4))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_divergence_times_the_squared_temperature(temperature):
    ours, theirs = _logits(0), _logits(1)
    p, q = (scipy.special.softmax(x / temperature, axis=1) for x in (theirs, ours))
    expected = temperature**2 * scipy.special.rel_entr(p, q).sum(axis=1).mean()
    with jax.enable_x64(True):
        found = distillation(jnp.asarray(ours), jnp.asarray(theirs), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_from_itself_there_is_nothing_to_learn():
    with jax.enable_x64(True):
        logits = jnp.asarray(_logits(0))
        value, gradient = jax.value_and_grad(distillation)(logits, logits, 4.0)
        value, gradient = float(value), np.asarray(gradient)
    assert abs(value) < 1e-14 and np.abs(gradient).max() < 1e-15


def test_at_high_temperatures_it_compares_centred_logits():
    """Hinton et al. 2015, section 2.1: it becomes half the squared distance, divided by K."""
    ours, theirs = (x - x.mean(1, keepdims=True) for x in (_logits(0), _logits(1)))
    with jax.enable_x64(True):
        gradient = jax.grad(distillation)(jnp.asarray(ours), jnp.asarray(theirs), 1e4)
    np.testing.assert_allclose(gradient, (ours - theirs) / 4 / 5, rtol=1e-3, atol=1e-5)
