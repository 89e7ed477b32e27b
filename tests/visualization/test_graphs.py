"""Tables and drawings of graphs."""

import jax
import pytest

from ppuda_jax.archs.genotypes import VIT_CONFIG
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.describe import describe
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.primitives import PRIMITIVES
from ppuda_jax.tracing.api import trace
from ppuda_jax.visualization.graphs import draw_graph, kind_colours, node_positions
from tests.tracing import modern_models, plain_models, plain_structures

CASES = {**plain_models.CASES, **plain_structures.CASES, **modern_models.CASES}


def table(name):
    with jax.numpy_rank_promotion("allow"):
        return describe(trace(*CASES[name][0]()))


def test_the_table_has_a_line_for_each_node_and_each_unbound_leaf():
    lines = table("residual_gain").splitlines()
    assert lines[0].split() == ["node", "kind", "shape", "from", "leaf"]
    assert lines[2].split() == ["1", "conv", "12x12x1x1", "0", "w", "(kernel)"]
    assert lines[-1] == "6 nodes, 6 edges, 4 bindings"
    lines = table("unused_leaf").splitlines()
    assert lines[-1] == "not predicted: never (3,): it does not influence the output"


def test_parts_of_stacked_leaves_are_shown():
    assert "w[2,0:12,0:12] (kernel)" in table("scan_over_layers")


def test_every_kind_has_its_colour():
    assert set(kind_colours()) == set(PRIMITIVES)
    assert len(set(kind_colours().values())) == len(PRIMITIVES)


@pytest.mark.parametrize("suffix", ["png"])
def test_drawing(tmp_path, suffix):
    graph = graph_from_plan(make_plan(VIT_CONFIG))
    figure = draw_graph(graph, tmp_path / f"vit.{suffix}", labels=True)
    assert (tmp_path / f"vit.{suffix}").stat().st_size > 1000
    texts = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert texts == set(graph.primitive_names)


def test_rows_follow_the_edges():
    graph = graph_from_plan(make_plan(VIT_CONFIG))
    heights = node_positions(graph)[:, 1]
    assert all(heights[a] > heights[b] for a, b in graph.edges.tolist())
