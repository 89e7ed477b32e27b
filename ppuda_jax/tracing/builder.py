"""Collects the nodes that tracing finds, the uses of parameters, and reasons for the others."""

import dataclasses
from collections.abc import Iterable, Sequence

from ppuda_jax.tracing.binding import Use, digit_order
from ppuda_jax.tracing.labels import Origin
from ppuda_jax.tracing.params import ParamTree
from ppuda_jax.tracing.views import Axis, View
from ppuda_jax.types import Role

INPUT = 0
"""The node of the network's input."""


@dataclasses.dataclass(slots=True)
class Node:
    """A node under construction.

    Attributes:
      kind: name in `primitives.PRIMITIVES`.
      preds: nodes that lead to it.
      window: (kh, kw) of pools, else None.
      contracted: it is to be replaced by its predecessors.
    """

    kind: str
    preds: frozenset[int]
    window: tuple[int, int] | None = None
    contracted: bool = False


class GraphBuilder:
    """Nodes, uses of parameters, and reasons for those that stay without one."""

    def __init__(self, tree: ParamTree) -> None:
        """Starts with the input node; `tree` describes the leaves."""
        self.tree = tree
        self.nodes: list[Node] = [Node("input", frozenset())]
        self.uses: list[Use] = []
        self.by_leaf: dict[int, dict[Axis, Use]] = {}
        self.reasons: dict[int, str] = {}
        self.squeezes: set[int] = set()
        self.image_axes: tuple[int, ...] | None = None
        self.matrices: set[int] = set()
        self.put_off: dict[tuple[frozenset[int], View, str], int] = {}
        self._behind: list[int] = [1]

    def add(self, kind: str, preds: Iterable[int], window: tuple[int, int] | None = None) -> int:
        """Creates a node without parameters and returns its number."""
        self.nodes.append(Node(kind, frozenset(preds), window))
        self._behind.append(self.behind(self.nodes[-1].preds) | 1 << (len(self.nodes) - 1))
        return len(self.nodes) - 1

    def behind(self, nodes: Iterable[int]) -> int:
        """Some nodes and all that leads to them, before contraction, as a bit mask."""
        mask = 0
        for node in nodes:
            mask |= self._behind[node]
        return mask

    def refuse(self, leaf: int, reason: str) -> None:
        """Records why a leaf cannot be predicted (the first reason counts)."""
        if reason:
            self.reasons.setdefault(leaf, reason)

    def shared(self, view: View) -> Use | None:
        """The earlier use that contains elements of this view, if there is one."""
        earlier = self.by_leaf.get(view.leaf)
        if not earlier:
            return None
        digits = tuple(sorted((*view.leaf_digits, *view.fixed), key=digit_order))
        if digits in earlier:
            return earlier[digits]
        shape = self.tree.shapes[view.leaf]
        for use in reversed(earlier.values()):
            if use.overlaps(digits, shape):
                return use
        return None

    def bind(self, node: int, role: Role, view: View, groups: Sequence[Axis]) -> None:
        """Binds the window of a leaf that `view` shows to a node."""
        ordered = tuple(tuple(sorted(group, key=digit_order)) for group in groups)
        flat = (digit for group in ordered for digit in group)
        digits = tuple(sorted((*flat, *view.fixed), key=digit_order))
        use = Use(view.leaf, node, role, digits, ordered)
        self.uses.append(use)
        self.by_leaf.setdefault(view.leaf, {})[digits] = use

    def refuse_behind(self, nodes: Iterable[int], reason: str) -> None:
        """Records a reason for all leaves that lead to some nodes."""
        mask = self.behind(nodes)
        for use in self.uses:
            if mask >> use.node & 1:
                self.refuse(use.leaf, reason)

    def unbind(self, node: int, reason: str) -> None:
        """Takes a node out of the graph again; its leaves get the reason."""
        self.nodes[node].contracted = True
        for use in [u for u in self.uses if u.node == node]:
            self.uses.remove(use)
            self.by_leaf[use.leaf].pop(use.digits, None)
            self.refuse(use.leaf, reason)

    def release(self, leaf: int, nodes: Iterable[int]) -> bool:
        """Frees a leaf of its uses among some nodes and all that leads to them.

        Returns:
          Whether there were any.
        """
        mask = self.behind(nodes)
        own = [use.node for use in self.uses if use.leaf == leaf and mask >> use.node & 1]
        for node in own:
            self.unbind(node, "")
        return bool(own)

    def moved_over(self, origins: Iterable[Origin | None]) -> None:
        """Records the axes of the input over which the first kernel moves."""
        known = [origin for origin in origins if origin is not None]
        if self.image_axes is None and len({origin.axis for origin in known}) > 1:
            self.image_axes = tuple(origin.size for origin in known)

    def is_looked_up(self, src: Iterable[object]) -> bool:
        """Whether a value is a matrix that a table gave for an index."""
        src = tuple(src)
        return len(src) == 1 and src[0] in self.matrices

    def unbind_all(self, src: Iterable[object], reason: str) -> None:
        """`unbind` for all nodes among the sources of a value."""
        for node in src:
            if isinstance(node, int):
                self.unbind(node, reason)
