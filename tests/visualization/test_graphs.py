"""Tables and drawings of graphs."""

import collections

import jax
import numpy as np
import pytest

from ppuda_jax.archs.genotypes import VIT_CONFIG
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.describe import describe
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.primitives import PRIMITIVE_IDS, PRIMITIVES
from ppuda_jax.tracing.api import trace
from ppuda_jax.visualization.graphs import draw_graph, kind_colours
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


def chain(length):
    kinds = ["input", *["conv"] * (length - 1)]
    edges = [[i, i + 1] for i in range(length - 1)]
    return ArchGraph([PRIMITIVE_IDS[k] for k in kinds], edges, np.zeros((length, 4)))


def test_drawing(tmp_path):
    graph = graph_from_plan(make_plan(VIT_CONFIG))
    files = [tmp_path / "vit.png", tmp_path / "vit.svg"]
    figure = draw_graph(graph, files, labels=True, title="vit")
    assert all(file.stat().st_size > 1000 for file in files)
    texts = [text.get_text().split() for text in figure.axes[0].get_legend().get_texts()]
    assert {kind: int(n) for kind, n in texts} == collections.Counter(graph.primitive_names)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(shown[:-1]) == sorted(graph.primitive_names)
    assert shown[-1] == f"vit: {graph.num_nodes} nodes, {graph.num_edges} edges"


@pytest.mark.parametrize("graph", [chain(2), chain(20), chain(90)], ids=["2", "20", "90"])
def test_no_label_is_clipped(graph):
    figure = draw_graph(graph, labels=True)
    figure.draw_without_rendering()
    page = figure.bbox
    for text in [*figure.axes[0].texts, *figure.axes[0].get_legend().get_texts()]:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()


def test_virtual_edges_are_drawn_on_request():
    graph = chain(6)
    figure = draw_graph(graph, virtual_edges=3)
    curves = [c for c in figure.axes[0].collections if not c.get_label().startswith(("conv", "in"))]
    assert [len(c.get_paths()) for c in curves] == [4 + 3]
    assert "5 edges, 7 virtual edges" in figure.axes[0].texts[-1].get_text()
    for wrong in (0, 51):
        with pytest.raises(ValueError, match=f"between 1 and 50, received {wrong}"):
            draw_graph(graph, virtual_edges=wrong)
