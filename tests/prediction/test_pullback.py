"""The pullback is the gradient of an explicit inner product with predicted parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.executor.variants import variant_of
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.prediction.pullback import pull_tables, pullback
from ppuda_jax.prediction.tables import predict_tables
from tests.networks import plan_of

CONFIG = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
PLAN = plan_of("conv_1x1:0 sep_conv_3x3:1", "max_pool_3x3:0 skip_connect:1", n_cells=3)


@pytest.fixture(scope="module")
def ghn():
    return LoadedGHN(CONFIG, init_theta(CONFIG, jax.random.key(0)), "tiny")


def _normal(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), tree)


def _product(first, second):
    return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def _check(gradient, expected):
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest > 0
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


def test_pullback_through_the_leaves_of_a_network(ghn):
    graph = graph_from_plan(PLAN)
    cotangents = _normal(predict_params(None, graph, ghn), 1)

    @jax.jit
    @jax.grad
    def expected(theta, cotangents):
        return _product(predict_params(None, graph, LoadedGHN(CONFIG, theta)), cotangents)

    _check(pullback(ghn, graph, cotangents), expected(ghn.theta, cotangents))
    last = sorted(cotangents)[-1]
    some = jax.tree.map(jnp.zeros_like, cotangents) | {last: cotangents[last]}
    _check(pullback(ghn, graph, {last: cotangents[last]}), expected(ghn.theta, some))


def test_pullback_is_linear_and_of_the_hypernetworks_own_structure(ghn):
    graph = graph_from_plan(PLAN)
    ones = jax.tree.map(jnp.ones_like, predict_params(None, graph, ghn))
    once = pullback(ghn, graph, ones)
    twice = pullback(ghn, graph, jax.tree.map(lambda x: 2 * x, ones))
    assert jax.tree.structure(once) == jax.tree.structure(ghn.theta)
    _check(twice, jax.tree.map(lambda x: 2 * x, once))


def test_pullback_through_the_tables_of_a_meta_batch(ghn):
    variant = variant_of(PLAN)
    batch = build_meta_batch([PLAN, PLAN], variant)
    predict = functools.partial(predict_tables, CONFIG, variant)
    cotangents = _normal(jax.eval_shape(predict, ghn.theta, batch), 2)

    @jax.jit
    def both(theta):
        expected = jax.grad(lambda t: _product(predict(t, batch), cotangents))(theta)
        return pull_tables(CONFIG, variant, theta, batch, cotangents), expected

    _check(*both(ghn.theta))


@pytest.mark.parametrize(
    "cotangents",
    [{}, {"nowhere": np.ones(3)}, {"stem": {"conv": {"kernel": np.ones(3)}}}],
    ids=["none", "of no leaf", "of another shape"],
)
def test_other_cotangents_are_refused(ghn, cotangents):
    with pytest.raises(ValueError, match="cotangents must be those of predicted leaves"):
        pullback(ghn, graph_from_plan(PLAN), cotangents)
