"""Drawings of graphs, coloured by kind as in the paper (figure 1 and appendix A).

networkx, of the extra `plot`, is imported when something is drawn.

Legend: N nodes.
"""

import os
from typing import Any

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.primitives import PRIMITIVES

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


def kind_colours() -> dict[str, tuple[float, float, float]]:
    """The colour of each kind of node, as (red, green, blue) from 0 to 1."""
    from matplotlib import colormaps

    jet = colormaps["jet"]
    colours = {kind: jet(i / len(_ORDER))[:3] for i, kind in enumerate(_ORDER)}
    return colours | _FIXED


def node_positions(graph: ArchGraph) -> np.ndarray:
    """Places nodes in rows by depth.

    Args:
      graph: the graph.

    Returns:
      [N, 2] float: x spreads the nodes of one depth, y is minus the depth.
    """
    depth = np.zeros(graph.num_nodes, np.int64)
    for source, target in graph.edges.tolist():
        depth[target] = max(depth[target], depth[source] + 1)
    # Sources other than the input (positional encodings) stand just above what they feed.
    for source, target in graph.edges.tolist()[::-1]:
        if source and not (graph.edges[:, 1] == source).any():
            depth[source] = depth[target] - 1
    positions = np.zeros((graph.num_nodes, 2))
    for level in np.unique(depth):
        members = np.flatnonzero(depth == level)
        positions[members, 0] = np.arange(members.size) - (members.size - 1) / 2
        positions[members, 1] = -level
    return positions


def draw_graph(graph: Any, path: str | os.PathLike[str] | None = None, labels: bool = False) -> Any:
    """Draws a graph, one-hop edges only.

    Args:
      graph: `ArchGraph` or the GraphsTuple of one architecture.
      path: file to write (the ending decides the format), None for none.
      labels: writes the kind beside each node.

    Returns:
      The matplotlib figure.

    Raises:
      ImportError: without networkx (install the extra `plot`).
    """
    from matplotlib.figure import Figure

    try:
        import networkx
    except ImportError as error:
        raise ImportError(
            "drawing a graph needs networkx: pip install 'ppuda_jax[plot]'"
        ) from error
    arch = graph if isinstance(graph, ArchGraph) else ArchGraph.from_graphs_tuple(graph)
    colours, places = kind_colours(), node_positions(arch)
    height = min(60.0, max(4.0, 0.16 * float(-places[:, 1].min())))
    figure = Figure(figsize=(6.0, height))
    axes = figure.add_subplot()
    network = networkx.DiGraph()
    network.add_nodes_from(range(arch.num_nodes))
    network.add_edges_from(arch.edges.tolist())
    where = {node: tuple(place) for node, place in enumerate(places)}
    kinds = np.array(arch.primitive_names)
    for kind in PRIMITIVES:
        members = np.flatnonzero(kinds == kind).tolist()
        if members:
            networkx.draw_networkx_nodes(
                network,
                where,
                nodelist=members,
                ax=axes,
                node_size=28,
                linewidths=0.5,
                node_color=[colours[kind]],
                edgecolors="gray",
                label=kind,
                node_shape="s" if kind in _SQUARES else "o",
            )
    networkx.draw_networkx_edges(network, where, ax=axes, node_size=28, width=0.5, arrowsize=5)
    if labels:
        shifted = {node: (x + 0.05, y) for node, (x, y) in where.items()}
        networkx.draw_networkx_labels(
            network,
            shifted,
            dict(enumerate(kinds)),
            font_size=5,
            ax=axes,
            horizontalalignment="left",
        )
    axes.legend(fontsize=6, loc="upper right", markerscale=0.7)
    axes.set_axis_off()
    if path is not None:
        figure.savefig(os.fspath(path), bbox_inches="tight", dpi=150)
    return figure
