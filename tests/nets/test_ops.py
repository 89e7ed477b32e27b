"""Operations against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import ops

RNG = np.random.default_rng(1)


def _array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


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
        edge = functools.partial(ops.CELL_OPS[kind], stride=stride)
        out = jax.eval_shape(edge, params, _array(2, 8, 8, 8))
        assert out.shape == (2, 8 // stride, 8 // stride, 8)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 2))
    out = ops.drop_path(jax.random.key(0), x, 0.25)
    assert set(np.unique(out).round(4)) == {0.0, np.float32(1 / 0.75).round(4)}
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    assert abs(float(out.mean()) - 1) < 0.05
