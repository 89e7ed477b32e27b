"""Closes the nodes and uses that tracing found into an `ArchGraph`.

Nodes that are contracted or do not reach the output go; uses become bindings, and leaves without
one are listed with their reason.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.tracing.binding import Use, embedding_shape, make_binding
from ppuda_jax.tracing.builder import INPUT, GraphBuilder, Node
from ppuda_jax.tracing.params import Unbound

Preds = dict[int, frozenset[int]]
"""Predecessors of each node."""
Shapes = dict[int, tuple[int, int, int, int]]
"""Shape of the parameters of each node, (out, in, height, width)."""

_POOLS = ("glob_avg", "avg_pool", "max_pool")


def finish(
    graph: GraphBuilder, sources: Iterable[int], classes: int | None, source: Any
) -> ArchGraph:
    """Drops what does not reach the output and builds the graph.

    Args:
      graph: the nodes and uses.
      sources: nodes that the output comes from.
      classes: values of the output for each image, None if they are not logits.
      source: static record of what was traced.

    Returns:
      The graph.
    """
    preds, resolved = _contract(graph.nodes)
    sinks = {found for node in sources for found in resolved[node]}
    sinks -= {p for s in sinks for p in _ancestors(preds, s) - {s}}
    if len(sinks) > 1:
        preds[len(graph.nodes)] = frozenset(sinks)
        graph.nodes.append(Node("sum", frozenset(sinks)))
        sinks = {len(graph.nodes) - 1}
    alive = {INPUT}
    for sink in sinks:
        alive |= _ancestors(preds, sink)
    order = sorted(alive)
    number = {old: new for new, old in enumerate(order)}
    uses = [u for u in graph.uses if u.node in number and not graph.nodes[u.node].contracted]
    bindings, unbound, shapes = _bindings(graph, uses, number)
    head = _classifier(order[-1], preds, graph.nodes, shapes, classes)
    bindings = [
        dataclasses.replace(b, is_classifier=True) if order[b.node] in head else b for b in bindings
    ]
    rows = np.zeros((len(order), 4), np.int32)
    names = [graph.nodes[v].kind for v in order]
    for v in order:
        window = graph.nodes[v].window
        rows[number[v]] = shapes.get(v, (0, 0, 0, 0)) if window is None else (1, 1, *window)
    for binding in reversed(bindings):
        names[binding.node] = "/".join(binding.path)
    edges = [(number[p], number[v]) for v in order for p in sorted(preds[v])]
    return ArchGraph(
        primitive=np.array([PRIMITIVE_IDS[graph.nodes[v].kind] for v in order], np.int32),
        edges=np.array(edges, np.int32).reshape(-1, 2),
        shapes=rows,
        names=tuple(names),
        bindings=tuple(bindings),
        num_classes=classes if head else None,
        unbound=tuple(unbound),
        source=source,
    )


def _contract(nodes: Sequence[Node]) -> tuple[Preds, Preds]:
    """Contracts nodes; orphans hang on the input.

    Args:
      nodes: all nodes.

    Returns:
      (predecessors of every node that is kept, the kept nodes that stand for each node).
    """
    resolved: Preds = {}
    preds: Preds = {}
    for index, node in enumerate(nodes):
        direct = frozenset(found for pred in node.preds for found in resolved[pred])
        if index != INPUT and not direct and node.kind != "pos_enc":
            direct = frozenset((INPUT,))
        single = node.kind in ("sum", "concat") and len(direct) == 1
        if node.contracted or single:
            resolved[index] = direct
        else:
            resolved[index] = frozenset((index,))
            preds[index] = direct
    return preds, resolved


def _ancestors(preds: Preds, node: int) -> set[int]:
    seen, stack = {node}, [node]
    while stack:
        for pred in preds[stack.pop()]:
            if pred not in seen:
                seen.add(pred)
                stack.append(pred)
    return seen


def _bindings(
    graph: GraphBuilder, uses: Sequence[Use], number: Mapping[int, int]
) -> tuple[list[Binding], list[Unbound], Shapes]:
    """Converts the uses; gives bindings, unbound leaves, and embedding shapes by node."""
    shapes: Shapes = {}
    unbound: list[Unbound] = []
    found: list[tuple[int, Binding]] = []
    per_leaf: dict[int, list[tuple[int, Use]]] = {}
    for place, use in enumerate(uses):
        per_leaf.setdefault(use.leaf, []).append((place, use))
    for leaf, path in enumerate(graph.tree.paths):
        shape, own = graph.tree.shapes[leaf], per_leaf.get(leaf, [])
        alone = len(own) == 1
        made = [make_binding(use, path, shape, number[use.node], alone) for _, use in own]
        whole = [binding for binding in made if binding is not None]
        filled = sum(math.prod(binding.part_shape) for binding in whole)
        if own and len(whole) == len(own) and filled == math.prod(shape):
            for (place, use), binding in zip(own, whole, strict=True):
                found.append((place, binding))
                if binding.role != "norm_bias" or use.node not in shapes:
                    shapes[use.node] = embedding_shape(binding.role, binding.shape)
            continue
        for _, use in own:
            shapes.setdefault(use.node, (0, 0, 0, 0))
        reason = "only a part of it, or an overlapping part, is used"
        if not own:
            reason = graph.reasons.get(leaf, "it does not influence the output")
        unbound.append(Unbound(path, shape, reason))
    found.sort(key=lambda item: item[0])
    return [binding for _, binding in found], unbound, shapes


def _classifier(
    last: int, preds: Preds, nodes: Sequence[Node], shapes: Shapes, classes: int | None
) -> Collection[int]:
    """The nodes of the classifier's weights and biases, if the output is their result.

    Between a classifier and the output there may be pools and a learnt temperature; the output
    may be the sum of several classifiers.
    """
    head: set[int] = set()
    stack, seen = [last], {last}
    kernels: set[int] = set()
    while stack:
        node = stack.pop()
        kind, size = nodes[node].kind, shapes.get(node, (0,))[0]
        if kind == "conv" and size == classes:
            kernels.add(node)
            continue
        if kind == "bias" and size == classes:
            head.add(node)
        elif kind != "sum" and kind not in _POOLS and not (kind == "ln" and size in (1, classes)):
            return ()
        if node == INPUT or not preds[node] or (len(preds[node]) > 1 and kind != "sum"):
            return ()
        stack.extend(preds[node] - seen)
        seen |= preds[node]
    if any(_ancestors(preds, kernel) & kernels - {kernel} for kernel in kernels):
        return ()  # a residual around the last layer: features, not another classifier
    return head | kernels
