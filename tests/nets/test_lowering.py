"""Both forms of every primitive agree, forwards and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import lowering

RNG = np.random.default_rng(0)


def _array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _agree(function, *arrays):
    """Values and gradients of both forms, to float32 rounding."""
    results = []
    for form in ("taps", "library"):
        with lowering.lowering(form):
            value, pull = jax.vjp(function, *arrays)
            seed = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
            results.append((value, pull(seed)))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("size", [4, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [
    ((3, 3), (1, 1)), ((3, 3), (2, 2)), ((5, 5), (1, 1)), ((7, 7), (1, 1)), ((1, 7), (1, 2)),
    ((7, 1), (2, 1)), ((1, 1), (2, 2))])
def test_convolution(kernel, stride, size):
    _agree(lambda x, w: lowering.conv(x, w, stride), _array(2, size, size, 3),
           _array(*kernel, 3, 4))


def test_patches():
    _agree(lambda x, w: lowering.conv(x, w, (3, 3), (1, 1)), _array(2, 32, 32, 3),
           _array(3, 3, 3, 4))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5])
def test_depthwise(k, stride, dilation):
    _agree(lambda x, w: lowering.depthwise(x, w, stride, dilation), _array(3, 8, 8, 4),
           _array(k, k, 1, 4))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [lowering.max_pool, lowering.avg_pool])
@pytest.mark.parametrize("size", [7, 8])
def test_pools(pool, stride, size):
    _agree(lambda x: pool(x, stride), _array(2, size, size, 3))


def test_average_pool_leaves_padding_out():
    ones = jnp.ones((1, 5, 5, 1))
    np.testing.assert_allclose(lowering.avg_pool(ones), ones, rtol=1e-6)


def test_max_pool_sends_ties_to_the_first():
    gradient = jax.grad(lambda x: lowering.max_pool(x).sum())(jnp.zeros((1, 3, 3, 1)))
    assert float(gradient.sum()) == 9.0
    assert float(gradient[0, 0, 0, 0]) == 4.0  # windows whose first pixel inside is the corner


def test_attention():
    _agree(lowering.attention, *(_array(4, 9, 2, 4) for _ in range(3)))


def test_attention_does_not_overflow():
    huge = 1e3 * jnp.ones((2, 5, 1, 4))
    with lowering.lowering("taps"):
        np.testing.assert_allclose(lowering.attention(huge, huge, huge), huge, rtol=1e-5)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'taps' or 'library', got 'fast'"):
        with lowering.lowering("fast"):
            pass
