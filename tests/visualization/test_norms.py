"""Norms by layer."""

import numpy as np
import pytest

from ppuda_jax.archs.genotypes import VIT_CONFIG
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.visualization.norms import Layer, draw_norms, layers_of

LAYERS = (
    Layer(("a",), "kernel", 1),
    Layer(("b",), "bias", 2),
    Layer(("c",), "norm_scale", 3),
    Layer(("d",), "kernel", 4),
)


def test_layers_come_in_the_order_of_the_nodes_and_each_leaf_once():
    graph = graph_from_plan(make_plan(VIT_CONFIG))
    layers = layers_of(graph)
    assert [x.node for x in layers] == sorted(x.node for x in layers)
    assert len({x.path for x in layers}) == len(layers) == len(graph.bindings)


def test_kernels_are_drawn_by_depth_and_all_leaves_in_pairs(tmp_path):
    rows = {"predicted": [1.0, 2.0, 3.0, 4.0], "He": [10.0, 0.0, 30.0, 40.0]}
    figure = draw_norms(LAYERS, rows, tmp_path / "norms.png", "net")
    assert (tmp_path / "norms.png").stat().st_size > 1000
    depth, pairs = figure.axes
    np.testing.assert_array_equal(depth.lines[0].get_xydata(), [[1, 1], [2, 4]])
    np.testing.assert_array_equal(depth.lines[1].get_xydata(), [[1, 10], [2, 40]])
    by_label = {line.get_label(): line.get_xydata().tolist() for line in pairs.lines}
    assert by_label["kernel"] == [[1, 10], [4, 40]] and by_label["norm scale"] == [[3, 30]]
    assert by_label["bias (1 of norm 0 not shown)"] == []


@pytest.mark.parametrize("rows", [{"a": [1.0] * 4}, {"a": [1.0] * 4, "b": [1.0]}])
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="two rows of one number for each of 4 layers"):
        draw_norms(LAYERS, rows)
