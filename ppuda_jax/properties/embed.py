"""What a hypernetwork knows of a network: the mean of its final node states.

Section 5.4 of the paper: the states after message passing and the norm, before any decoder,
averaged over the nodes. Graphs are padded to a few sizes and go through the hypernetwork in
batches, so that a program per size is all that is compiled, whatever the networks.

Legend: `n` networks, `B` networks of a batch, `N` padded nodes, `D` width of the node states.
"""

import concurrent.futures
import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, pad_graphs
from ppuda_jax.hostloop.compilation import jit_small
from ppuda_jax.prediction.blocks import BlockDecoder
from ppuda_jax.programs import CachedFunction
from ppuda_jax.runtime.processors import processors

_SIZES = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048)  # padded nodes; more take more compiling
_BATCH_NODES = 16384
"""Padded nodes of a batch: enough to share the cost of a sweep's steps, little enough memory."""
_MOST_NETWORKS, _MOST_PAIRS = 128, 2**23  # of a batch; pairs of nodes have a byte each


def embed(
    ghn: LoadedGHN, graphs: Iterable[ArchGraph | jraph.GraphsTuple], *, threads: int | None = None
) -> np.ndarray:
    """Embeddings of networks.

    Args:
      ghn: the hypernetwork.
      graphs: n graphs, from `trace`, `graph_from_plan` or `network_graph`.
      threads: batches that are computed at the same time; the number of processors if None.

    Returns:
      Float32 [n, D], in the order of the graphs; of a network alone or among others the same up
      to rounding.

    Raises:
      ValueError: something that is no graph, or embeddings that are not finite.
    """
    archs = [ArchGraph.of(graph) for graph in graphs]
    found = np.zeros((len(archs), ghn.config.hid), np.float32)
    function = embedding_function(ghn.config)
    theta = jax.tree.map(jnp.asarray, dict(ghn.theta))

    def run(batch: "Batch") -> None:
        rows = function(theta, batch.padded([archs[i] for i in batch.members], ghn.config))
        found[list(batch.members)] = np.asarray(rows)[: len(batch.members)]

    batches = make_batches([arch.num_nodes for arch in archs])
    with concurrent.futures.ThreadPoolExecutor(threads or processors()) as pool:
        list(pool.map(run, batches))
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{ghn.name} has embeddings that are not finite, for networks {bad[:5].tolist()} and "
            f"{bad.size} in all: its parameters are damaged"
        )
    return found


class Batch:
    """Networks that go through the hypernetwork together.

    Attributes:
      members: their numbers.
      nodes: N.
      size: B, of which the last ones repeat a network where there are fewer members.
    """

    def __init__(self, members: Sequence[int], nodes: int) -> None:
        self.members, self.nodes, self.size = tuple(members), nodes, batch_size(nodes)

    def padded(self, graphs: Sequence[ArchGraph], config: GHNConfig) -> PaddedGraphs:
        """The graphs of the members as arrays with leading axis B."""
        repeated = [graphs[-1]] * (self.size - len(graphs))
        bucket = Bucket(self.nodes, None)  # many networks share each step: no slot may be empty
        reach = max(1, config.virtual_edges) if config.hypernet == "gatedgnn" else 1
        return pad_graphs([*graphs, *repeated], bucket, reach)


def batch_size(nodes: int) -> int:
    """Networks that go through the hypernetwork together at a padded size."""
    return max(1, min(_MOST_NETWORKS, _BATCH_NODES // nodes, _MOST_PAIRS // nodes**2))


def make_batches(num_nodes: Sequence[int]) -> list[Batch]:
    """Groups networks of similar sizes, the largest first.

    Within a padded size they are sorted, because the time of a batch is that of its largest.

    Args:
      num_nodes: nodes of each network.
    """
    groups: dict[int, list[int]] = {}
    for number in sorted(range(len(num_nodes)), key=lambda number: -num_nodes[number]):
        groups.setdefault(_padded_size(num_nodes[number]), []).append(number)
    return [
        Batch(groups[nodes][start : start + batch_size(nodes)], nodes)
        for nodes in sorted(groups, reverse=True)
        for start in range(0, len(groups[nodes]), batch_size(nodes))
    ]


def embedding_function(config: GHNConfig) -> CachedFunction:
    """(theta, padded graphs) -> embeddings [B, D]; a program for each shape."""
    function = functools.partial(_embed, config)
    return CachedFunction(function, config, "embeddings of networks", jit=jit_small)


def _embed(config: GHNConfig, theta, graphs: PaddedGraphs) -> jax.Array:
    states = BlockDecoder(config, theta).embed(graphs)  # zeros on padding
    return states.sum(axis=1) / graphs.num_nodes[:, None].astype(states.dtype)


def _padded_size(nodes: int) -> int:
    return next((size for size in _SIZES if size >= nodes), -(-nodes // 512) * 512)
