"""Graphs of NAS-Bench-201 networks, straight from their cells.

`tracing.trace` gives the same graphs from the networks as functions, in a few tenths of a second;
scoring thousands of cells needs them in a millisecond.

Legend: `N` nodes.
"""

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.nasbench201 import KERNEL_SIDES, NODES, OPS
from ppuda_jax.structure.nasbench201_net import Skeleton, connected, edge_name, used_edges

Path = tuple[str, ...]
"""Keys from the root of a pytree to a leaf."""


class _Builder:
    """Nodes and edges so far; a value is the number of the node that made it."""

    def __init__(self) -> None:
        self.primitives: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.edges: list[tuple[int, int]] = []
        self.nodes: dict[Path, int] = {}

    def add(self, kind: str, shape: tuple[int, ...], *sources: int) -> int:
        """Adds a node behind others."""
        node = len(self.primitives)
        self.primitives.append(PRIMITIVE_IDS[kind])
        self.shapes.append(shape)
        self.edges += [(source, node) for source in sorted(set(sources))]
        return node

    def conv(self, path: Path, x: int, outputs: int, inputs: int, side: int) -> int:
        """A convolution."""
        node = self.add("conv", (outputs, inputs, side, side), x)
        self.nodes[(*path, "kernel")] = node
        return node

    def norm(self, path: Path, x: int, channels: int) -> int:
        """A batch norm."""
        node = self.add("bn", (channels, 1, 1, 1), x)
        self.nodes[(*path, "scale")] = self.nodes[(*path, "bias")] = node
        return node

    def normed(self, path: Path, x: int, outputs: int, inputs: int, side: int) -> int:
        """A convolution and a batch norm."""
        return self.norm(path, self.conv(path, x, outputs, inputs, side), outputs)

    def sum(self, first: int, second: int) -> int:
        """A sum of two values; a value plus itself is no operation to the tracer."""
        return first if first == second else self.add("sum", (0, 0, 0, 0), first, second)


def graph_of(skeleton: Skeleton, choice: Choice) -> tuple[ArchGraph, dict[Path, int]]:
    """The graph of a network, and the node of each of its parameters.

    Args:
      skeleton: of the network.
      choice: operation of every edge.

    Returns:
      The graph, without bindings, and path of a leaf -> node.

    Raises:
      ValueError: a cell whose output does not depend on its input.
    """
    if not connected(choice):
        raise ValueError(f"nothing reaches the output of {dict(choice)}: it has no graph")
    builder, used = _Builder(), used_edges(choice)
    x = builder.add("input", (0, 0, 0, 0))
    x = builder.normed(("stem",), x, skeleton.channels, 3, 3)
    for stage, width in enumerate(skeleton.widths):
        if stage:
            x = _reduction(builder, f"reduction_{stage}", x, width)
        for cell in range(skeleton.cells):
            x = _cell(builder, f"cell_{stage}_{cell}", x, width, choice, used)
    width = skeleton.widths[-1]
    x = builder.norm(("last",), x, width)
    x = builder.add("glob_avg", (0, 0, 0, 0), x)
    x = builder.add("conv", (skeleton.classes, width, 1, 1), x)
    builder.nodes["head", "kernel"] = x
    builder.nodes["head", "bias"] = builder.add("bias", (skeleton.classes, 1, 1, 1), x)
    graph = ArchGraph(
        np.array(builder.primitives), np.array(builder.edges), np.array(builder.shapes)
    )
    return graph, builder.nodes


def _cell(builder: _Builder, name: str, x: int, width: int, choice: Choice, used: set[Edge]) -> int:
    values = {0: x}
    for k in range(1, NODES):
        parts = []
        for j in range(k):
            if (j, k) not in used:
                continue
            op = OPS[choice[j, k]]
            if op in KERNEL_SIDES:
                path = (name, edge_name((j, k)), op)
                parts.append(builder.normed(path, values[j], width, width, KERNEL_SIDES[op]))
            elif op == "avg_pool_3x3":
                parts.append(builder.add("avg_pool", (1, 1, 3, 3), values[j]))
            else:
                parts.append(values[j])
        for number, part in enumerate(parts):
            values[k] = part if number == 0 else builder.sum(values[k], part)
    return values[NODES - 1]


def _reduction(builder: _Builder, name: str, x: int, width: int) -> int:
    hidden = builder.normed((name, "first"), x, width, width // 2, 3)
    hidden = builder.normed((name, "second"), hidden, width, width, 3)
    pooled = builder.add("avg_pool", (1, 1, 2, 2), x)
    shortcut = builder.conv((name, "shortcut"), pooled, width, width // 2, 1)
    return builder.sum(hidden, shortcut)
