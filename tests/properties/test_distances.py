"""Distances against closed forms; networks without their shortcuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.primitives import PRIMITIVES
from ppuda_jax.properties.distances import diversity, frechet_distance, sparsity, without_skips
from ppuda_jax.tracing.api import trace_graph

RNG = np.random.default_rng(0)


def test_frechet_distance_of_numbers():
    a, b = RNG.normal(1.0, 2.0, (50, 1)), RNG.normal(-1.0, 0.5, (30, 1))
    want = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)


def test_frechet_distance_of_independent_axes_and_after_a_rotation():
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T  # uncorrelated
    a, b = signs * [1.0, 2.0, 3.0], signs * [2.0, 2.0, 1.0] + [1.0, 0.0, -1.0]
    factor = 8 / 7  # of unbiased variances
    want = 2.0 + factor * (1 + 0 + 4)
    rotation, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


@pytest.mark.parametrize(
    "first,second,message",
    [
        (np.ones((1, 2)), np.ones((3, 2)), r"at least two embeddings .*\(1, 2\), \(3, 2\)"),
        (np.ones((3, 4)), np.ones((3, 2)), "of one width"),
        (np.ones(3), np.ones((3, 2)), "received shapes"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), "must be finite"),
    ],
)
def test_sets_that_have_no_distance(first, second, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(first, second)


def test_diversity_and_sparsity():
    east, north = np.array([[3.0, 0.0]]), np.array([[0.0], [0.1]])
    assert diversity([east, east * 2]) == pytest.approx(0)
    assert diversity([east, north]) == pytest.approx(1)
    assert diversity([east, -east, np.zeros(2)]) == pytest.approx(2)
    with pytest.raises(ValueError, match="two tensors with a length are needed, received 1"):
        diversity([east, np.zeros(2)])
    assert sparsity([east, north]) == pytest.approx(0.5)


def test_a_chain_is_left_of_a_residual_network():
    module = build_model("resnet18", 10, 32)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    whole = trace_graph(module.apply, shapes, images)
    chain = without_skips(whole)
    inputs = np.bincount(chain.edges[:, 1], minlength=chain.num_nodes)
    outputs = np.bincount(chain.edges[:, 0], minlength=chain.num_nodes)
    assert (inputs[1:] == 1).all() and (outputs[:-1] == 1).all()
    downsampled = 3 * 2  # convolution and norm of the three shortcuts that have them
    assert chain.num_nodes == whole.num_nodes - downsampled
    sums = PRIMITIVES.index("sum")
    assert (chain.primitive == sums).sum() == (whole.primitive == sums).sum() == 8


def test_a_network_without_shortcuts_stays():
    edges = np.array([[0, 1], [1, 2]])
    kinds = [PRIMITIVES.index(name) for name in ("input", "conv", "bn")]
    graph = ArchGraph(np.array(kinds), edges, np.zeros((3, 4), np.int32))
    assert (without_skips(graph).edges == edges).all()
