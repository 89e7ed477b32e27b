"""Places of nodes and edges."""

import numpy as np
import pytest

from ppuda_jax.archs.genotypes import VIT_CONFIG
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.visualization.layered import layered, node_depths

GRAPHS = {
    "vit": graph_from_plan(make_plan(VIT_CONFIG)),
    "dense": graph_from_plan(make_plan(arch_at("dense", 0))),
    "one": ArchGraph([PRIMITIVE_IDS["input"]], np.zeros((0, 2)), np.zeros((1, 4))),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_are_longest_paths(name):
    graph = GRAPHS[name]
    depth = node_depths(graph)
    assert depth[0] == 0
    assert (depth[graph.edges[:, 0]] < depth[graph.edges[:, 1]]).all()
    for node in set(range(1, graph.num_nodes)) & set(graph.edges[:, 1].tolist()):
        assert depth[node] == 1 + max(depth[graph.edges[graph.edges[:, 1] == node, 0]])


def test_other_sources_stand_just_above_what_they_feed():
    graph, depth = GRAPHS["vit"], node_depths(GRAPHS["vit"])
    (encoding,) = np.flatnonzero(np.array(graph.primitive_names) == "pos_enc")
    (target,) = graph.edges[graph.edges[:, 0] == encoding, 1]
    assert depth[target] - depth[encoding] == 1 and depth[encoding] == 1


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("width", [1.2, 3.4])
def test_nodes_keep_their_distance_and_edges_run_down(name, width):
    graph = GRAPHS[name]
    layout = layered(graph, width)
    places = layout.places
    assert np.isfinite(places).all()
    for y in np.unique(places[:, 1]):
        for column in np.unique(layout.column):
            row = np.sort(places[(places[:, 1] == y) & (layout.column == column), 0])
            assert (np.diff(row) >= width - 1e-9).all()
    gutters = (-1e9, *layout.gutters, 1e9)
    assert (places[:, 0] > np.take(gutters, layout.column)).all()
    assert (places[:, 0] < np.take(gutters, layout.column + 1)).all()
    assert places[:, 0].min() >= 0 and places[:, 0].max() <= layout.size[0]
    assert len(layout.routes) == graph.num_edges
    for (source, target), route in zip(graph.edges.tolist(), layout.routes, strict=True):
        np.testing.assert_array_equal(route[[0, -1]], places[[source, target]])
        steps = np.diff(route[:, 1])
        assert ((steps == -1) | (steps > 0)).all()  # one row down, or up to the next column


def test_a_chain_is_straight_and_what_skips_it_bows():
    kinds = [PRIMITIVE_IDS[k] for k in ("input", "conv", "bn", "conv", "sum")]
    graph = ArchGraph(kinds, [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]], np.zeros((5, 4)))
    layout = layered(graph)
    x = layout.places[:, 0]
    assert np.ptp(x[1:4]) < 1e-6
    skip = layout.routes[graph.edges.tolist().index([0, 4])]
    assert (np.abs(skip[1:-1, 0] - x[1]) > 0.6).all()


def test_a_deep_graph_has_the_shape_of_a_screen():
    kinds = [PRIMITIVE_IDS[k] for k in ["input", *["conv"] * 499]]
    graph = ArchGraph(kinds, [[i, i + 1] for i in range(499)], np.zeros((500, 4)))
    layout = layered(graph, 3.4)
    assert 0.7 < layout.size[0] / layout.size[1] < 2.2 and len(layout.gutters) > 3
