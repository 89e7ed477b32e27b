"""Pictures of convolution kernels.

Legend: `H, W` taps, `I` and `O` channels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppuda_jax.visualization.files import Paths, write

_MOST_FILTERS = 64
_COLOURS = 3
_SIDE = 3.2  # inches
_GAP = 0.06  # between kernels, of their width


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
    kernel: ArrayLike | Mapping[str, ArrayLike], path: Paths = None, title: str = ""
) -> Any:
    """Draws up to 64 filters of a kernel, or of several side by side.

    Args:
      kernel: [H, W, I, O], see `filter_tiles`; or such kernels by the text above each.
      path: file or files to write (endings decide the formats), None for none.
      title: above the picture.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: no kernel of four axes, or none at all.

    Examples:
      >>> import numpy as np
      >>> import ppuda_jax as pj
      >>> kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 16))
      >>> figure = pj.draw_filters({"random": kernel}, title="16 filters")
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kernels = kernel if isinstance(kernel, Mapping) else {"": kernel}
    pictures = {label: filter_tiles(values) for label, values in kernels.items()}
    if not pictures:
        raise ValueError("kernel must hold at least one kernel, received none")
    ratio = max(tiles.shape[0] / tiles.shape[1] for tiles in pictures.values())
    lines = bool(title) + any(pictures)
    size = (_SIDE * len(pictures), _SIDE * ratio + 0.3 * lines)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=_GAP))
    panels = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (label, tiles) in zip(panels, pictures.items(), strict=True):
        shown = np.nan_to_num(tiles, nan=1.0) if tiles.ndim == 3 else np.ma.masked_invalid(tiles)
        axes.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(label, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9)
    return write(figure, path, bbox_inches="tight")
