"""The whole hypernetwork: sizes, variants, padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppuda_jax.ghn.config import PRESETS, GHNConfig
from ppuda_jax.ghn.model import GHN, init_theta
from ppuda_jax.graphs.batching import Bucket, pad_graphs
from tests.close import assert_close
from tests.ghn.networks import random_graph

PUBLISHED_SIZES = {
    "ghn1-cifar10": 1_620_668,
    "ghn2-cifar10": 1_620_764,
    "mlp-cifar10": 1_614_396,
    "ghn1-imagenet": 2_319_624,
    "ghn2-imagenet": 2_319_720,
}
SMALL = GHNConfig(hid=8, max_shape=(6, 6, 3, 3), virtual_edges=50, layernorm=True)
VARIANTS = {
    "ghn2": SMALL,
    "ghn1": dataclasses.replace(SMALL, virtual_edges=1, layernorm=False),
    "mlp": dataclasses.replace(SMALL, hypernet="mlp"),
}


def _count(config):
    theta = jax.eval_shape(lambda: init_theta(config, jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


@pytest.mark.parametrize("name", sorted(PUBLISHED_SIZES))
def test_number_of_parameters_is_the_published_one(name):
    assert _count(PRESETS[name]()) == PUBLISHED_SIZES[name]


def test_number_of_parameters_with_the_mlp_decoder():
    assert _count(dataclasses.replace(PRESETS["ghn2-cifar10"](), decoder="mlp")) == 32_282_066


def test_initial_values_have_the_structure_and_distributions_of_the_modules():
    theta = init_theta(SMALL, jax.random.key(0))
    own = jax.eval_shape(lambda: GHN(SMALL).init(jax.random.key(1), method=GHN.touch))["params"]
    assert jax.tree.map(jnp.shape, theta) == jax.tree.map(jnp.shape, own)
    for name, value in (("scale", 1.0), ("bias", 0.0)):
        np.testing.assert_array_equal(theta["layer_norm"][name], value)
    np.testing.assert_allclose(np.std(theta["embedding"]["channel"]), 1.0, rtol=0.1)
    dense = theta["kernel_decoder"]["conv_1"]  # 64 inputs: uniform in +-1/8, bias included
    for leaf in dense.values():
        assert 0.9 / 8 < np.abs(leaf).max() <= 1 / 8
        np.testing.assert_allclose(np.std(leaf), 1 / 8 / np.sqrt(3), rtol=0.2)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_embeddings_are_finite_and_zero_on_padding(name):
    config, rng = VARIANTS[name], np.random.default_rng(0)
    graphs = pad_graphs([random_graph(rng, n) for n in (7, 5)], Bucket(8, 8, 2))
    h = jax.jit(GHN(config).apply)({"params": init_theta(config, jax.random.key(0))}, graphs)
    assert h.shape == (2, 8, 8)
    assert np.isfinite(h).all() and not h[0, 7:].any() and not h[1, 5:].any()
    assert (jnp.abs(h[0, :7]).sum(-1) > 0).all()


@pytest.fixture(name="embed", scope="module")
def _embed():
    theta = init_theta(SMALL, jax.random.key(0))
    return jax.jit(lambda graphs: GHN(SMALL).apply({"params": theta}, graphs))


@given(seed=st.integers(0, 10**6), sizes=st.tuples(*[st.integers(2, 16)] * 2))
@settings(max_examples=15, deadline=None)
def test_padding_and_neighbours_in_the_batch_influence_nothing(embed, seed, sizes):
    rng = np.random.default_rng(seed)
    graphs = [random_graph(rng, n) for n in sizes]
    together = embed(pad_graphs(graphs, Bucket(16, 16, 2)))
    other = embed(pad_graphs([graphs[1], random_graph(rng, 16)], Bucket(24, 24, 1)))
    assert_close(together[1, : sizes[1]], other[0, : sizes[1]], 1e-5)
    garbage = pad_graphs(graphs, Bucket(16, 16, 2))
    garbage.primitive[0, sizes[0] :] = 7
    garbage.shape[0, sizes[0] :] = 11
    garbage.distance[0, sizes[0] :, sizes[0] :] = 1
    np.testing.assert_array_equal(embed(garbage), together)


def test_gradients_do_not_see_padding():
    rng = np.random.default_rng(1)
    clean = pad_graphs([random_graph(rng, 9), random_graph(rng, 12)], Bucket(12, 12, 2))
    garbage = jax.tree.map(np.copy, clean)
    garbage.primitive[0, 9:] = 7
    garbage.shape[0, 9:] = 11
    garbage.distance[0, 9:, 9:] = 1

    @jax.jit
    @jax.grad
    def gradient(theta, graphs):
        return jnp.sum(GHN(SMALL).apply({"params": theta}, graphs) ** 3)

    theta = init_theta(SMALL, jax.random.key(0))
    for a, b in zip(
        *map(jax.tree.leaves, (gradient(theta, clean), gradient(theta, garbage))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
