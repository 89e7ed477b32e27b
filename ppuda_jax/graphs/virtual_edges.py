"""Virtual edges: the lengths of the shortest directed paths between nodes, up to a cutoff.

Paper, section 3.2: every pair of nodes joined by a path of at most s_max = 50 edges gets an
edge that carries the path's length.

Legend: N nodes, E edges.
"""

from collections.abc import Sequence

import numpy as np

MAX_DISTANCE = 50
"""The published cutoff s_max: the longest shortest path that gets a virtual edge."""

_UNREACHABLE = 255  # of uint8; one more than the longest cutoff


def shortest_paths(
    num_nodes: int, edges: np.ndarray, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """Computes the shortest path lengths of a graph whose nodes are in topological order.

    Args:
      num_nodes: N.
      edges: [E, 2] integers, one-hop edges (from, to) with from < to.
      max_distance: lengths above it count as no path; from 1 to 254.

    Returns:
      [N, N] uint8: entry (u, v) is the length of the shortest path from u to v, 0 if there is
      none of at most `max_distance` edges; 1 marks real edges.

    Raises:
      ValueError: if `max_distance` does not fit.
    """
    return shortest_paths_of([edges], num_nodes, max_distance)[0]


def shortest_paths_of(
    edges: Sequence[np.ndarray], num_nodes: int, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """`shortest_paths` of several graphs, padded to one size, at a fraction of the time for each.

    Walks the nodes from the last to the first: the distances from a node are one more than
    the smallest of its successors' distances, which is exact in a graph without cycles.

    Args:
      edges: of B graphs, [E, 2] integers each, one-hop edges (from, to) with from < to.
      num_nodes: N, at least the nodes of the largest graph.
      max_distance: lengths above it count as no path; from 1 to 254.

    Returns:
      [B, N, N] uint8, see `shortest_paths`; zeros for nodes that a graph does not have.

    Raises:
      ValueError: if `max_distance` does not fit.
    """
    if not 1 <= max_distance < _UNREACHABLE:
        raise ValueError(f"max_distance must be between 1 and 254, received {max_distance}.")
    graphs = len(edges)
    graph = np.repeat(np.arange(graphs), [len(rows) for rows in edges])
    source, target = np.concatenate([np.zeros((0, 2), np.int64), *edges]).T.astype(np.int64)
    if max_distance == 1:
        distance = np.zeros((graphs, num_nodes, num_nodes), np.uint8)
        distance[graph, source, target] = 1
        return distance
    # The n-th successors of a node in all graphs that have one are taken together.
    key = source * graphs + graph
    by_key = np.argsort(key, kind="stable")
    key = key[by_key]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    turn = np.arange(len(key)) - np.repeat(first, np.diff(first, append=len(key)))
    order = np.lexsort((turn, source[by_key]))
    rows = (graph * num_nodes + target)[by_key][order]
    graph, source, turn = graph[by_key][order], source[by_key][order], turn[order]
    groups = np.flatnonzero(np.diff(source * (graphs * num_nodes + 1) + turn, prepend=-1))
    bounds = np.append(groups, len(rows)).tolist()
    sources, turns = source[groups].tolist(), turn[groups].tolist()

    distance = np.full((graphs, num_nodes, num_nodes), _UNREACHABLE, np.uint8)
    distance[:, np.arange(num_nodes), np.arange(num_nodes)] = 0
    table = distance.reshape(graphs * num_nodes, num_nodes)
    for number in np.lexsort((turns, -np.array(sources))).tolist():
        chosen = slice(bounds[number], bounds[number + 1])
        node = sources[number]
        found = table[rows[chosen], node:]
        np.minimum(found, _UNREACHABLE - 1, out=found)
        found += 1
        if turns[number]:
            np.minimum(found, distance[graph[chosen], node, node:], out=found)
        found[:, 0] = 0
        distance[graph[chosen], node, node:] = found
    distance *= distance <= max_distance
    return distance
