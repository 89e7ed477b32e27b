"""Graphs for tests of the hypernetwork: random ones, and those the reference was run on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.primitives import PRIMITIVE_IDS, PRIMITIVES
from tests.reference import REFERENCE, arrays_of, peer_nets

GOLDEN = Path(__file__).parents[1] / "golden"
FLAX_ORDER = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
"""Order of canonical axes in a Flax leaf, by number of axes."""

Row = Sequence[Any]
"""(name, node, canonical shape, role, is classifier)."""


def canonical(leaf: np.ndarray) -> np.ndarray:
    """A Flax leaf in the reference's layout."""
    leaf = np.asarray(leaf)
    return leaf.transpose(np.argsort(FLAX_ORDER[leaf.ndim]))


def flax_binding(row: Row) -> Binding:
    """Binding of a tensor of the reference to a leaf of the same name in Flax's layout."""
    name, node, shape, role, is_classifier = row
    perm = FLAX_ORDER[len(shape)]
    leaf = tuple(shape[axis] for axis in perm)
    path, shape = tuple(name.split(".")), tuple(shape)
    return Binding(path, node, role, shape, shape, perm, leaf, leaf, None, is_classifier)


def node_shape_rows(node_shapes: Sequence[Sequence[int] | None]) -> np.ndarray:
    """Shapes as the reference lists them, as int32 [N, 4]."""
    rows = [[0] * 4 if s is None else [*s, *[1] * (4 - len(s))] for s in node_shapes]
    return np.array(rows, np.int32)


def reference_graph(primitive, edges, node_shapes, rows: Sequence[Row]) -> ArchGraph:
    """Graph of a network that the reference was run on; edges [E, 2] one-hop."""
    bindings = [flax_binding(row) for row in rows]
    shapes = node_shape_rows(node_shapes)
    return ArchGraph(primitive, edges, shapes, bindings=bindings, num_classes=10)


def parameter_rows(record: dict[str, Any], arrays: Any) -> list[Row]:
    """Rows of all tensors of a network of the peer folder."""
    rows, last = [], len(record["node_shapes"]) - 2
    for node, name in zip(record["node_index"], record["node_names"], strict=True):
        kind = PRIMITIVES[arrays["primitive"][node]]
        if "param/" + name not in arrays:
            continue
        shape = arrays["param/" + name].shape
        norm = kind in ("bn", "ln")
        role = {"bias": "bias", "pos_enc": "pos_enc"}.get(kind, "norm_scale" if norm else "kernel")
        rows.append((name, node, shape, role, node >= last))
        if norm:
            rows.append((name.replace(".weight", ".bias"), node, shape, "norm_bias", False))
    return rows


def peer_network(number: int) -> tuple[ArchGraph, dict[str, Any], Any]:
    """Graph, record and arrays of one network of the peer folder."""
    record = peer_nets()[number]
    arrays = arrays_of(REFERENCE / "peer" / record["file"])
    edges = arrays["edges"]
    one_hop = edges[edges[:, 2] == 1][:, :2]
    rows = parameter_rows(record, arrays)
    graph = reference_graph(arrays["primitive"], one_hop, record["node_shapes"], rows)
    return graph, record, arrays


def golden_table() -> tuple[dict[str, Any], Any]:
    """The stored outputs of the reference: description and arrays."""
    table = json.loads((GOLDEN / "ghn_golden.json").read_text())
    return table, arrays_of(GOLDEN / "ghn_golden.npz")


def golden_network(table: dict[str, Any], arrays: Any, number: int) -> ArchGraph:
    """Graph of a network of the stored outputs."""
    net = table["nets"][str(number)]
    prefix = f"net{number}/"
    edges, primitive = arrays[prefix + "edges"], arrays[prefix + "primitive"]
    return reference_graph(primitive, edges, net["node_shapes"], net["params"])


def random_graph(rng: np.random.Generator, nodes: int) -> ArchGraph:
    """A random graph in which every node has a predecessor and a successor."""
    edges = {(int(rng.integers(max(0, v - 4), v)), v) for v in range(1, nodes)}
    leading = {u for u, _ in edges}
    edges |= {(u, u + 1) for u in range(nodes - 1) if u not in leading}
    primitive = rng.integers(0, len(PRIMITIVES), nodes)
    primitive[0] = PRIMITIVE_IDS["input"]
    shapes = rng.integers(1, 100, (nodes, 4)) * rng.integers(0, 2, (nodes, 1))
    return ArchGraph(primitive, np.array(sorted(edges)).reshape(-1, 2), shapes)
