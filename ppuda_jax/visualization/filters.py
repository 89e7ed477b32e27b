"""Pictures of convolution kernels.

Legend: `H, W` taps, `I` and `O` channels.
"""

import math
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_MOST_FILTERS = 64
_COLOURS = 3


def filter_tiles(kernel: ArrayLike) -> np.ndarray:
    """Lays out the filters of a kernel as one image.

    Args:
      kernel: [H, W, I, O]; of three input channels they are the colours, else the first one is
        taken.

    Returns:
      float in [0, 1]: [rows * (H + 1) - 1, columns * (W + 1) - 1, 3], or without the last axis
      where there are no colours; NaN between the filters. Each filter has its own scale, zero is
      0.5.

    Raises:
      ValueError: no kernel of four axes.
    """
    values = np.asarray(kernel, np.float64)
    if values.ndim != 4:
        raise ValueError(
            f"a kernel has the axes height, width, input, output; received {values.shape}"
        )
    values = values[..., :_MOST_FILTERS]
    if values.shape[2] != _COLOURS:
        values = values[:, :, :1]
    height, width, channels, number = values.shape
    largest = np.abs(values).max(axis=(0, 1, 2))
    values = 0.5 + 0.5 * values / np.where(largest > 0, largest, 1.0)
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.nan)
    for place in range(number):
        row, column = divmod(place, columns)
        y, x = row * (height + 1), column * (width + 1)
        picture[y : y + height, x : x + width] = values[..., place]
    return picture if channels == _COLOURS else picture[..., 0]


def draw_filters(
    kernel: ArrayLike, path: str | os.PathLike[str] | None = None, title: str = ""
) -> Any:
    """Draws up to 64 filters of a kernel.

    Args:
      kernel: [H, W, I, O]; see `filter_tiles`.
      path: file to write (the ending decides the format), None for none.
      title: above the picture.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: no kernel of four axes.
    """
    from matplotlib.figure import Figure

    tiles = filter_tiles(kernel)
    shown = np.nan_to_num(tiles, nan=1.0) if tiles.ndim == 3 else np.ma.masked_invalid(tiles)
    figure = Figure(figsize=(3.2, 3.2 * tiles.shape[0] / tiles.shape[1] + 0.3 * bool(title)))
    axes = figure.add_subplot()
    axes.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9)
    if path is not None:
        figure.savefig(os.fspath(path), bbox_inches="tight", dpi=150)
    return figure
