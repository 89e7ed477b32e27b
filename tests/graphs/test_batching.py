"""Padded graphs: shapes, schedules of independent nodes, buckets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.graphs.batching import (
    NODE_BUCKETS,
    Bucket,
    bucket_for,
    level_schedule,
    node_depths,
    pad_graphs,
)
from ppuda_jax.graphs.from_plan import graph_from_plan
from tests.archs.strategies import archs

GRAPHS = [graph_from_plan(make_plan(arch_at("train", index))) for index in range(4)]


@settings(max_examples=40, deadline=None)
@given(archs(), st.integers(1, 8))
def test_schedules_respect_every_edge(config, width):
    graph = graph_from_plan(make_plan(config))
    schedule = level_schedule(graph, width)
    assert schedule.shape[1] == width
    listed = schedule[schedule < graph.num_nodes]
    assert sorted(listed) == list(range(graph.num_nodes))
    step = np.empty(graph.num_nodes, int)
    for number, nodes in enumerate(schedule):
        step[nodes[nodes < graph.num_nodes]] = number
    sources, targets = np.nonzero(graph.distances(254))
    assert (step[sources] < step[targets]).all()
    if width == 1:
        assert schedule.shape[0] == graph.num_nodes


def test_depths_are_longest_paths():
    graph = GRAPHS[0]
    depths = node_depths(graph)
    sources, targets = graph.edges.T
    assert (depths[sources] < depths[targets]).all()
    for node in range(1, graph.num_nodes):
        before = sources[targets == node]
        assert depths[node] == (depths[before].max() + 1 if before.size else 0)


def test_depths_do_not_need_sorted_edges():
    graph = GRAPHS[0]
    shuffled = type(graph)(graph.primitive, graph.edges[::-1], graph.shapes)
    np.testing.assert_array_equal(node_depths(shuffled), node_depths(graph))


def test_padding():
    bucket = bucket_for(GRAPHS)
    assert bucket.nodes in NODE_BUCKETS
    batch = pad_graphs(GRAPHS, bucket)
    assert batch.primitive.shape == (4, bucket.nodes)
    assert batch.shape.shape == (4, bucket.nodes, 4)
    assert batch.distance.shape == (4, bucket.nodes, bucket.nodes)
    assert batch.levels.shape == (4, bucket.steps, bucket.width)
    assert batch.distance.dtype == np.uint8 and batch.levels.dtype == np.int32
    for index, graph in enumerate(GRAPHS):
        nodes = graph.num_nodes
        assert batch.num_nodes[index] == nodes
        np.testing.assert_array_equal(batch.primitive[index, :nodes], graph.primitive)
        np.testing.assert_array_equal(batch.shape[index, :nodes], graph.shapes)
        np.testing.assert_array_equal(batch.distance[index, :nodes, :nodes], graph.distances())
        assert not batch.distance[index, nodes:].any()
        assert not batch.distance[index, :, nodes:].any()
        assert not batch.shape[index, nodes:].any()
        listed = batch.levels[index][batch.levels[index] < bucket.nodes]
        assert sorted(listed) == list(range(nodes))


def test_padding_without_virtual_edges():
    assert pad_graphs(GRAPHS[:1], max_distance=1).distance.sum() == GRAPHS[0].num_edges


@pytest.mark.parametrize("nodes", NODE_BUCKETS)
def test_buckets_hold_what_they_are_chosen_for(nodes):
    chain = type(GRAPHS[0])(
        np.array([9] + [4] * (nodes - 1)),
        np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1),
        np.zeros((nodes, 4)),
    )
    assert bucket_for([chain]) == Bucket(nodes, nodes)


def test_graphs_above_the_buckets_get_one():
    nodes = NODE_BUCKETS[-1] + 1
    edges = np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)
    graph = type(GRAPHS[0])(np.array([9] + [4] * (nodes - 1)), edges, np.zeros((nodes, 4)))
    assert bucket_for([graph]).nodes == NODE_BUCKETS[-1] + 512


@pytest.mark.parametrize("bucket", [Bucket(16, 512), Bucket(2048, 8)])
def test_graphs_that_do_not_fit_are_refused(bucket):
    with pytest.raises(ValueError, match="must fit the bucket"):
        pad_graphs(GRAPHS, bucket)


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="at least one graph"):
        pad_graphs([])
