"""`ArchGraph` to and from `jraph.GraphsTuple`, the graph type of the public functions.

A `GraphsTuple` made here holds one graph with its virtual edges; what is needed to place
predictions into a parameter pytree travels in `globals` as static data without arrays, so that
`jax.tree.map` and `jit` pass it on, and batching graphs with different data fails loudly.

Legend: N nodes, E edges (virtual ones included).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jraph
import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.virtual_edges import MAX_DISTANCE


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ArchInfo:
    """The part of an `ArchGraph` that is no array.

    Attributes:
      names: one name per node, or empty.
      bindings: one `Binding` per parameter leaf.
      num_classes: size of the classifier, None if there is none.
      unbound: leaves without a binding and the reasons.
      source: what the graph was traced from, or None.
      read: the arrays that were last read with it, and the graph they gave; it lives and dies
        with the GraphsTuple.
    """

    names: Sequence[str]
    bindings: Sequence[Binding]
    num_classes: int | None
    unbound: Sequence[Any] = ()
    source: Any = None
    read: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Short, for JAX prints it when graphs of different architectures are batched."""
        return (
            f"<one architecture, {len(self.bindings)} bindings; different architectures cannot "
            "be batched: pass them one at a time>"
        )


def to_graphs_tuple(graph: ArchGraph, max_distance: int = MAX_DISTANCE) -> jraph.GraphsTuple:
    """Converts a graph, adding virtual edges.

    Args:
      graph: the graph.
      max_distance: longest path that gets a virtual edge; 1 for none.

    Returns:
      GraphsTuple with nodes {"primitive": [N] int32, "shape": [N, 4] int32}, edges
      {"distance": [E] int32}, senders and receivers [E] int32, n_node and n_edge [1], and
      globals {"arch": ArchInfo}.
    """
    distance = graph.distances(max_distance)
    senders, receivers = np.nonzero(distance)
    return jraph.GraphsTuple(
        nodes={"primitive": graph.primitive, "shape": graph.shapes},
        edges={"distance": distance[senders, receivers].astype(np.int32)},
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        n_node=np.array([graph.num_nodes], np.int32),
        n_edge=np.array([senders.size], np.int32),
        globals={
            "arch": ArchInfo(
                graph.names, graph.bindings, graph.num_classes, graph.unbound, graph.source
            )
        },
    )


def from_graphs_tuple(graphs: jraph.GraphsTuple) -> ArchGraph:
    """Reads a graph that `to_graphs_tuple` (or `trace`) made.

    Args:
      graphs: GraphsTuple of exactly one graph, unpadded.

    Returns:
      The graph; the same object for the same arrays.

    Raises:
      ValueError: it is no GraphsTuple, holds several graphs or lacks the fields named above.
    """
    if not isinstance(graphs, jraph.GraphsTuple):
        raise ValueError(
            "a graph must be from trace, graph_from_plan or network_graph, received "
            f"{type(graphs).__name__}"
        )
    missing = [
        name
        for name, holds in (
            ("nodes['primitive']", "primitive" in (graphs.nodes or {})),
            ("nodes['shape']", "shape" in (graphs.nodes or {})),
            ("edges['distance']", "distance" in (graphs.edges or {})),
            ("globals['arch']", "arch" in (graphs.globals or {})),
        )
        if not holds
    ]
    if missing or len(graphs.n_node) != 1:
        raise ValueError(
            "the GraphsTuple of one architecture is needed, as made by trace or network_graph; "
            f"received {len(graphs.n_node)} graphs, missing {missing}: pass architectures one "
            "at a time."
        )
    info: ArchInfo = graphs.globals["arch"]
    nodes, edges = graphs.nodes, graphs.edges
    arrays = (
        nodes["primitive"],
        nodes["shape"],
        edges["distance"],
        graphs.senders,
        graphs.receivers,
    )
    known = info.read
    if known is not None and all(a is b for a, b in zip(known[0], arrays, strict=True)):
        return known[1]
    graph = _read(graphs, info)
    object.__setattr__(info, "read", (arrays, graph))
    return graph


def _read(graphs: jraph.GraphsTuple, info: ArchInfo) -> ArchGraph:
    one_hop = np.asarray(graphs.edges["distance"]) == 1
    edges = np.stack([np.asarray(graphs.senders), np.asarray(graphs.receivers)], axis=1)[one_hop]
    return ArchGraph(
        primitive=np.asarray(graphs.nodes["primitive"]),
        edges=edges,
        shapes=np.asarray(graphs.nodes["shape"]),
        names=info.names,
        bindings=info.bindings,
        num_classes=info.num_classes,
        unbound=info.unbound,
        source=info.source,
    )
