"""Virtual edges: equal to breadth-first search, and to what the reference wrote."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.virtual_edges import shortest_paths, shortest_paths_of
from tests.archs.strategies import archs


def by_search(nodes, edges, cutoff):
    graph = nx.DiGraph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges)
    expected = np.zeros((nodes, nodes), np.uint8)
    for source, lengths in nx.all_pairs_shortest_path_length(graph, cutoff):
        for target, length in lengths.items():
            expected[source, target] = length
    return expected


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.floats(0.02, 0.5), st.integers(0, 10**6), st.integers(1, 12))
def test_equal_to_breadth_first_search(nodes, density, seed, cutoff):
    rng = np.random.default_rng(seed)
    edges = np.argwhere(np.triu(rng.random((nodes, nodes)) < density, 1))
    found = shortest_paths(nodes, edges, cutoff)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, by_search(nodes, edges.tolist(), cutoff))


@settings(max_examples=5, deadline=None)
@given(archs())
def test_equal_to_breadth_first_search_on_architectures(config):
    graph = graph_from_plan(make_plan(config))
    expected = by_search(graph.num_nodes, graph.edges.tolist(), 50)
    np.testing.assert_array_equal(shortest_paths(graph.num_nodes, graph.edges), expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 10**6))
def test_several_graphs_at_a_time_are_each_of_them_alone(sizes, seed):
    rng = np.random.default_rng(seed)
    edges = [np.argwhere(np.triu(rng.random((n, n)) < 0.3, 1)) for n in sizes]
    found = shortest_paths_of(edges, 13, 4)
    for number, (size, rows) in enumerate(zip(sizes, edges, strict=True)):
        expected = by_search(size, rows.tolist(), 4)
        np.testing.assert_array_equal(found[number, :size, :size], expected)
        assert not found[number, size:].any() and not found[number, :, size:].any()


def test_long_chains_are_cut_off():
    edges = np.stack([np.arange(299), np.arange(1, 300)], axis=1)
    distances = shortest_paths(300, edges, 250)
    assert distances.max() == 250 and distances[0, 250] == 250 and distances[0, 251] == 0
    assert shortest_paths(300, edges).max() == 50


@pytest.mark.parametrize("cutoff", [0, 255])
def test_cutoffs_that_do_not_fit_are_refused(cutoff):
    with pytest.raises(ValueError, match=f"between 1 and 254, received {cutoff}"):
        shortest_paths(2, np.array([[0, 1]]), cutoff)
