"""Tracing the Flax networks of DeepNets-1M gives the graphs that come from their plans.

`PPUDA_TRACED_NETS` sets how many sampled networks of each split are compared (the full check of
the issue is 50; it takes about two minutes).
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import sample_arch
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets import lowering
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.tracing.api import trace_graph

SPLITS = ("train", "val", "test", "wide", "deep", "dense", "bnfree")
COUNT = int(os.environ.get("PPUDA_TRACED_NETS", "3"))


def abstract_params(plan):
    params = {}
    for spec in plan.params:
        branch = params
        for key in spec.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[spec.path[-1]] = jax.ShapeDtypeStruct(spec.shape, jnp.float32)
    return {"params": params}


def trace_plan(plan, form):
    images = jax.ShapeDtypeStruct((2, plan.image_size, plan.image_size, 3), jnp.float32)
    network = Network(plan, context=OpContext(form))
    return trace_graph(network.apply, abstract_params(plan), images)


def node_keys(graph):
    """A key for each node that depends on the graph around it, not on the order of nodes."""
    before = [[] for _ in range(graph.num_nodes)]
    after = [[] for _ in range(graph.num_nodes)]
    for source, target in graph.edges.tolist():
        before[target].append(source)
        after[source].append(target)
    keys = [hash((int(p), *s)) for p, s in zip(graph.primitive, graph.shapes.tolist(), strict=True)]
    for _ in range(2):
        down, up = list(keys), list(keys)
        for node in range(graph.num_nodes):
            down[node] = hash((keys[node], *sorted(down[p] for p in before[node])))
        for node in reversed(range(graph.num_nodes)):
            up[node] = hash((keys[node], *sorted(up[p] for p in after[node])))
        keys = [hash(pair) for pair in zip(down, up, strict=True)]
    return keys


def assert_same(traced, planned):
    ours, theirs = node_keys(traced), node_keys(planned)
    assert traced.num_edges == planned.num_edges
    assert sorted(ours) == sorted(theirs)
    assert traced.num_classes == planned.num_classes and not traced.unbound

    def leaves(graph, keys):
        return {
            b.path: (keys[b.node], b.role, b.shape, b.split, b.part_shape, b.is_classifier)
            for b in graph.bindings
        }

    found, expected = leaves(traced, ours), leaves(planned, theirs)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        ignored = 3  # `split` may merge or keep axes of size 1
        assert found[path][:ignored] == value[:ignored], path
        assert found[path][ignored + 1 :] == value[ignored + 1 :], path


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("form", ["taps", "library"])
def test_traced_equals_planned(split, form):
    rng = np.random.default_rng(SPLITS.index(split))
    count = COUNT if form == "taps" else 1
    for i in range(count):
        size, classes = (224, 1000) if i % 3 == 2 else (32, 10)
        plan = make_plan(sample_arch(rng, split), classes, size)
        assert_same(trace_plan(plan, form), graph_from_plan(plan))


@pytest.mark.parametrize("form", ["taps", "library"])
def test_a_kernel_of_patches_keeps_its_height_and_width(form):
    shapes = {
        "kernel": jax.ShapeDtypeStruct((4, 4, 3, 8), jnp.float32),
        "head": jax.ShapeDtypeStruct((8, 10), jnp.float32),
    }

    def apply(params, x):
        maps = lowering.conv(x, params["kernel"], (4, 4), (0, 0), OpContext(form))
        return maps.mean((1, 2)) @ params["head"]

    graph = trace_graph(apply, shapes, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    (kernel,) = (b for b in graph.bindings if b.path == ("kernel",))
    assert kernel.shape == (8, 3, 4, 4) and kernel.perm == (2, 3, 1, 0)
