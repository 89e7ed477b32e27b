"""Pictures of a meta-training run: how it learnt, and what its networks are worth.

Legend: `N` networks.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppuda_jax.visualization.axes import finish

_STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "color": "#1f6fb4", "markersize": 6},
    {"marker": "o", "color": "#8a8a8a", "markersize": 5, "markerfacecolor": "white"},
    {"marker": "^", "color": "#d9541a", "markersize": 7},
)


def draw_run(
    metrics: Sequence[Mapping[str, Any]],
    accuracies: Mapping[str, ArrayLike],
    chance: float,
    path: str | os.PathLike[str] | None = None,
    title: str = "",
) -> Any:
    """Draws the learning curve of a run, and the accuracy of networks beside it.

    Args:
      metrics: lines of `training.metrics.read_metrics`; those with `step` and `accuracy` are drawn.
      accuracies: label -> top-1 accuracy [N] in [0, 1], NaN where a network has none; up to three
        of them, and networks are sorted by the first.
      chance: accuracy of guessing, in [0, 1].
      path: file to write (the ending decides the format), None for none.
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
    if path is not None:
        figure.savefig(os.fspath(path), dpi=150)
    return figure


def _draw_curve(axes: Any, metrics: Sequence[Mapping[str, Any]], chance: float) -> None:
    points = [(row["step"], 100 * row["accuracy"]) for row in metrics if "accuracy" in row]
    steps, accuracy = np.array(points).reshape(-1, 2).T
    axes.plot(steps, accuracy, color=_STYLES[0]["color"], linewidth=1.5)
    axes.set_xlabel("step of meta-training")
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
