"""Where nodes and edges of a graph are drawn: in rows by depth, which are folded into columns.

A layered drawing (Sugiyama, Tagawa and Toda, 1981): an edge that passes rows gets a way point in
each of them, which the edges of one source share; rows are ordered by the means of their
neighbours; then every point moves to that mean as far as the distances to the points beside it
allow, which is an isotonic regression.

Legend: `N` nodes, `E` edges, `P` points (nodes and way points).
"""

import dataclasses
import itertools
import math

import numpy as np
from scipy.optimize import isotonic_regression

from ppuda_jax.graphs.arch_graph import ArchGraph

_SWEEPS = 8
_WAY_POINT = 0.4  # width of a way point beside a node's 1
_WAY_POINT_PULL = 0.1  # beside a node's 1: chains stay straight, what passes them gives way
_GUTTER = 1.5  # between columns
_SHAPE = 1.3  # width to height of a drawing in several columns
_MOST_COLUMNS = 12
_ONE_COLUMN = 28  # rows that are not folded


@dataclasses.dataclass(frozen=True)
class Layout:
    """A drawing; x grows to the right, y upwards.

    Attributes:
      places: [N, 2] float, of the nodes.
      routes: for each edge, [K, 2] float: its points from source to target.
      column: [N] int, of the nodes.
      gutters: x of the gap to the left of each column but the first.
      size: (width, height).
    """

    places: np.ndarray
    routes: tuple[np.ndarray, ...]
    column: np.ndarray
    gutters: tuple[float, ...]
    size: tuple[float, float]


def node_depths(graph: ArchGraph) -> np.ndarray:
    """The row of each node: the longest path to it; sources stand just above what they feed.

    Args:
      graph: the graph.

    Returns:
      [N] int.
    """
    depth = np.zeros(graph.num_nodes, np.int64)
    for source, target in graph.edges.tolist():
        depth[target] = max(depth[target], depth[source] + 1)
    fed = np.full(graph.num_nodes, np.iinfo(np.int64).max)
    np.minimum.at(fed, graph.edges[:, 0], depth[graph.edges[:, 1]])
    others = np.bincount(graph.edges[:, 1], minlength=graph.num_nodes) == 0
    others[0] = False  # the input stays on top
    depth[others] = fed[others] - 1
    return depth


def layered(graph: ArchGraph, node_width: float = 1.0, pitch: float = 1.0) -> Layout:
    """Lays a graph out.

    Args:
      graph: the graph.
      node_width: distance between two nodes of a row.
      pitch: distance between rows.

    Returns:
      The layout, in as many columns as give it about the shape of a screen.
    """
    points = _Points(graph)
    x = points.spread()
    width = np.where(points.is_node, node_width, _WAY_POINT * node_width)
    row, rows = points.row, int(points.row.max()) + 1

    def fold(columns: int) -> tuple[np.ndarray, list[float], list[float]]:
        """Column of each point, left edge of each column, gutters."""
        column = row // math.ceil(rows / columns)
        shift, gutters, start = [], [], 0.0
        for number in range(int(column.max()) + 1):
            inside = column == number
            low = float((x * node_width - width / 2)[inside].min())
            high = float((x * node_width + width / 2)[inside].max())
            if number:
                gutters.append(start - _GUTTER / 2)
            shift.append(start - low)
            start += high - low + _GUTTER
        return column, shift, [*gutters, start - _GUTTER]

    def shape(columns: int) -> float:
        return fold(columns)[2][-1] / (pitch * math.ceil(rows / columns))

    allowed = range(1, 2 if rows <= _ONE_COLUMN else _MOST_COLUMNS + 1)
    columns = min(allowed, key=lambda n: abs(math.log(shape(n) / _SHAPE)))
    column, shift, (*gutters, total) = fold(columns)
    height = math.ceil(rows / columns)
    places = np.stack(
        [x * node_width + np.array(shift)[column], -pitch * (row % height).astype(float)], axis=1
    )
    routes = tuple(places[route] for route in points.routes)
    number = graph.num_nodes
    return Layout(places[:number], routes, column[:number], tuple(gutters), (total, pitch * height))


class _Points:
    """Nodes and way points.

    Attributes:
      row: [P] int.
      is_node: [P] bool; the nodes come first.
      routes: the points of each edge, from source to target.
    """

    def __init__(self, graph: ArchGraph) -> None:
        row = node_depths(graph).tolist()
        shared: dict[tuple[int, int], int] = {}  # (source, row) -> way point
        links: set[tuple[int, int]] = set()
        self.routes: list[list[int]] = []
        for source, target in graph.edges.tolist():
            route = [source]
            for between in range(row[source] + 1, row[target]):
                if (source, between) not in shared:
                    shared[source, between] = len(row)
                    row.append(between)
                route.append(shared[source, between])
            route.append(target)
            self.routes.append(route)
            links.update(itertools.pairwise(route))
        self.row = np.array(row)
        self.is_node = np.arange(len(row)) < graph.num_nodes
        self._above: list[list[int]] = [[] for _ in row]
        self._below: list[list[int]] = [[] for _ in row]
        for upper, lower in sorted(links):
            self._above[lower].append(upper)
            self._below[upper].append(lower)

    def spread(self) -> np.ndarray:
        """The x of each point, [P], in units of a node's width."""
        rows = [np.flatnonzero(self.row == r).tolist() for r in range(int(self.row.max()) + 1)]
        place = np.zeros(len(self.row))
        for members in rows:
            place[members] = np.arange(len(members)) - (len(members) - 1) / 2
        for sweep in range(_SWEEPS):
            for members in rows if sweep % 2 == 0 else rows[::-1]:
                wanted = self._wanted(members, place, sweep % 2 == 0)
                members[:] = [m for _, m in sorted(zip(wanted, members, strict=True))]
                place[members] = np.arange(len(members)) - (len(members) - 1) / 2
        for sweep in range(2 * _SWEEPS):
            for members in rows if sweep % 2 == 0 else rows[::-1]:
                wanted = self._wanted(members, place, sweep % 2 == 0)
                place[members] = self._apart(members, np.array(wanted))
        return place

    def _wanted(self, members: list[int], place: np.ndarray, down: bool) -> list[float]:
        """The mean of the neighbours in the row before; where there are none, of those after.

        Nodes count before way points, so that a skip connection bows around a straight chain.
        """
        first, second = (self._above, self._below) if down else (self._below, self._above)
        near = [first[m] or second[m] for m in members]
        near = [[n for n in some if self.is_node[n]] or some for some in near]
        return [
            float(place[n].mean()) if n else float(place[m])
            for m, n in zip(members, near, strict=True)
        ]

    def _apart(self, members: list[int], wanted: np.ndarray) -> np.ndarray:
        """The places nearest to the wanted ones at which the points of a row do not touch."""
        widths = np.where(self.is_node[members], 1.0, _WAY_POINT)
        offsets = np.cumsum((widths + np.concatenate([widths[:1], widths[:-1]])) / 2)
        weights = np.where(self.is_node[members], 1.0, _WAY_POINT_PULL)
        return isotonic_regression(wanted - offsets, weights=weights).x + offsets
