"""The computational graph of a network, as the GHN sees it, and where its predictions go.

Nodes are operations with their parameters (paper, section 2.1); edges follow the data. Node
order is topological. Each parameter leaf of the target network has a `Binding` to the node
whose embedding predicts it.

Legend: N nodes, E edges, P parameter leaves, O and I output and input channels, k kernel size.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from ppuda_jax.graphs.virtual_edges import MAX_DISTANCE, shortest_paths
from ppuda_jax.primitives import PRIMITIVES
from ppuda_jax.types import Role

SOURCE_PRIMITIVES: tuple[str, ...] = ("input", "pos_enc")
"""The kinds of nodes that may have no incoming edge."""

_IS_SOURCE = np.array([name in SOURCE_PRIMITIVES for name in PRIMITIVES])


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """How the prediction for one node becomes one leaf of the target network's parameters.

    The GHN predicts the *canonical* array (the reference's layout); then
    `part = canonical.reshape(split).transpose(perm).reshape(part_shape)`, and the leaf is
    `part`, or has `leaf[index] = part` where several predictions are stacked in one leaf.

    Attributes:
      path: keys of the leaf in the parameter pytree.
      node: index of the node.
      role: what the tensor does.
      shape: canonical shape: [O, I, k, k], [O, I], [n] or [1, C, S, S].
      split: shape before the transposition, of the same size as `shape`.
      perm: order of the axes of `split`.
      part_shape: shape of what goes into the leaf.
      leaf_shape: shape of the leaf.
      index: where in the leaf the part goes; None if it is the whole leaf. One entry for each
        axis of `view_shape`: a position, or (start, stop, step).
      view_shape: shape in which the leaf is seen when `index` is applied; None for its own.
      is_classifier: decoded by the class decoder (last weight and bias).
    """

    path: tuple[str, ...]
    node: int
    role: Role
    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    part_shape: tuple[int, ...]
    leaf_shape: tuple[int, ...]
    index: tuple[Any, ...] | None = None
    is_classifier: bool = False
    view_shape: tuple[int, ...] | None = None


class LazyTuple(Sequence):
    """A read-only sequence that is computed when it is first looked at.

    Training visits millions of graphs and never looks at their names; computing names and
    bindings would cost more than the rest of the graph.
    """

    def __init__(self, compute: Callable[[], tuple]) -> None:
        """`compute` takes no argument and returns the tuple; picklable if it is."""
        self._compute = compute
        self._items: tuple | None = None

    def materialize(self) -> tuple:
        """Returns the items as a tuple."""
        if self._items is None:
            self._items = tuple(self._compute())
        return self._items

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple: ...
    def __getitem__(self, index):
        return self.materialize()[index]

    def __len__(self) -> int:
        return len(self.materialize())

    def __iter__(self) -> Iterator:
        return iter(self.materialize())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyTuple):
            other = other.materialize()
        return self.materialize() == other

    def __hash__(self) -> int:
        return hash(self.materialize())

    def __repr__(self) -> str:
        return repr(self.materialize())


@dataclasses.dataclass(frozen=True, eq=False)
class ArchGraph:
    """A computational graph; nodes in topological order, node 0 the input.

    Attributes:
      primitive: [N] int32, index of each node's kind in `primitives.PRIMITIVES`.
      edges: [E, 2] int32, one-hop edges (from, to), from < to, without repeats.
      shapes: [N, 4] int32, (O, I, kh, kw) as the shape embedding sees it: dense (O, I, 1, 1),
        vectors (n, 1, 1, 1), pooling (1, 1, k, k), all zeros for nodes without a shape.
      names: one name per node (parameter nodes: the reference's parameter name), or empty.
      bindings: one `Binding` per parameter leaf, in the network's order.
      num_classes: size of the classifier, None if there is none.
      unbound: the leaves that have no binding, each with the reason (`param_tree.Unbound`).
      source: what the graph was traced from (`trace.TraceSource`), None if it was not traced.
    """

    primitive: np.ndarray
    edges: np.ndarray
    shapes: np.ndarray
    names: Sequence[str] = ()
    bindings: Sequence[Binding] = ()
    num_classes: int | None = None
    unbound: Sequence[Any] = ()
    source: Any = None

    def __post_init__(self) -> None:
        for field in ("primitive", "edges", "shapes"):
            array = np.ascontiguousarray(getattr(self, field), dtype=np.int32)
            object.__setattr__(self, field, array)
        _check(self.primitive, self.edges, self.shapes)
        for field, limit in (("names", None), ("bindings", self.num_nodes)):
            items = getattr(self, field)
            if isinstance(items, LazyTuple):
                continue
            object.__setattr__(self, field, tuple(items))
            if limit is None and items and len(items) != self.num_nodes:
                raise ValueError(
                    f"names must be one per node ({self.num_nodes}) or none, received {len(items)}."
                )
            if limit is not None and any(not 0 <= item.node < limit for item in items):
                raise ValueError(f"bindings must name nodes below {limit}: correct their nodes.")

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.primitive.shape[0]

    @property
    def num_edges(self) -> int:
        """Number of one-hop edges E."""
        return self.edges.shape[0]

    @property
    def primitive_names(self) -> tuple[str, ...]:
        """The kind of each node by name."""
        return tuple(PRIMITIVES[index] for index in self.primitive)

    def distances(self, max_distance: int = MAX_DISTANCE) -> np.ndarray:
        """Shortest path lengths, kept for the next call with the same cutoff.

        Args:
          max_distance: longest path that counts, from 1 to 254.

        Returns:
          [N, N] uint8, 0 for no path (see `virtual_edges.shortest_paths`); do not write to it.
        """
        cached = self.__dict__.get("_distances")
        if cached is None or cached[0] != max_distance:
            cached = (max_distance, shortest_paths(self.num_nodes, self.edges, max_distance))
            object.__setattr__(self, "_distances", cached)
        return cached[1]

    def to_graphs_tuple(self, max_distance: int = MAX_DISTANCE) -> Any:
        """Returns a `jraph.GraphsTuple` with virtual edges (see graphs.graphs_tuple)."""
        from ppuda_jax.graphs.graphs_tuple import to_graphs_tuple

        return to_graphs_tuple(self, max_distance)

    @classmethod
    def of(cls, graph: Any) -> "ArchGraph":
        """An `ArchGraph` itself, or what `from_graphs_tuple` reads, with its errors."""
        return graph if isinstance(graph, cls) else cls.from_graphs_tuple(graph)

    @classmethod
    def from_graphs_tuple(cls, graphs: Any) -> "ArchGraph":
        """Reads what `to_graphs_tuple` made."""
        from ppuda_jax.graphs.graphs_tuple import from_graphs_tuple

        return from_graphs_tuple(graphs)


def _check(primitive: np.ndarray, edges: np.ndarray, shapes: np.ndarray) -> None:
    """Raises ValueError unless the arrays form a graph as `ArchGraph` promises."""
    nodes = primitive.shape[0] if primitive.ndim == 1 else 0
    if nodes == 0 or edges.ndim != 2 or edges.shape[1] != 2 or shapes.shape != (nodes, 4):
        raise ValueError(
            "a graph needs arrays primitive [N], edges [E, 2] and shapes [N, 4] with N > 0, "
            f"received {primitive.shape}, {edges.shape} and {shapes.shape}."
        )
    if primitive.min() < 0 or primitive.max() >= len(PRIMITIVES):
        raise ValueError(
            f"node kinds must be below {len(PRIMITIVES)}, received {primitive.max()} "
            f"(smallest {primitive.min()}): see primitives.PRIMITIVES."
        )
    sources, targets = edges[:, 0], edges[:, 1]
    if edges.size and (sources.min() < 0 or targets.max() >= nodes or (sources >= targets).any()):
        raise ValueError(
            f"edges must lead from a node to a later node below {nodes} (topological order), "
            f"received {edges[(sources >= targets) | (sources < 0) | (targets >= nodes)][:5]}: "
            "reorder the nodes."
        )
    keys = np.sort(sources.astype(np.int64) * nodes + targets)
    if (keys[1:] == keys[:-1]).any():
        raise ValueError("edges must not repeat: drop the repeated pairs.")
    incoming = np.bincount(targets, minlength=nodes)
    orphans = np.flatnonzero((incoming == 0) & ~_IS_SOURCE[primitive])
    if orphans.size:
        raise ValueError(
            f"only nodes of the kinds {SOURCE_PRIMITIVES} may have no incoming edge, received "
            f"{[(int(i), PRIMITIVES[primitive[i]]) for i in orphans[:5]]}: connect or drop them."
        )
    outgoing = np.bincount(sources, minlength=nodes)
    if nodes > 1 and (outgoing[:-1] == 0).any():
        raise ValueError(
            "every node but the last must lead to another one, received dead ends "
            f"{np.flatnonzero(outgoing[:-1] == 0)[:5].tolist()}: drop them."
        )
