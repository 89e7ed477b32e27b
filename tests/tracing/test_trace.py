"""Tracing plain, Haiku, Equinox, linen and nnx networks: kinds of nodes, bindings, determinism."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppuda_jax.graphs.placement import numpy_index
from ppuda_jax.tracing.api import trace, trace_graph
from tests.tracing import modern_models, plain_models, plain_structures, third_party_models
from tests.tracing.plain_cases import IMAGE, s

CASES = {
    **plain_models.CASES,
    **plain_structures.CASES,
    **modern_models.CASES,
    **third_party_models.CASES,
}


@pytest.fixture(autouse=True)
def _foreign_code():
    """Other authors rely on implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(params=CASES, ids=str)
def traced(request):
    build, kinds, unbound = CASES[request.param]
    return trace_graph(*build()), kinds, unbound


def placed(binding, canonical):
    """The leaf part that a canonical array becomes, in NumPy."""
    part = canonical.reshape(binding.split).transpose(binding.perm)
    return part.reshape(binding.part_shape)


def test_there_are_forty_varied_models():
    assert len(CASES) >= 40


def test_nodes_and_bindings(traced):
    graph, kinds, unbound = traced
    found = collections.Counter(graph.primitive_names)
    assert found.pop("input") == 1
    assert found == collections.Counter(kinds)
    assert {"/".join(path) for path, _, _ in graph.unbound} == unbound
    assert all(reason for _, _, reason in graph.unbound)
    tree = graph.source.tree
    covered = {
        path: np.zeros(shape, int) for path, shape in zip(tree.paths, tree.shapes, strict=True)
    }
    for binding in graph.bindings:
        assert binding.leaf_shape == covered[binding.path].shape
        part = placed(binding, np.ones(binding.shape, int))
        if binding.index is None:
            covered[binding.path] += part
        else:
            covered[binding.path].reshape(binding.view_shape)[numpy_index(binding)] += part
    listed = {path for path, _, _ in graph.unbound}
    for path, times in covered.items():
        assert (times == (0 if path in listed else 1)).all(), path


def test_tracing_is_deterministic():
    for name in ("fused_qkv_first", "haiku_transformer", "nnx_split"):
        first, second = (trace_graph(*CASES[name][0]()) for _ in range(2))
        assert first.bindings == second.bindings and first.names == second.names
        assert np.array_equal(first.edges, second.edges)


def by_path(graph):
    return {"/".join(b.path): b for b in graph.bindings}


def test_canonical_kernels_are_transposed_into_their_leaves():
    bindings = by_path(trace_graph(*CASES["per_head_kernels"][0]()))
    query, out = bindings["q"], bindings["o"]
    assert (query.shape, out.shape) == ((12, 12), (12, 12))
    canonical = np.arange(144).reshape(12, 12)
    np.testing.assert_array_equal(
        placed(query, canonical), canonical.reshape(4, 3, 12).transpose(0, 2, 1)
    )
    np.testing.assert_array_equal(placed(out, canonical), canonical.T.reshape(4, 3, 12))
    bindings = by_path(trace_graph(*CASES["grouped_and_dilated"][0]()))
    assert bindings["g"].shape == (8, 2, 3, 3) and bindings["d"].shape == (8, 1, 3, 3)
    kernel = np.arange(8 * 2 * 9).reshape(8, 2, 3, 3)
    np.testing.assert_array_equal(placed(bindings["g"], kernel), kernel.transpose(2, 3, 1, 0))
    bindings = by_path(trace_graph(*CASES["conv_1d"][0]()))
    assert bindings["k"].shape == (8, 3, 5, 1)


def test_layers_in_a_scan_get_a_part_each():
    graph = trace_graph(*CASES["scan_over_layers"][0]())
    parts = [b for b in graph.bindings if b.path == ("w",)]
    assert [b.index[0] for b in parts] == [0, 1, 2, 3]
    assert len({b.node for b in parts}) == 4


def test_the_classifier_is_marked():
    graph = trace_graph(*CASES["plain_conv"][0]())
    assert graph.num_classes == 10
    assert [b.path for b in graph.bindings if b.is_classifier] == [("h", "w"), ("h", "b")]
    nodes = [b.node for b in graph.bindings if b.is_classifier]
    assert nodes == [graph.num_nodes - 2, graph.num_nodes - 1]


def test_names_play_no_role():
    apply, params, x = CASES["squeeze_excite"][0]()
    renamed = {"zz": params["k"], "k": params["a"], "a": params["c"], "q": params["h"]}
    other = trace_graph(
        lambda p, x: apply({"k": p["zz"], "a": p["k"], "c": p["a"], "h": p["q"]}, x), renamed, x
    )
    graph = trace_graph(apply, params, x)
    assert np.array_equal(graph.primitive, other.primitive)
    assert np.array_equal(graph.edges, other.edges)


def test_a_chain_has_one_edge_less_than_nodes():
    apply, params, x = CASES["fused_qkv_split"][0]()
    graph = trace_graph(apply, params, x)
    assert graph.edges.tolist() == [[i, i + 1] for i in range(graph.num_nodes - 1)]


def test_nothing_is_computed():
    huge = {"w": jax.ShapeDtypeStruct((1_000_000, 1_000_000), jnp.float32)}
    x = jax.ShapeDtypeStruct((4, 1_000_000), jnp.float32)
    graph = trace_graph(lambda p, x: x @ p["w"], huge, x)
    assert graph.bindings[0].shape == (1_000_000, 1_000_000)


def test_several_inputs_and_static_leaves():
    params = {"w": s(4, 3), "scale": 2.0, "f": jnp.tanh}
    x = s(2, 4)
    graph = trace_graph(lambda p, a, b: p["f"](a + b) @ p["w"] * p["scale"], params, (x, x))
    assert graph.primitive_names == ("input", "conv")
    rebuilt = graph.source.tree.unflatten({("w",): 1.0})
    assert rebuilt["f"] is jnp.tanh and rebuilt["scale"] == 2.0


def test_virtual_edges_and_globals_travel():
    graphs = trace(*CASES["linen_text"][0]())
    assert graphs.edges["distance"].max() > 1
    assert math.prod(graphs.globals["arch"].bindings[0].shape) > 0
    lowered = jax.jit(lambda g: jax.tree.map(lambda a: a + 0, g))(graphs)
    assert lowered.globals["arch"] == graphs.globals["arch"]


def test_running_statistics_in_a_collection_give_batch_norm():
    def apply(v, x):
        s = v["batch_stats"]
        x = lax.conv_general_dilated(
            x, v["params"]["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (x - s["m"]) / jnp.sqrt(s["v"] + 1e-5) * v["params"]["g"] + v["params"]["b"]

    variables = {
        "params": {"k": s(3, 3, 3, 8), "g": s(8), "b": s(8)},
        "batch_stats": {"m": s(8), "v": s(8)},
    }
    graph = trace_graph(apply, variables, IMAGE)
    assert graph.primitive_names == ("input", "conv", "bn") and not graph.unbound
