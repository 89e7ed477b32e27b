"""Random parameters of any network."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ppuda_jax.archs.genotypes import VIT_CONFIG
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.prediction.random import he_leaves
from ppuda_jax.tracing.api import trace


def test_kernels_have_the_variance_of_he():
    plan = make_plan(VIT_CONFIG)
    leaves = he_leaves(graph_from_plan(plan), seed=1)
    assert set(leaves) == {spec.path for spec in plan.params}
    for spec in plan.params:
        leaf = np.asarray(leaves[spec.path])
        assert leaf.shape == spec.shape and leaf.dtype == np.float32
        if spec.role == "kernel" and leaf.size > 10_000:
            expected = 2 / np.prod(spec.shape[:-1])
            assert abs(leaf.var() / expected - 1) < 0.1
        elif spec.role in ("bias", "norm_bias", "norm_scale"):
            assert (leaf == float(spec.role == "norm_scale")).all()


def test_stacked_leaves_are_filled_and_seeds_differ():
    def apply(params, x):
        return jax.lax.scan(lambda h, w: (nn.relu(h @ w), None), x, params)[0]

    w = jnp.zeros((3, 16, 16))
    graph = ArchGraph.from_graphs_tuple(trace(apply, w, jnp.zeros((2, 16))))
    first, second = (he_leaves(graph, seed) for seed in (0, 1))
    (path,) = first
    assert first[path].shape == w.shape and np.abs(first[path]).min(axis=(1, 2)).all()
    assert not np.array_equal(first[path], second[path])
