"""Norms of predicted parameters beside those of others, layer by layer.

Legend: `L` leaves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.types import Role
from ppuda_jax.visualization.axes import SERIES, finish
from ppuda_jax.visualization.files import Paths, write

_MARKERS: Mapping[Role, str] = {
    "kernel": "o",
    "bias": "^",
    "norm_scale": "s",
    "norm_bias": "v",
    "pos_enc": "D",
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A parameter leaf in the order of the computation.

    Attributes:
      path: its keys.
      role: what it does.
      node: of the graph.
    """

    path: tuple[str, ...]
    role: Role
    node: int


def layers_of(graph: ArchGraph) -> tuple[Layer, ...]:
    """The leaves that are predicted, in the order of their nodes; a stacked leaf is one layer."""
    bindings = sorted(graph.bindings, key=lambda b: b.node)
    found = {b.path: Layer(b.path, b.role, b.node) for b in reversed(bindings)}
    return tuple(reversed(found.values()))


def draw_norms(
    layers: Sequence[Layer],
    norms: Mapping[str, Sequence[float]],
    path: Paths = None,
    title: str = "",
) -> Any:
    """Draws Frobenius norms of kernels against depth, and of all leaves against each other.

    Args:
      layers: the leaves, [L].
      norms: label -> norm of each leaf [L]; the first is compared with the second.
      path: file or files to write (endings decide the formats), None for none.
      title: above the picture.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: other than two rows of norms, or rows of other lengths than `layers`.
    """
    from matplotlib.figure import Figure

    rows = {label: np.asarray(values, np.float64) for label, values in norms.items()}
    shapes = {label: row.shape for label, row in rows.items()}
    if len(rows) != 2 or set(shapes.values()) != {(len(layers),)} or not layers:
        raise ValueError(
            f"norms must be two rows of one number for each of {len(layers)} layers, at least one, "
            f"received {shapes}"
        )
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_depth(left, layers, rows)
    _draw_pairs(right, layers, rows)
    if title:
        figure.suptitle(title, fontsize=10)
    return write(figure, path)


def _draw_depth(axes: Any, layers: Sequence[Layer], rows: Mapping[str, np.ndarray]) -> None:
    kernels = np.array([layer.role == "kernel" for layer in layers])
    for (label, row), colour in zip(rows.items(), (SERIES[1], SERIES[0]), strict=True):
        axes.plot(
            np.arange(1, kernels.sum() + 1),
            _positive(row[kernels]),
            marker="o",
            markersize=3,
            linewidth=1.0,
            color=colour,
            label=label,
        )
    axes.set_yscale("log")
    axes.set_xlabel("kernel, from the input on")
    axes.set_ylabel("Frobenius norm")
    axes.set_title("kernels by depth", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    finish(axes)


def _draw_pairs(axes: Any, layers: Sequence[Layer], rows: Mapping[str, np.ndarray]) -> None:
    (first, x), (second, y) = ((label, _positive(row)) for label, row in rows.items())
    shown = np.isfinite(x) & np.isfinite(y)
    for number, (role, marker) in enumerate(_MARKERS.items()):
        members = np.array([layer.role == role for layer in layers])
        if not members.any():
            continue
        label, hidden = role.replace("_", " "), int((members & ~shown).sum())
        axes.plot(
            x[members & shown],
            y[members & shown],
            linestyle="none",
            marker=marker,
            markersize=4,
            color=SERIES[1 + number],
            label=f"{label} ({hidden} of norm 0 not shown)" if hidden else label,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    if shown.any():
        ends = np.array([min(x[shown].min(), y[shown].min()), max(x[shown].max(), y[shown].max())])
        axes.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    axes.set_title("norms of all leaves", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    finish(axes)


def _positive(values: np.ndarray) -> np.ndarray:
    """The values with NaN for what a logarithmic axis cannot show."""
    return np.where(values > 0, values, np.nan)
