"""The looks that all plots of accuracies share."""

from typing import Any


def finish(axes: Any, chance: float) -> None:
    """Draws the line of chance, in %, and a quiet grid; hides the upper and right side."""
    axes.axhline(chance, color="black", linewidth=0.8, linestyle=":", label="chance")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
