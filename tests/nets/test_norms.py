"""Norms against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import norms, ops, pools
from ppuda_jax.nets.context import OpContext
from tests.close import assert_close
from tests.nets.forms import array


def test_batch_norm_gradient_is_autodiff_of_its_definition():
    def definition(x, scale, bias):
        mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        normed = (x - mean) / jnp.sqrt(variance + norms.EPSILON)
        return normed * scale[None, None, None] + bias[None, None, None]

    x, scale, bias, seed = array(3, 4, 4, 5), array(5), array(5), array(3, 4, 4, 5)
    ours, pull = jax.vjp(norms.batch_norm, x, scale, bias)
    theirs, expected = jax.vjp(definition, x, scale, bias)
    assert_close(ours, theirs, 1e-5)
    assert_close(pull(seed), expected(seed), 1e-4)


def test_batch_norm_switched_off_is_the_identity():
    x, seed = array(2, 3, 3, 4), array(2, 3, 3, 4)
    value, pull = jax.vjp(lambda x, s, b: norms.batch_norm(x, s, b, 0.0), x, array(4), array(4))
    np.testing.assert_array_equal(value, x)
    g_x, g_scale, g_bias = pull(seed)
    np.testing.assert_array_equal(g_x, seed)
    assert not g_scale.any() and not g_bias.any()


def test_batch_norm_keeps_the_dtype_and_computes_in_float32():
    x = (1000 + array(64, 8, 8, 2)).astype(jnp.bfloat16)
    out = norms.batch_norm(x, jnp.ones(2), jnp.zeros(2))
    assert out.dtype == jnp.bfloat16
    assert abs(float(out.astype(jnp.float32).mean())) < 0.1


def far(mean, shape=(8, 6, 6, 3)):
    """Images around a mean, and their standard deviation in float64."""
    x = np.float32(mean) + np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jnp.asarray(x), x.astype(np.float64).std((0, 1, 2))


@pytest.mark.parametrize("mean", [0.0, 300.0, 3000.0, -3e4])
def test_statistics_at_a_large_mean(mean):
    x, std = far(mean)
    found, inverse = norms.batch_statistics(x)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(std**2 + norms.EPSILON), rtol=1e-3)
    expected = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [300.0, 3000.0])
@pytest.mark.parametrize("norm", ["batch_norm", "norm_pool", "first images", "layer_norm"])
def test_norms_at_a_large_mean(norm, mean):
    x, _ = far(mean, (8, 6, 6, 3) if norm != "layer_norm" else (2, 3, 3, 64))
    wide = np.asarray(x, np.float64)
    axes = -1 if norm == "layer_norm" else (0, 1, 2)
    part = wide[:4] if norm == "first images" else wide
    expected = (wide - part.mean(axes, keepdims=True)) / part.std(axes, keepdims=True)
    one, zero = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
    if norm == "layer_norm":
        found = norms.layer_norm(x, one, zero)
    elif norm == "norm_pool":
        found = norms.norm_pool(x, one, zero, context=OpContext("taps"))
        expected = pools.max_pool(jnp.asarray(expected, jnp.float32), 2)
    elif norm == "first images":
        found = norms.batch_norm(x, one, zero, context=OpContext(norm_images=4))
    else:
        found = norms.batch_norm(x, one, zero)
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_a_constant_channel_has_no_variance():
    _, inverse = norms.batch_statistics(jnp.full((4, 5, 5, 2), 1234.5))
    np.testing.assert_allclose(inverse, norms.EPSILON**-0.5, rtol=1e-3)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("enabled", [0.0, 1.0])
def test_norm_and_pool_in_one_equal_one_after_the_other(size, enabled):
    x, g = (array(4, n, n, 16) for n in (size, -(-size // 2)))
    scale, bias = array(16), array(16)  # some scales are negative

    def apart(x, scale, bias):
        return ops.stem_pool((), norms.batch_norm(x, scale, bias, enabled), context=taps)

    taps = OpContext("taps")
    want, pull = jax.vjp(apart, x, scale, bias)
    got, pull_got = jax.vjp(lambda *a: norms.norm_pool(*a, enabled, taps), x, scale, bias)
    assert (scale < 0).any() and (scale > 0).any()
    assert_close(got, want, 1e-6)
    assert_close(pull_got(g), pull(g), 1e-5)
