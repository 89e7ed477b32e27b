"""Tables as bars."""

import pytest

from ppuda_jax.visualization.bars import draw_bars


def test_a_bar_for_each_cell(tmp_path):
    rows = {"ours": {"test": (25.0, 0.5), "wide": (20.0, 1.0)}, "paper": {"test": (66.9, 0.0)}}
    figure = draw_bars(rows, ("test", "wide"), 10.0, tmp_path / "bars.png", "cifar10")
    assert (tmp_path / "bars.png").stat().st_size > 1000
    (axes,) = figure.axes
    heights = [[bar.get_height() for bar in group] for group in axes.containers if len(group) < 3]
    assert [25.0, 20.0] in heights and [66.9] in heights
    assert [label.get_text() for label in axes.get_xticklabels()] == ["test", "wide"]
    assert axes.get_title() == "cifar10"


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="needs rows and columns"):
        draw_bars({}, ("test",), 10.0)
