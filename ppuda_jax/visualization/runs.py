"""Pictures of a meta-training run: how it learnt, and what its networks are worth.

Legend: `N` networks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppuda_jax.visualization.axes import SERIES, count_along, finish
from ppuda_jax.visualization.files import Paths, write

_STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "color": "#1f6fb4", "markersize": 6},
    {"marker": "o", "color": "#8a8a8a", "markersize": 5, "markerfacecolor": "white"},
    {"marker": "^", "color": "#d9541a", "markersize": 7},
)

_PERCENT = 100
_PANELS: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    ("accuracy, %", ("accuracy", "val_accuracy"), _PERCENT, "linear"),
    ("loss", ("loss",), 1, "log"),
    ("learning rate", ("learning_rate",), 1, "linear"),
    ("norm of the gradient", ("grad_norm",), 1, "log"),
)
"""Title, names in the metrics, factor, scale."""

_FEW = 40  # points that are marked one by one


def draw_run(
    metrics: Sequence[Mapping[str, Any]],
    accuracies: Mapping[str, ArrayLike],
    chance: float,
    path: Paths = None,
    title: str = "",
) -> Any:
    """Draws the learning curve of a run, and the accuracy of networks beside it.

    Args:
      metrics: lines of `training.metrics.read_metrics`; those with `step` and `accuracy` are drawn.
      accuracies: label -> top-1 accuracy [N] in [0, 1], NaN where a network has none; up to three
        of them, and networks are sorted by the first.
      chance: accuracy of guessing, in [0, 1].
      path: file or files to write (endings decide the formats), None for none.
      title: above the networks.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: no accuracies, more than three of them, or of different lengths.
    """
    from matplotlib.figure import Figure

    rows = {label: 100 * np.asarray(values, np.float64) for label, values in accuracies.items()}
    lengths = {row.shape for row in rows.values()}
    if not 0 < len(rows) <= len(_STYLES) or len(lengths) != 1:
        raise ValueError(
            f"accuracies must be one to {len(_STYLES)} rows of one length, received "
            f"{ {label: row.shape for label, row in rows.items()} }"
        )
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _draw_curve(left, metrics, 100 * chance)
    _draw_networks(right, rows, 100 * chance)
    right.set_title(title, fontsize=10)
    return write(figure, path)


def draw_curves(metrics: Sequence[Mapping[str, Any]], chance: float, path: Paths = None) -> Any:
    """Draws what a run logged: accuracy, loss, learning rate and gradient norm against steps.

    Args:
      metrics: lines of `training.metrics.read_metrics`.
      chance: accuracy of guessing, in [0, 1].
      path: file or files to write (endings decide the formats), None for none.

    Returns:
      The matplotlib figure; quantities that no line holds have no panel.

    Raises:
      ValueError: no line holds any of them.
    """
    from matplotlib.figure import Figure

    shown = [panel for panel in _PANELS if any(name in row for name in panel[1] for row in metrics)]
    if not shown:
        known = ", ".join(name for panel in _PANELS for name in panel[1])
        raise ValueError(f"metrics must hold one of {known}, received none of them")
    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (title, names, factor, scale) in zip(panels, shown, strict=True):
        for number, name in enumerate(names):
            points = [(row["step"], factor * row[name]) for row in metrics if name in row]
            if points:
                style = {"marker": "o", "markersize": 3} if len(points) < _FEW else {}
                label = name.replace("_", " ")
                axes.plot(*np.array(points).T, color=SERIES[1 + number], label=label, **style)
        axes.set_yscale(scale)
        count_along(axes, "step of meta-training")
        axes.set_title(title, fontsize=10)
        finish(axes, 100 * chance if factor == _PERCENT else None)
        axes.legend(frameon=False, fontsize=8)
    return write(figure, path)


def _draw_curve(axes: Any, metrics: Sequence[Mapping[str, Any]], chance: float) -> None:
    points = [(row["step"], 100 * row["accuracy"]) for row in metrics if "accuracy" in row]
    steps, accuracy = np.array(points).reshape(-1, 2).T
    axes.plot(steps, accuracy, color=_STYLES[0]["color"], linewidth=1.5)
    count_along(axes, "step of meta-training")
    axes.set_ylabel("accuracy on training images, %")
    axes.set_title("learning curve", fontsize=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    finish(axes, chance)


def _draw_networks(axes: Any, rows: Mapping[str, np.ndarray], chance: float) -> None:
    order = np.argsort(-next(iter(rows.values())), kind="stable")
    places = np.arange(1, len(order) + 1)
    for (label, row), style in zip(rows.items(), _STYLES, strict=False):
        axes.plot(places, row[order], linestyle="none", label=label, zorder=3, **style)
    axes.set_xlabel("architecture, the best first")
    axes.set_ylabel("top-1 accuracy on test images, %")
    axes.set_xticks(places)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(0, 100)
    finish(axes, chance)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)
