"""Tables of accuracies as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.visualization.axes import SERIES, finish
from ppuda_jax.visualization.files import Paths, write


def draw_bars(
    rows: Mapping[str, Mapping[str, tuple[float, float]]],
    columns: Sequence[str],
    chance: float,
    path: Paths = None,
    title: str = "",
) -> Any:
    """Draws the rows of a table beside each other, a group of bars for each column.

    Args:
      rows: label -> column -> (accuracy, its error), in %; cells may be missing.
      columns: the columns from left to right.
      chance: accuracy of guessing, in %.
      path: file or files to write (endings decide the formats), None for none.
      title: above the picture.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: no rows or no columns.
    """
    from matplotlib.figure import Figure

    if not rows or not columns:
        raise ValueError(f"a table needs rows and columns, received {list(rows)}, {list(columns)}")
    width = 0.8 / len(rows)
    figure = Figure(figsize=(max(4.5, 1.6 + 1.0 * len(columns)), 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (label, cells) in enumerate(rows.items()):
        places = [i for i, name in enumerate(columns) if name in cells]
        heights, errors = np.array([cells[columns[i]] for i in places]).reshape(-1, 2).T
        x = np.array(places) + (number - (len(rows) - 1) / 2) * width
        colour = SERIES[(1, 0, 2, 3, 4, 5, 6)[number % len(SERIES)]]
        bars = axes.bar(x, heights, width * 0.94, color=colour, label=label, zorder=2)
        axes.errorbar(x, heights, errors, fmt="none", ecolor="black", elinewidth=0.8, zorder=3)
        axes.bar_label(bars, fmt="%.1f", fontsize=6, padding=3)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.margins(y=0.12)
    axes.set_ylabel("accuracy, %")
    if title:
        axes.set_title(title, fontsize=10)
    finish(axes, chance)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return write(figure, path)
