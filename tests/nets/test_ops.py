"""Operations against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import lowering, ops

RNG = np.random.default_rng(1)


def _array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_batch_norm_gradient_is_autodiff_of_its_definition():
    def definition(x, scale, bias):
        mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        normed = (x - mean) / jnp.sqrt(variance + ops.EPSILON)
        return normed * scale[None, None, None] + bias[None, None, None]

    x, scale, bias, seed = _array(3, 4, 4, 5), _array(5), _array(5), _array(3, 4, 4, 5)
    ours, pull = jax.vjp(ops.batch_norm, x, scale, bias)
    theirs, expected = jax.vjp(definition, x, scale, bias)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for a, b in zip(pull(seed), expected(seed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_batch_norm_switched_off_is_the_identity():
    x, seed = _array(2, 3, 3, 4), _array(2, 3, 3, 4)
    value, pull = jax.vjp(lambda x, s, b: ops.batch_norm(x, s, b, 0.0), x, _array(4), _array(4))
    np.testing.assert_array_equal(value, x)
    g_x, g_scale, g_bias = pull(seed)
    np.testing.assert_array_equal(g_x, seed)
    assert not g_scale.any() and not g_bias.any()


def test_batch_norm_keeps_the_dtype_and_computes_in_float32():
    x = (1000 + _array(64, 8, 8, 2)).astype(jnp.bfloat16)
    out = ops.batch_norm(x, jnp.ones(2), jnp.zeros(2))
    assert out.dtype == jnp.bfloat16
    assert abs(float(out.astype(jnp.float32).mean())) < 0.1


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("enabled", [0.0, 1.0])
def test_norm_and_pool_in_one_equal_one_after_the_other(size, enabled):
    x, g = (_array(4, n, n, 16) for n in (size, -(-size // 2)))
    scale, bias = _array(16), _array(16)  # some scales are negative

    def apart(x, scale, bias):
        return ops.stem_pool((), ops.batch_norm(x, scale, bias, enabled))

    with lowering.lowering("taps"):
        want, pull = jax.vjp(apart, x, scale, bias)
        got, pull_got = jax.vjp(lambda *a: ops.norm_pool(*a, enabled), x, scale, bias)
    assert (scale < 0).any() and (scale > 0).any()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    for a, b in zip(pull_got(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_statistics_of_the_first_images():
    x = _array(6, 3, 3, 2)
    expected = ops.batch_statistics(x[:4])
    with ops.statistics_of_first(4):
        first = ops.batch_statistics(x)
        with ops.statistics_of_first(0):
            everything = ops.batch_statistics(x)
        again = jax.jit(ops.batch_norm)(x, jnp.ones(2), jnp.zeros(2))
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(everything, ops.batch_statistics(x))
    np.testing.assert_allclose(jnp.mean(again[:4], axis=(0, 1, 2)), 0, atol=1e-6)


def test_factorized_reduce_reads_every_other_pixel_and_the_next():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    one = jnp.ones((1, 1, 1, 1))
    out = ops.factorized_reduce((one, one), x)
    np.testing.assert_array_equal(out[0, ..., 0], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(out[0, ..., 1], [[5, 7], [13, 15]])


def test_flatten_is_channel_major():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(ops.flatten((), x)[0], [0, 2, 4, 6, 1, 3, 5, 7])


def test_squeeze_and_excitation_gates_with_a_hardswish():
    x = jnp.ones((1, 2, 2, 2))
    params = (jnp.zeros((2, 1)), jnp.zeros(1), jnp.zeros((1, 2)), jnp.array([3.0, -3.0]))
    out = ops.cse(params, x)
    np.testing.assert_allclose(out[0, 0, 0], [3.0, 0.0])


@pytest.mark.parametrize("kind", sorted(ops.CELL_OPS))
def test_strided_edges_halve_the_map(kind):
    from ppuda_jax.archs.op_params import param_rows
    from ppuda_jax.primitives import CELL_OP_KERNELS

    rows = param_rows(kind, 8, 8, CELL_OP_KERNELS[kind], "conv" in kind, 8)
    params = [_array(*shape) for _, _, shape, _ in rows]
    for stride in (1, 2):
        out = ops.CELL_OPS[kind](params, _array(2, 8, 8, 8), stride=stride)
        assert out.shape == (2, 8 // stride, 8 // stride, 8)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 2))
    out = ops.drop_path(jax.random.key(0), x, 0.25)
    assert set(np.unique(out).round(4)) == {0.0, np.float32(1 / 0.75).round(4)}
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    assert abs(float(out.mean()) - 1) < 0.05
