"""Graphs from plans equal the graphs that the reference traced."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from ppuda_jax.archs.genotypes import VIT_CONFIG, Genotype, NetConfig
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.from_plan import graph_from_plan, op_nodes, param_nodes
from ppuda_jax.primitives import PRIMITIVES
from tests.archs.strategies import archs
from tests.reference import (
    DEEPNETS_SPLITS,
    REFERENCE,
    deepnets_records,
    needs_reference,
    peer_nets,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "graphs.json").read_text())


def colours(primitive, shapes, edges):
    """Node colours by refinement over both directions: equal multisets for equal graphs."""
    nodes = len(primitive)
    before, after = [[] for _ in range(nodes)], [[] for _ in range(nodes)]
    for source, target in edges:
        after[source].append(target)
        before[target].append(source)
    colour = [hash((int(p), *map(int, s))) for p, s in zip(primitive, shapes, strict=True)]
    for _ in range(30):
        colour = [
            hash(
                (
                    colour[i],
                    tuple(sorted(colour[j] for j in before[i])),
                    tuple(sorted(colour[j] for j in after[i])),
                )
            )
            for i in range(nodes)
        ]
    return sorted(colour)


@needs_reference
@pytest.mark.parametrize("net", peer_nets(), ids=lambda net: net["file"])
def test_graphs_are_those_of_the_reference(net):
    graph = graph_from_plan(make_plan(NetConfig.from_dict(net["net_args"])))
    with np.load(REFERENCE / "peer" / net["file"]) as arrays:
        primitive, edges = arrays["primitive"], arrays["edges"]
    shapes = [(s + [1] * (4 - len(s))) if s else [0] * 4 for s in net["node_shapes"]]
    one_hop = edges[edges[:, 2] == 1][:, :2].tolist()
    assert graph.num_edges == len(one_hop)
    ours = colours(graph.primitive, graph.shapes, graph.edges.tolist())
    assert ours == colours(primitive, shapes, one_hop)
    # Distances between nodes that have a name of their own.
    named = dict(zip(net["node_names"], net["node_index"], strict=True))
    pairs = [(i, named[name]) for i, name in enumerate(graph.names) if name in named]
    mine, theirs = map(np.array, zip(*pairs, strict=True))
    assert len(pairs) == len(set(param_nodes(make_plan(NetConfig.from_dict(net["net_args"])))))
    expected = np.zeros((len(primitive),) * 2, np.uint8)
    expected[edges[:, 0], edges[:, 1]] = edges[:, 2]
    distances = graph.distances()
    assert (distances > 0).sum() == len(edges)
    np.testing.assert_array_equal(distances[np.ix_(mine, mine)], expected[np.ix_(theirs, theirs)])


@needs_reference
@pytest.mark.parametrize("split", DEEPNETS_SPLITS)
def test_sizes_are_those_of_the_reference(split):
    for record in deepnets_records(split)[:20]:
        graph = graph_from_plan(make_plan(NetConfig.from_dict(record, C=32)))
        assert graph.num_nodes == record["num_nodes"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_graphs_have_the_golden_counts(golden):
    plan = make_plan(NetConfig.from_dict(golden["net_args"]))
    graph = graph_from_plan(plan)
    counts = np.bincount(graph.primitive, minlength=len(PRIMITIVES))
    assert counts.tolist() == golden["primitives"]
    assert graph.num_edges == golden["one_hop_edges"]
    lengths = np.bincount(graph.distances()[graph.distances() > 0], minlength=51)
    assert lengths.tolist() == golden["path_lengths"]
    assert plan.num_params == golden["num_params"]


def test_predefined_transformer():
    for size, classes in ((32, 10), (224, 1000)):
        assert graph_from_plan(make_plan(VIT_CONFIG, classes, size)).num_nodes == 129


@settings(max_examples=50, deadline=None)
@given(archs())
def test_graphs_and_plans_agree(config):
    plan = make_plan(config)
    graph = graph_from_plan(plan)
    assert graph.primitive_names[0] == "input"
    assert graph.primitive_names[-2:] == ("conv", "bias")
    assert len(graph.names) == graph.num_nodes == len(set(graph.names))
    assert graph.num_classes == plan.num_classes
    nodes = param_nodes(plan)
    assert [node for op in op_nodes(plan) for node in op] == nodes.tolist()
    for spec, node, binding in zip(plan.params, nodes, graph.bindings, strict=True):
        assert (binding.path, binding.node, binding.role) == (spec.path, node, spec.role)
        assert binding.is_classifier == (node >= graph.num_nodes - 2)
        canonical = np.arange(spec.size).reshape(binding.shape)
        leaf = canonical.reshape(binding.split).transpose(binding.perm).reshape(binding.part_shape)
        assert leaf.shape == spec.shape == binding.leaf_shape and binding.index is None
        shape = binding.shape + (1,) * (4 - len(binding.shape))
        assert graph.shapes[node].tolist() == list(shape)
        if spec.role != "norm_bias":
            assert graph.names[node] == spec.torch_name
    with_params = set(nodes.tolist())
    for node, name in enumerate(graph.primitive_names):
        pooling = name in ("max_pool", "avg_pool")
        has_shape = node in with_params or pooling
        assert has_shape == bool(graph.shapes[node].any())
        assert not pooling or graph.shapes[node].tolist() == [1, 1, 3, 3]


def test_sums_of_one_value_are_no_nodes():
    # Both edges lead from the same value: in the first cell states 0 and 1 are the stem's
    # output, and skip connections pass it on.
    edges = (("skip_connect", 0), ("skip_connect", 1))
    reduce = (("conv_1x1", 0), ("conv_1x1", 1))
    config = NetConfig(
        Genotype(edges, (2,), reduce, (2,)), 4, 32, preproc=False, C_mult=1, norm=None
    )
    plan = make_plan(config)
    assert plan.ops[1].kind == "sum" and plan.ops[1].inputs == (1, 1)
    graph = graph_from_plan(plan)
    assert graph.primitive_names.count("sum") == sum(op.kind == "sum" for op in plan.ops) - 1
