"""Graphs of a meta-batch as padded arrays of static shape, and the order of node updates.

The gated GNN updates nodes one after another, each from the current states of its neighbours
(paper, section 3.1). Nodes of the same depth (longest path from a source) do not depend on each
other, neither through edges nor through virtual edges, so several of them can be updated in one
step without changing the result: `levels` lists up to W such nodes per step. The backward sweep
takes the same steps in reverse. All work here is NumPy on the host.

Legend: B meta-batch, N padded nodes, S steps, W nodes per step.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import flax
import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.virtual_edges import MAX_DISTANCE, shortest_paths_of

NODE_BUCKETS: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Padded node counts that `bucket_for` chooses from."""

STEP_FRACTIONS: tuple[float, ...] = (0.5, 0.75, 1.0)
"""Steps per node that `bucket_for` chooses from; DeepNets-1M needs 0.58 on average (W = 4)."""

LEVEL_WIDTH = 4
"""Nodes updated per step; more hardly shortens the schedule of DeepNets-1M graphs."""


class Bucket(NamedTuple):
    """The static shape of padded graphs.

    Attributes:
      nodes: N.
      steps: S; None to visit nodes one by one as they are numbered, without a schedule.
      width: W.
    """

    nodes: int
    steps: int | None
    width: int = LEVEL_WIDTH


@flax.struct.dataclass
class PaddedGraphs:
    """Graphs of a meta-batch, padded to one bucket.

    Attributes:
      primitive: [B, N] int32, kind of each node; 0 in the padding.
      shape: [B, N, 4] int32, shape of each node (see `ArchGraph.shapes`); 0 in the padding.
      num_nodes: [B] int32, nodes that are no padding (they come first).
      distance: [B, N, N] uint8, entry (b, u, v) the shortest path length from u to v, 1 for
        real edges, 0 for none.
      levels: [B, S, W] int32, nodes to update in each step; N in the padding. None to update them
        one by one.
    """

    primitive: np.ndarray
    shape: np.ndarray
    num_nodes: np.ndarray
    distance: np.ndarray
    levels: np.ndarray | None


def node_depths(graph: ArchGraph) -> np.ndarray:
    """Computes the longest path from a source to each node.

    Args:
      graph: the graph with N nodes.

    Returns:
      [N] int32.
    """
    depths = [0] * graph.num_nodes
    edges = graph.edges
    if (edges[1:, 1] < edges[:-1, 1]).any():
        edges = edges[np.argsort(edges[:, 1], kind="stable")]
    for source, target in edges.tolist():
        if depths[source] >= depths[target]:
            depths[target] = depths[source] + 1
    return np.array(depths, np.int32)


def level_schedule(graph: ArchGraph, width: int = LEVEL_WIDTH) -> np.ndarray:
    """Groups the nodes into steps of independent nodes, in topological order.

    Args:
      graph: the graph with N nodes.
      width: W, the largest number of nodes per step.

    Returns:
      [S, W] int32 with S the number of steps needed; N marks empty places.
    """
    nodes = graph.num_nodes
    depths = node_depths(graph)
    order = np.argsort(depths, kind="stable")
    counts = np.bincount(depths)
    steps = -(-counts // width)
    first_step = np.cumsum(steps) - steps
    first_rank = np.cumsum(counts) - counts
    rank = np.arange(nodes) - first_rank[depths[order]]
    schedule = np.full((int(steps.sum()), width), nodes, np.int32)
    schedule[first_step[depths[order]] + rank // width, rank % width] = order
    return schedule


def bucket_for(graphs: Iterable[ArchGraph], width: int = LEVEL_WIDTH) -> Bucket:
    """Chooses the smallest bucket that holds all graphs.

    Args:
      graphs: at least one graph.
      width: W, nodes updated per step.

    Returns:
      The bucket; N from `NODE_BUCKETS` (above them the next multiple of 512), S a fraction of N.
    """
    graphs = list(graphs)
    nodes = max(graph.num_nodes for graph in graphs)
    steps = max(level_schedule(graph, width).shape[0] for graph in graphs)
    padded = next((size for size in NODE_BUCKETS if size >= nodes), -(-nodes // 512) * 512)
    padded_steps = next(n for n in (int(f * padded) for f in STEP_FRACTIONS) if n >= steps)
    return Bucket(padded, padded_steps, width)


def pad_graphs(
    graphs: Sequence[ArchGraph],
    bucket: Bucket | None = None,
    max_distance: int = MAX_DISTANCE,
) -> PaddedGraphs:
    """Pads the graphs of a meta-batch to one bucket.

    Args:
      graphs: B graphs.
      bucket: static shape; the smallest that fits if None.
      max_distance: longest path with a virtual edge; 1 for none.

    Returns:
      NumPy arrays with leading axis B.

    Raises:
      ValueError: if there is no graph or one does not fit the bucket.
    """
    if not graphs:
        raise ValueError("a meta-batch needs at least one graph, received none.")
    bucket = bucket_for(graphs) if bucket is None else bucket
    batch, size = len(graphs), bucket.nodes
    num_nodes = np.array([graph.num_nodes for graph in graphs], np.int32)
    if num_nodes.max() > size:
        raise ValueError(_misfit(bucket, f"{num_nodes.max()} nodes"))
    padded = PaddedGraphs(
        primitive=np.zeros((batch, size), np.int32),
        shape=np.zeros((batch, size, 4), np.int32),
        num_nodes=num_nodes,
        distance=shortest_paths_of([graph.edges for graph in graphs], size, max_distance),
        levels=None if bucket.steps is None else _levels(graphs, bucket, bucket.steps),
    )
    for index, graph in enumerate(graphs):
        padded.primitive[index, : graph.num_nodes] = graph.primitive
        padded.shape[index, : graph.num_nodes] = graph.shapes
    return padded


def _levels(graphs: Sequence[ArchGraph], bucket: Bucket, steps: int) -> np.ndarray:
    levels = np.full((len(graphs), steps, bucket.width), bucket.nodes, np.int32)
    for index, graph in enumerate(graphs):
        schedule = level_schedule(graph, bucket.width)
        if len(schedule) > levels.shape[1]:
            raise ValueError(_misfit(bucket, f"{graph.num_nodes} nodes and {len(schedule)} steps"))
        schedule[schedule == graph.num_nodes] = bucket.nodes
        levels[index, : len(schedule)] = schedule
    return levels


def _misfit(bucket: Bucket, received: str) -> str:
    return (
        f"a graph must fit the bucket of {bucket.nodes} nodes and {bucket.steps} steps, received "
        f"{received}: choose the bucket by bucket_for."
    )
