"""Drawings of graphs, coloured by kind as in the paper (figure 1 and appendix A).

Legend: N nodes, E edges, V virtual edges.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.virtual_edges import MAX_DISTANCE
from ppuda_jax.primitives import PRIMITIVES
from ppuda_jax.visualization.files import Paths, write
from ppuda_jax.visualization.layered import Layout, layered

_ORDER = (
    "sep_conv",
    "dil_conv",
    "conv",
    "bias",
    "msa",
    "cse",
    "bn",
    "ln",
    "pos_enc",
    "max_pool",
    "avg_pool",
    "glob_avg",
    "sum",
    "concat",
    "input",
)
_FIXED = {"bias": (1.0, 0.0, 1.0), "msa": (0.04, 0.04, 0.04), "ln": (1.0, 1.0, 0.0)}
_SQUARES = ("bn", "ln", "pos_enc", "input")

_UNIT = 0.2  # inches between rows
_NODE, _LABELLED = 1.2, 3.9  # width of a node in units, without and with its kind beside it
_DOT = 30.0  # area of a node, in square points
_LEGEND, _ENTRY = 1.4, 0.17  # inches: width of the legend, height of a line of it


def kind_colours() -> dict[str, tuple[float, float, float]]:
    """The colour of each kind of node, as (red, green, blue) from 0 to 1."""
    from matplotlib import colormaps

    jet = colormaps["jet"]
    colours = {kind: jet(i / len(_ORDER))[:3] for i, kind in enumerate(_ORDER)}
    return colours | _FIXED


def draw_graph(
    graph: Any,
    path: Paths = None,
    labels: bool = False,
    *,
    virtual_edges: int = 1,
    title: str = "",
) -> Any:
    """Draws a graph from the input down, in several columns where it is deep.

    Args:
      graph: `ArchGraph` or the GraphsTuple of one architecture.
      path: file or files to write (endings decide the formats), None for none.
      labels: writes the kind beside each node.
      virtual_edges: longest path whose virtual edge is drawn, up to the published cutoff 50; 1
        draws the one-hop edges alone.
      title: above the drawing; numbers of nodes and edges follow it.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: `virtual_edges` is not between 1 and 50.

    Examples:
      >>> import ppuda_jax as pj
      >>> from ppuda_jax.archs.sampling import arch_at
      >>> graph = pj.network_graph(arch_at("test", 12).to_dict())
      >>> figure = pj.draw_graph(graph, labels=True, title="test-12")
    """
    from matplotlib.figure import Figure

    if not 1 <= virtual_edges <= MAX_DISTANCE:
        raise ValueError(
            f"virtual_edges must be between 1 and {MAX_DISTANCE}, received {virtual_edges}"
        )
    arch = ArchGraph.of(graph)
    layout = layered(arch, _LABELLED if labels else _NODE)
    width, height = (_UNIT * (size + 2) for size in layout.size)
    legend = _ENTRY * (len(set(arch.primitive_names)) + 3)
    figure = Figure(figsize=(max(width, 2.0) + _LEGEND, max(height + 0.2, legend)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.0, figure.get_figwidth() / _UNIT - 1.0)
    axes.set_ylim(2.0 - figure.get_figheight() / _UNIT, 2.0)
    counts = [f"{arch.num_nodes} nodes, {arch.num_edges} edges"]
    if virtual_edges > 1:
        counts.append(f"{_draw_virtual(axes, arch, layout, virtual_edges)} virtual edges")
    _draw_edges(axes, layout)
    _draw_nodes(axes, arch, layout, labels)
    text = ", ".join(counts)
    axes.text(-0.6, 1.6, f"{title}: {text}" if title else text, fontsize=8, va="top")
    return write(figure, path)


def _draw_nodes(axes: Any, arch: ArchGraph, layout: Layout, labels: bool) -> None:
    colours, kinds = kind_colours(), np.array(arch.primitive_names)
    for kind in PRIMITIVES:
        members = kinds == kind
        if not members.any():
            continue
        axes.scatter(
            *layout.places[members].T,
            s=_DOT,
            color=[colours[kind]],
            edgecolors="#555555",
            linewidths=0.5,
            marker="s" if kind in _SQUARES else "o",
            label=f"{kind}  {members.sum()}",
            zorder=3,
        )
    if labels:
        for (x, y), kind in zip(layout.places, kinds, strict=True):
            axes.text(x + 0.35, y, kind, fontsize=6, va="center", ha="left", zorder=4)
    axes.legend(
        fontsize=7,
        loc="upper right",
        bbox_to_anchor=(1.0, 1.0 - 0.3 / axes.figure.get_figheight()),
        frameon=False,
    )


def _draw_edges(axes: Any, layout: Layout) -> None:
    """Draws curves that leave and arrive straight down; between columns through the gap."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    drawn = set()
    points: list[Sequence[float]] = []
    codes: list[Any] = []
    bottom = -layout.size[1]
    for route in layout.routes:
        for start, end in zip(route[:-1].tolist(), route[1:].tolist(), strict=True):
            if (*start, *end) in drawn:  # edges of one source share their way points
                continue
            drawn.add((*start, *end))
            (x0, y0), (x1, y1) = start, end
            if y1 < y0:
                middle = (y0 + y1) / 2
                points += [start, (x0, middle), (x1, middle), end]
                codes += [Path.MOVETO, *[Path.CURVE4] * 3]
            else:
                gap = max(gutter for gutter in layout.gutters if gutter < x1)
                low, high = (gap, bottom + 2.0), (gap, -2.0)
                points += [start, (x0, bottom - 0.8), (gap, bottom - 0.8), low]
                points += [high, (gap, 1.2), (x1, 1.2), end]
                codes += [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    if points:
        patch = PathPatch(Path(points, codes), fill=False, color="#777777", linewidth=0.6, zorder=2)
        axes.add_patch(patch)


def _draw_virtual(axes: Any, arch: ArchGraph, layout: Layout, longest: int) -> int:
    """Draws bows, the paler the longer the path; returns their number."""
    from matplotlib import colormaps
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    distance = arch.distances(longest)
    sources, targets = np.nonzero(distance > 1)
    lengths = distance[sources, targets]
    start, end = layout.places[sources], layout.places[targets]
    # A bow to the left, so that the edges of a chain do not lie on one line.
    along = end - start
    bend = np.stack([-np.abs(along[:, 1]), along[:, 0]], axis=1) * 0.25
    middle = (start + end) / 2 + bend  # [V, 2]
    codes = [Path.MOVETO, Path.CURVE3, Path.CURVE3]
    curves = [Path(points, codes) for points in np.stack([start, middle, end], axis=1)]
    share = (lengths - 2) / max(1, longest - 2)
    colours = colormaps["viridis"](share)
    colours[:, 3] = 0.5 / np.sqrt(lengths)
    axes.add_collection(
        PathCollection(
            curves, facecolors="none", edgecolors=colours, linewidths=0.4, zorder=1, rasterized=True
        )
    )
    return len(curves)
