"""Everything follows the dtype of theta where JAX computes in float64 by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppuda_jax as pj
from ppuda_jax.ghn.model import GHN
from ppuda_jax.graphs.batching import Bucket, pad_graphs
from tests.close import assert_close
from tests.ghn.networks import random_graph

GHN2 = pj.GHNConfig(hid=8, max_shape=(8, 8, 3, 3), virtual_edges=50, layernorm=True)
CONFIGS = {
    "ghn2": GHN2,
    "mlp": pj.GHNConfig(hid=8, max_shape=(8, 8, 3, 3), hypernet="mlp", decoder="mlp"),
}


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Flax's LayerNorm mixes float64 with float32 constants."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def net(p, x):
    x = lax.conv_general_dilated(
        x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + 1e-5) * p["g"][None, None, None]
    return (x + p["b"][None, None, None]).mean((1, 2)) @ p["h"]


def predicted(config, theta, dtype=jnp.float32):
    shapes = {"k": (3, 3, 3, 12), "g": (12,), "b": (12,), "h": (12, 10)}
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
    graph = pj.trace(net, params, jax.ShapeDtypeStruct((2, 8, 8, 3), dtype))
    return pj.predict_params(net, graph, pj.LoadedGHN(config, theta))


@pytest.mark.parametrize("name", CONFIGS)
def test_theta_is_float32(name):
    theta = pj.init_theta(CONFIGS[name], jax.random.key(0))
    with jax.enable_x64(True):
        wide = pj.init_theta(CONFIGS[name], jax.random.key(0))
        module = GHN(CONFIGS[name])
        own = jax.eval_shape(lambda: module.init(jax.random.key(0), method=GHN.touch))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves((wide, own))} == {np.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, theta, wide)


@pytest.mark.parametrize("name", CONFIGS)
def test_predictions_are_the_same(name):
    theta = pj.init_theta(CONFIGS[name], jax.random.key(0))
    expected = predicted(CONFIGS[name], theta)
    with jax.enable_x64(True):
        found = predicted(CONFIGS[name], theta)
        assert {leaf.dtype for leaf in found.values()} == {np.dtype("float32")}
        assert_close(found, expected, 1e-5)
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta)
        exact = predicted(CONFIGS[name], wide, jnp.float64)
        assert {leaf.dtype for leaf in exact.values()} == {np.dtype("float64")}
        assert_close(exact, expected, 1e-5)


def test_the_gradient_follows_theta():
    graphs = pad_graphs([random_graph(np.random.default_rng(0), 6)], Bucket(6, 6, 1), 50)
    theta = pj.init_theta(GHN2, jax.random.key(0))

    @jax.jit
    @jax.grad
    def slope(theta):
        return jnp.sin(GHN(GHN2).apply({"params": theta}, graphs)).sum()

    with jax.enable_x64(True):
        same = slope(theta)
        wide = slope(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta))
    assert {leaf.dtype for leaf in jax.tree.leaves(same)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype("float64")}
    assert_close(same, wide, 1e-4)
