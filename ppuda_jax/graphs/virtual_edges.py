"""Virtual edges: the lengths of the shortest directed paths between nodes, up to a cutoff.

Paper, section 3.2: every pair of nodes joined by a path of at most s_max = 50 edges gets an
edge that carries the path's length.

Legend: N nodes, E edges.
"""

import numpy as np

MAX_DISTANCE = 50
"""The published cutoff s_max: the longest shortest path that gets a virtual edge."""

_UNREACHABLE = 10_000


def shortest_paths(
    num_nodes: int, edges: np.ndarray, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """Computes the shortest path lengths of a graph whose nodes are in topological order.

    Walks the nodes from the last to the first: the distances from a node are one more than
    the smallest of its successors' distances, which is exact in a graph without cycles.

    Args:
      num_nodes: N.
      edges: [E, 2] integers, one-hop edges (from, to) with from < to.
      max_distance: lengths above it count as no path; from 1 to 255.

    Returns:
      [N, N] uint8: entry (u, v) is the length of the shortest path from u to v, 0 if there is
      none of at most `max_distance` edges; 1 marks real edges.

    Raises:
      ValueError: if `max_distance` does not fit.
    """
    if not 1 <= max_distance <= 255:
        raise ValueError(f"max_distance must be between 1 and 255, received {max_distance}.")
    if max_distance == 1:
        distance = np.zeros((num_nodes, num_nodes), np.uint8)
        distance[edges[:, 0], edges[:, 1]] = 1
        return distance
    successors: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, target in edges.tolist():
        successors[source].append(target)
    distance = np.full((num_nodes, num_nodes), _UNREACHABLE, np.int16)
    np.fill_diagonal(distance, 0)
    rows = list(distance)
    for node in range(num_nodes - 2, -1, -1):
        targets = successors[node]
        if not targets:
            continue
        row = rows[node]
        if len(targets) == 1:
            np.add(rows[targets[0]], 1, out=row)
        else:
            np.minimum(rows[targets[0]], rows[targets[1]], out=row)
            for target in targets[2:]:
                np.minimum(row, rows[target], out=row)
            row += 1
        row[node] = 0
    distance *= distance <= max_distance
    return distance.astype(np.uint8)
