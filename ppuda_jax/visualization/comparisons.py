"""Pictures of networks that are trained from different initialisations.

Legend: `E` evaluations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppuda_jax.visualization.axes import SERIES, count_along, finish
from ppuda_jax.visualization.files import Paths, write


def draw_comparison(
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]],
    chance: float,
    paths: Paths = None,
) -> Any:
    """Draws accuracy against steps with bands of one standard error, a panel for each optimiser.

    Args:
      curves: optimiser -> initialisation -> (steps [E], mean accuracy [E], its error [E]), in
        [0, 1].
      chance: accuracy of guessing.
      paths: file or files to write; their endings decide the formats.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: no curves.
    """
    from matplotlib.figure import Figure

    if not curves or not all(curves.values()):
        raise ValueError("curves must hold an initialisation for each optimiser, received none")
    figure = Figure(figsize=(1.2 + 4.2 * len(curves), 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (optimizer, lines) in zip(panels, curves.items(), strict=True):
        for number, (init, (steps, mean, error)) in enumerate(lines.items()):
            colour = SERIES[number % len(SERIES)]
            x, y, e = np.asarray(steps), 100 * np.asarray(mean), 100 * np.asarray(error)
            axes.fill_between(x, y - e, y + e, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.5, label=init)
        axes.set_title(optimizer, fontsize=10)
        count_along(axes, "steps of training")
        axes.margins(x=0.02)
        finish(axes, 100 * chance)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(frameon=False, fontsize=9)
    return write(figure, paths)
