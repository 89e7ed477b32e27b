"""Collects the nodes and bindings that tracing finds and closes them into an `ArchGraph`.

Legend: a *use* is one place where (a window of) a parameter leaf enters the vocabulary.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.tracing.params import ParamTree, Unbound
from ppuda_jax.tracing.views import Digit, View, complete_digits

INPUT = 0
"""The node of the network's input."""

Groups = tuple[tuple[Digit, ...], ...]


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
    preds: frozenset
    window: tuple[int, int] | None = None
    contracted: bool = False


@dataclasses.dataclass(slots=True)
class Use:
    """A leaf (or a window of it) and the node that predicts it.

    Attributes:
      leaf: number of the leaf.
      node: number of the node.
      role: see `types.Role`.
      digits: every digit of the leaf that is used, with its window.
      groups: the digits of each canonical axis.
    """

    leaf: int
    node: int
    role: str
    digits: tuple[Digit, ...]
    groups: Groups

    def positions(self, axis: int, size: int) -> set[int]:
        """The indices along a leaf axis that are used."""
        own = [d for d in self.digits if d.axis == axis]
        done = complete_digits(own, [0] * axis + [size])
        if done is None:
            return set(range(size))
        values = {0}
        for digit in done[0]:
            if digit.axis == axis:
                steps = [(digit.start + i * digit.step) * digit.stride for i in range(digit.count)]
                values = {v + s for v in values for s in steps}
        return values


class GraphBuilder:
    """Nodes, uses of parameters, and reasons for those that stay without one."""

    def __init__(self, tree: ParamTree) -> None:
        """Starts with the input node; `tree` describes the leaves."""
        self.tree = tree
        self.nodes: list[Node] = [Node("input", frozenset())]
        self.uses: list[Use] = []
        self.by_leaf: dict[int, list[Use]] = {}
        self.reasons: dict[int, str] = {}
        self.squeezes: set[int] = set()
        self.matrices: set[int] = set()
        self.put_off: dict[tuple[frozenset[int], View, str], int] = {}
        self._behind: list[int] = [1]

    def add(self, kind: str, preds: Iterable[int], window=None) -> int:
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
        digits = tuple(sorted((*view.leaf_digits, *view.fixed), key=_digit_order))
        candidate = Use(view.leaf, -1, "", digits, ())
        shape = self.tree.shapes[view.leaf]
        for use in reversed(earlier):
            if use.digits == digits:
                return use
            if not any(
                use.positions(axis, size).isdisjoint(candidate.positions(axis, size))
                for axis, size in enumerate(shape)
            ):
                return use
        return None

    def bind(self, node: int, role: str, view: View, groups: Groups) -> None:
        """Binds the window of a leaf that `view` shows to a node."""
        ordered = tuple(tuple(sorted(group, key=_digit_order)) for group in groups)
        flat = (digit for group in ordered for digit in group)
        digits = tuple(sorted((*flat, *view.fixed), key=_digit_order))
        use = Use(view.leaf, node, role, digits, ordered)
        self.uses.append(use)
        self.by_leaf.setdefault(view.leaf, []).append(use)

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
            self.by_leaf[use.leaf].remove(use)
            self.refuse(use.leaf, reason)

    def is_looked_up(self, src: Iterable[object]) -> bool:
        """Whether a value is a matrix that a table gave for an index."""
        src = tuple(src)
        return len(src) == 1 and src[0] in self.matrices

    def unbind_all(self, src: Iterable[object], reason: str) -> None:
        """`unbind` for all nodes among the sources of a value."""
        for node in src:
            if isinstance(node, int):
                self.unbind(node, reason)

    def finish(self, sources: Iterable[int], classes: int | None, apply_fn_info) -> ArchGraph:
        """Drops what does not reach the output and builds the graph.

        Args:
          sources: nodes that the output comes from.
          classes: width of the output if it is [B, K] or [K], else None.
          apply_fn_info: static record of what was traced.

        Returns:
          The graph.
        """
        preds = self._contract()
        sinks = self._resolve(sources)
        sinks -= {p for s in sinks for p in self._ancestors(preds, s) - {s}}
        if len(sinks) > 1:
            preds[len(self.nodes)] = frozenset(sinks)
            self.nodes.append(Node("sum", frozenset(sinks)))
            sinks = {len(self.nodes) - 1}
        if not sinks or sinks == {INPUT}:
            alive = {INPUT}
        else:
            alive = self._ancestors(preds, next(iter(sinks))) | {INPUT}
        order = sorted(alive)
        number = {old: new for new, old in enumerate(order)}
        return self._graph(order, number, preds, classes, apply_fn_info)

    def _contract(self) -> dict[int, frozenset]:
        """Predecessors of every kept node after contraction; orphans hang on the input."""
        self._resolved: dict[int, frozenset] = {}
        preds = {}
        for index, node in enumerate(self.nodes):
            direct = self._resolve(node.preds)
            if index != INPUT and not direct and node.kind != "pos_enc":
                direct = {INPUT}
            single = node.kind in ("sum", "concat") and len(direct) == 1
            if node.contracted or single:
                self._resolved[index] = frozenset(direct)
            else:
                self._resolved[index] = frozenset((index,))
                preds[index] = frozenset(direct)
        return preds

    def _resolve(self, nodes: Iterable[int]) -> set[int]:
        resolved: set[int] = set()
        for node in nodes:
            resolved |= self._resolved[node]
        return resolved

    @staticmethod
    def _ancestors(preds: dict[int, frozenset], node: int) -> set[int]:
        seen, stack = {node}, [node]
        while stack:
            for pred in preds[stack.pop()]:
                if pred not in seen:
                    seen.add(pred)
                    stack.append(pred)
        return seen

    def _graph(self, order, number, preds, classes, info) -> ArchGraph:
        uses = [u for u in self.uses if u.node in number and not self.nodes[u.node].contracted]
        bindings, unbound, shapes = self._bindings(uses, number)
        head = _classifier(order, preds, self.nodes, uses, shapes, classes)
        bindings = [
            dataclasses.replace(b, is_classifier=True) if order[b.node] in head else b
            for b in bindings
        ]
        edges = [(number[p], number[v]) for v in order for p in sorted(preds[v])]
        rows = np.zeros((len(order), 4), np.int32)
        names = [self.nodes[v].kind for v in order]
        for v, shape in shapes.items():
            rows[number[v]] = shape
        for v in order:
            if self.nodes[v].window is not None:
                rows[number[v]] = (1, 1, *self.nodes[v].window)
        for binding in reversed(bindings):
            names[binding.node] = "/".join(binding.path)
        return ArchGraph(
            primitive=np.array([PRIMITIVE_IDS[self.nodes[v].kind] for v in order], np.int32),
            edges=np.array(edges, np.int32).reshape(-1, 2),
            shapes=rows,
            names=tuple(names),
            bindings=tuple(bindings),
            num_classes=classes if head else None,
            unbound=tuple(unbound),
            source=info,
        )

    def _bindings(self, uses: Sequence[Use], number: dict[int, int]):
        """Converts the uses; returns bindings, unbound leaves, and embedding shapes by node."""
        found: list[tuple[int, Binding]] = []
        unbound, shapes = [], {}
        per_leaf: dict[int, list[Use]] = {}
        for use in uses:
            per_leaf.setdefault(use.leaf, []).append(use)
        for leaf, path in enumerate(self.tree.paths):
            shape, own = self.tree.shapes[leaf], per_leaf.get(leaf, [])
            made = [_binding(use, path, shape, number[use.node], len(own) == 1) for use in own]
            filled = sum(math.prod(b.part_shape) for b in made if b is not None)
            if own and None not in made and filled == math.prod(shape):
                for use, binding in zip(own, made, strict=True):
                    found.append((self.uses.index(use), binding))
                    if binding.role != "norm_bias" or use.node not in shapes:
                        shapes[use.node] = embedding_shape(binding.role, binding.shape)
                continue
            for use in own:
                shapes.setdefault(use.node, (0, 0, 0, 0))
            if own:
                reason = "only a part of it, or an overlapping part, is used"
            else:
                reason = self.reasons.get(leaf, "it does not influence the output")
            unbound.append(Unbound(path, shape, reason))
        found.sort(key=lambda item: item[0])
        return [binding for _, binding in found], unbound, shapes


def _digit_order(digit: Digit) -> tuple[int, int]:
    return digit.axis, -digit.stride


def embedding_shape(role: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """(O, I, kh, kw) of a canonical shape, as the shape embedding sees it."""
    if len(shape) == 4:
        return tuple(shape)
    return (*shape, 1, 1) if len(shape) == 2 else (shape[0], 1, 1, 1)


def _binding(use: Use, path, leaf_shape, node: int, alone: bool) -> Binding | None:
    """The binding of one use; None if the layout cannot be expressed."""
    if alone:
        use = _widened(use)
    done = complete_digits(use.digits, leaf_shape)
    if done is None:
        return None
    ordered, missing = done
    groups = [list(group) for group in use.groups]
    home = {"kernel": 2, "pos_enc": 2}.get(use.role, 0)
    if missing and home >= len(groups):
        groups += [[], []]
    if missing:
        first, rest = missing[:1], missing[1:]
        groups[home] = sorted([*groups[home], *first], key=_digit_order)
        groups[-1] = sorted([*groups[-1], *rest], key=_digit_order)
    flat = [digit for group in groups for digit in group]
    free = [digit for digit in ordered if digit in flat]
    if len(flat) != len(free) or len(set(flat)) != len(flat):
        return None
    shape = tuple(math.prod(d.count for d in group) for group in groups)
    if use.role == "kernel" and len(shape) == 2 and leaf_shape.count(1) > 1 < len(leaf_shape) - 2:
        shape = (*shape, 1, 1)
    whole = all(d.start == 0 and d.count == d.full and d.step == 1 for d in ordered)
    index = None
    if not whole:
        index = tuple(
            (d.start if d not in flat else (d.start, d.start + d.step * d.count, d.step))
            for d in ordered
        )
    return Binding(
        path=path,
        node=node,
        role=use.role,
        shape=shape,
        split=tuple(d.count for d in flat) or (1,),
        perm=tuple(flat.index(d) for d in free) or (0,),
        part_shape=tuple(leaf_shape) if whole else tuple(d.count for d in free),
        leaf_shape=tuple(leaf_shape),
        index=index,
        view_shape=None if whole else tuple(d.full for d in ordered),
    )


def _widened(use: Use) -> Use:
    """Extends a window to the whole leaf, so that a leaf used in part is predicted in full."""
    wide = {
        d: Digit(d.axis, d.stride, d.full, 0, d.full) if d.count != d.full else d
        for d in use.digits
    }
    groups = [tuple(wide[d] for d in group) for group in use.groups]
    inside = {d for group in use.groups for d in group}
    extra = [wide[d] for d in use.digits if d not in inside and wide[d].count > 1]
    if extra and use.role == "pos_enc":
        groups[2] = (*groups[2], *extra)
    elif extra:
        return use
    return dataclasses.replace(use, digits=tuple(wide.values()), groups=tuple(groups))


def _classifier(order, preds, nodes, uses, shapes, classes) -> set[int]:
    """The nodes of the classifier's weight and bias, if the output is their result."""
    if classes is None or len(order) < 2:
        return set()
    node, head = order[-1], set()
    while True:
        kind, fits = nodes[node].kind, shapes.get(node, (0,))[0] == classes
        if kind == "conv" and fits:
            return head | {node}
        if kind == "bias" and fits and not head:
            head.add(node)
        elif kind not in ("glob_avg", "avg_pool", "max_pool"):
            return set()
        if len(preds[node]) != 1:
            return set()
        (node,) = preds[node]
