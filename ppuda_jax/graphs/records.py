"""Graphs of networks in DeepNets-1M files, and networks in the form in which files hold them.

By default a graph is built from the network's genotype: the published files have a known fault
(networks with the ImageNet-style stem: the second input of cell 1 is wired to the first stem
instead of the second), and files made by the reference's generator under recent versions of
networkx list nodes in another order than the rows of the adjacency matrix.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jraph
import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.hdf5 import FILE_DISTANCE, NetRecords
from ppuda_jax.archs.node_names import decode_kind, decode_name, encode_kind, encode_name
from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Op, Plan, make_plan
from ppuda_jax.archs.sampling import arch_rng, fingerprint, sample_base
from ppuda_jax.archs.splits import get_split
from ppuda_jax.archs.widths import count_params, evaluation_width
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan, op_template, op_templates
from ppuda_jax.primitives import PRIMITIVE_IDS


def graph_from_record(
    records: NetRecords, index: int, num_classes: int = 10, stored: bool = False
) -> ArchGraph:
    """Returns the graph of one network of a file.

    Args:
      records: the split of the file.
      index: number of the network.
      num_classes: size of the classifier.
      stored: take edges and node order from the file instead of building them.

    Returns:
      The graph, with names and bindings, at the image size of `records`.

    Raises:
      ValueError: if the stored graph is of another network or its nodes are in disorder.
    """
    plan = make_plan(records[index].config, num_classes, records.image_size)
    built = graph_from_plan(plan)
    if not stored:
        return built
    raw = records.stored_graph(index)
    where = f"/{records.split}/{index} of {records.path}"
    names = tuple(
        name if name.startswith(("stem", "pos_enc", "classifier")) else f"cells.{cell}.{name}"
        for cell, name in zip(raw.cells, map(decode_name, raw.names), strict=True)
    )
    kinds = np.array([PRIMITIVE_IDS[decode_kind(kind)] for kind in raw.kinds], np.int32)
    built_nodes = {built.names[binding.node]: binding.node for binding in built.bindings}
    old_of = {node: built_nodes[name] for node, name in enumerate(names) if name in built_nodes}
    if set(old_of.values()) != set(built_nodes.values()) or len(names) != built.num_nodes:
        raise ValueError(
            f"the nodes of {where} must be those of the network in its record, received "
            f"{len(names)} nodes where the network has {built.num_nodes}: build the graph "
            "(stored=False)."
        )
    edges = np.argwhere(raw.adjacency == 1)
    incoming = np.bincount(edges[:, 1], minlength=len(names))
    merges = np.isin(kinds, [PRIMITIVE_IDS["sum"], PRIMITIVE_IDS["concat"]])
    if (incoming[merges] < 2).any():
        raise ValueError(
            f"sums and concatenations of {where} must have at least two inputs, received nodes "
            f"{np.flatnonzero(merges & (incoming < 2))[:5].tolist()} with fewer: the nodes are "
            "in another order than the adjacency matrix, build the graph (stored=False)."
        )
    shapes = np.zeros((len(names), 4), np.int32)
    pooling = np.isin(kinds, [PRIMITIVE_IDS["max_pool"], PRIMITIVE_IDS["avg_pool"]])
    shapes[pooling] = (1, 1, 3, 3)
    for node, old in old_of.items():
        shapes[node] = built.shapes[old]
    new_of = {old: node for node, old in old_of.items()}
    bindings = [dataclasses.replace(b, node=new_of[b.node]) for b in built.bindings]
    return ArchGraph(kinds, edges, shapes, names, bindings, num_classes)


class EncodedNet(NamedTuple):
    """A sampled network as files hold it.

    Attributes:
      key: fingerprint of the architecture.
      record: entry of the JSON file.
      adjacency: [N, N] uint8.
      nodes: [N, 3] uint16.
    """

    key: int
    record: dict[str, Any]
    adjacency: np.ndarray
    nodes: np.ndarray


def encode_arch(split: str, index: int, seed: int = 0) -> EncodedNet:
    """Samples architecture `index` of a split and encodes it for a file.

    Args:
      split: name of the split.
      index: number in the split's endless sequence (`archs.sampling.arch_at`).
      seed: see `archs.sampling.arch_at`.

    Returns:
      The network; evaluation splits with their width, the training split without.
    """
    rules = get_split(split)
    config = sample_base(arch_rng(rules, index, seed), rules)
    record = config.to_dict()
    plan = make_plan(config)
    graph = graph_from_plan(plan)
    record["num_nodes"] = graph.num_nodes
    record["num_params"] = {
        "cifar10": count_params(config, 10, 32),
        "imagenet": count_params(config, 10, 224),
    }
    if rules.width == "training":
        del record["C"]
    else:
        record["C"] = evaluation_width(config)
    return EncodedNet(
        fingerprint(config), record, graph.distances(FILE_DISTANCE), encode_nodes(plan)
    )


def encode_nodes(plan: Plan) -> np.ndarray:
    """Encodes the nodes of a network's graph as files have them.

    Args:
      plan: the network.

    Returns:
      [N, 3] uint16: kind, cell and name (ids of `archs.node_names`) of each node of
      `graph_from_plan(plan)`; the stem counts to the first cell, the head to the last.
    """
    input_kind = PRIMITIVE_IDS["input"]
    ids = [input_kind, encode_name("input", input_kind)]
    cells = [0]
    last = plan.config.n_cells - 1
    for op, (_, template) in zip(plan.ops, op_templates(plan), strict=True):
        count = len(template.primitives)
        if count:
            name = op.name.split(".", 2)[2] if 0 <= op.cell <= last else op.name
            ids.extend(
                _encoded_nodes(name, op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out)
            )
            cells.extend([min(max(op.cell, 0), last)] * count)
    pairs = np.array(ids, np.uint16).reshape(-1, 2)
    return np.stack([pairs[:, 0], np.array(cells, np.uint16), pairs[:, 1]], axis=1)


@functools.lru_cache(maxsize=16384)
def _encoded_nodes(
    name: str, kind: str, c_in: int, c_out: int, kernel: int, norm: bool, h_out: int
) -> tuple[int, ...]:
    """Kind id and name id of each node, one after the other; `name` is within the cell."""
    template = op_template(kind, c_in, c_out, kernel, norm, h_out)
    op = Op(kind, name, 0, (), 0, c_in, c_out, 0, h_out, kernel, norm=norm)
    names = [""] * len(template.primitives)
    for spec, node in zip(op_params(op), template.param_nodes, strict=True):
        if spec.role != "norm_bias":
            names[node] = spec.torch_name
    ids = []
    for node, primitive in enumerate(template.primitives):
        shape = template.shapes[4 * node : 4 * node + 4]
        ids += [encode_kind(primitive, shape), encode_name(names[node], primitive)]
    return tuple(ids)


def network_graph(
    net_args: Mapping[str, Any], num_classes: int = 10, image_size: int = 32
) -> jraph.GraphsTuple:
    """Returns the graph of a network record without tracing it.

    Args:
      net_args: a record of the DeepNets-1M meta files, with its width "C".
      num_classes: size of the classifier.
      image_size: 32 or 224.

    Returns:
      What `trace` gives for the Flax network of the record, up to node order.

    Raises:
      ValueError: for unknown or missing keys, or another image size.

    Examples:
      >>> import ppuda_jax as pj
      >>> from ppuda_jax.archs.sampling import arch_at
      >>> graph = pj.network_graph(arch_at("test", 12).to_dict())
      >>> graph.n_node.tolist(), graph.n_edge.tolist()
      ([44], [785])
    """
    plan = make_plan(NetConfig.from_dict(net_args), num_classes, image_size)
    return graph_from_plan(plan).to_graphs_tuple()
