"""Pictures of runs."""

import numpy as np
import pytest

from ppuda_jax.visualization import draw_run
from ppuda_jax.visualization.comparisons import draw_comparison
from ppuda_jax.visualization.runs import draw_curves

METRICS = [
    {"step": 10, "accuracy": 0.125},
    {"step": 15, "val_accuracy": 0.9},
    {"step": 20, "accuracy": 0.5},
]


def test_curve_and_networks_are_drawn_in_percent_the_best_network_first(tmp_path):
    rows = {"after": [0.25, 0.75, 0.5], "SGD": [np.nan, 1.0, np.nan]}
    figure = draw_run(METRICS, rows, 0.1, tmp_path / "run.png", "three networks")
    assert (tmp_path / "run.png").stat().st_size > 1000
    curve, networks = figure.axes
    np.testing.assert_array_equal(curve.lines[0].get_xydata(), [[10, 12.5], [20, 50]])
    np.testing.assert_array_equal(networks.lines[0].get_xydata(), [[1, 75], [2, 50], [3, 25]])
    np.testing.assert_array_equal(networks.lines[1].get_ydata(), [100, np.nan, np.nan])
    labels = [text.get_text() for text in networks.get_legend().get_texts()]
    assert labels == ["after", "SGD", "chance"]
    assert networks.get_title() == "three networks"


def test_a_run_without_metrics_has_an_empty_curve():
    figure = draw_run([], {"after": [0.5]}, 0.1)
    assert figure.axes[0].lines[0].get_xydata().shape == (0, 2)


@pytest.mark.parametrize(
    "rows", [{}, {"a": [0.1], "b": [0.1, 0.2]}, {key: [0.1] for key in "abcd"}]
)
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="one to 3 rows of one length, received"):
        draw_run([], rows, 0.1)


def test_curves_of_a_run(tmp_path):
    metrics = [*METRICS, {"step": 20, "loss": 1.5}]
    figure = draw_curves(metrics, 0.1, [tmp_path / "curves.png", tmp_path / "curves.svg"])
    assert (tmp_path / "curves.png").stat().st_size > 1000 and (tmp_path / "curves.svg").exists()
    accuracy, loss = figure.axes  # no line holds a rate
    by_label = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert by_label["accuracy"] == [[10, 12.5], [20, 50]]
    assert by_label["val accuracy"] == [[15, 90]] and "chance" in by_label
    assert loss.lines[0].get_xydata().tolist() == [[20, 1.5]]


def test_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="must hold one of accuracy, val_accuracy, loss"):
        draw_curves([{"step": 1, "seconds": 2.0}], 0.1)


def test_steps_are_whole_numbers():
    curve = (np.arange(0, 19, 3), np.linspace(0.1, 0.2, 7), np.zeros(7))
    figure = draw_comparison({"sgd": {"he": curve}}, 0.1)
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) > 2 and all(tick == round(tick) for tick in ticks)
    with pytest.raises(ValueError, match="curves must hold an initialisation"):
        draw_comparison({"sgd": {}}, 0.1)
