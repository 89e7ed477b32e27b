"""The looks that all plots of accuracies share."""

from typing import Any

SERIES = ("#8a8a8a", "#1f6fb4", "#d9541a", "#3a923a", "#8f5bb5", "#b58900", "#00a0a0")
"""Colours of lines, bars and points that stand beside each other."""


def finish(axes: Any, chance: float | None = None) -> None:
    """Draws the line of chance, in %, if there is one, and a quiet grid; hides two sides."""
    if chance is not None:
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":", label="chance")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def count_along(axes: Any, of: str) -> None:
    """Labels the x axis of what is counted: it has ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel(of)
