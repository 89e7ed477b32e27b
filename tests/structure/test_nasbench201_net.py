"""Networks of NAS-Bench-201: one by one, mixed, as graphs, with predicted parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.prediction.predict import predict_leaves
from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure import nasbench201_net as net
from ppuda_jax.structure.nasbench201_graph import graph_of
from ppuda_jax.structure.nasbench201_predicted import CellPredictor
from ppuda_jax.structure.search.problem import Objects, classification
from ppuda_jax.structure.weights import Judge, predicted
from ppuda_jax.tracing.api import trace_graph
from tests.close import assert_close

SKELETON = net.Skeleton(classes=10, channels=4, cells=1, image_size=8)
X = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
LABELS = jnp.arange(6)
PARAMS = net.init(SKELETON, jax.random.key(0))
# Nodes that lead nowhere, sums of three, doubled skips, all operations.
CELLS = {
    "all": (
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    ),
    "doubled": (
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|"
        "+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
    ),
    "dead": "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|",
    "skips": nb.to_text(dict.fromkeys(nb.EDGES, 1)),
    "full": nb.to_text(dict.fromkeys(nb.EDGES, 3)),
}


def config():
    return GHNConfig(
        max_shape=(8, 8, 3, 3), weight_norm=True, virtual_edges=50, layernorm=True, hid=8
    )


@pytest.fixture(scope="module")
def source():
    ghn = LoadedGHN(config(), init_theta(config(), jax.random.key(3)), "small", {})
    return predicted(CellPredictor(ghn, SKELETON)), ghn


DATA = Objects(X, LABELS)
JUDGE = Judge(classification(net.supernet(SKELETON), DATA, DATA, len(X)))


@pytest.mark.parametrize("name", ["all", "dead", "skips"])
def test_the_mixture_at_a_vertex_is_one_network(name):
    choice = nb.from_text(CELLS[name])
    space = net.supernet(SKELETON)
    one = net.network(SKELETON, choice)({"params": PARAMS}, X)
    assert_close(space.apply(PARAMS, space.vertex(choice), X), one, 1e-4)
    numbers = {edge: jnp.asarray(op) for edge, op in choice.items()}
    assert_close(net.apply_vertex(SKELETON, PARAMS, numbers, X), one, 1e-4)


def test_nothing_stays_nothing_behind_norms_with_biases():
    """The convolution to the output has a norm whose bias must not appear: its input is nothing."""
    dead = nb.from_text("|nor_conv_1x1~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    biased = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if path[-1].key == "bias" else leaf, PARAMS
    )
    one = net.network(SKELETON, dead)({"params": biased}, X)
    numbers = {edge: jnp.asarray(op) for edge, op in dead.items()}
    assert_close(net.apply_vertex(SKELETON, biased, numbers, X), one, 1e-4)


def test_the_non_centred_form_scales_operations():
    structure = {edge: jnp.arange(5.0) for edge in nb.EDGES}
    scaled = net.scale(PARAMS, structure)
    for op, gamma in (("nor_conv_1x1", 2), ("nor_conv_3x3", 3)):
        own, first = (tree["cell_1_0"]["edge_13"][op] for tree in (scaled, PARAMS))
        assert_close(own["kernel"], gamma * first["kernel"], 1e-6)
        assert_close(own["scale"], gamma * first["scale"], 1e-6)
    assert scaled["head"] is PARAMS["head"]


def test_sizes_and_operations_count_the_convolutions():
    """Thirty 3x3 convolutions a stage where N = 5; none in the cell of skips, of 0.073 M."""
    space = net.supernet(net.Skeleton())
    full = space.vertex(nb.from_text(CELLS["full"]))
    skips = space.vertex(nb.from_text(CELLS["skips"]))
    kernels = sum(30 * 9 * c * c + 30 * 2 * c for c in (16, 32, 64))
    assert space.size(full) - space.size(skips) == kernels
    assert space.flops(full) - space.flops(skips) == sum(
        60 * 9 * c * c * s * s for c, s in ((16, 32), (32, 16), (64, 8))
    )


@pytest.mark.parametrize("name", CELLS)
def test_graphs_are_those_of_the_tracer(name):
    """Up to the order of nodes that do not depend on each other."""
    choice = nb.from_text(CELLS[name])
    shapes = jax.eval_shape(lambda: PARAMS)
    traced = trace_graph(net.network(SKELETON, choice), {"params": shapes}, X)
    built, nodes = graph_of(SKELETON, choice)
    assert built.num_nodes == traced.num_nodes and len(built.edges) == len(traced.edges)
    places = {binding.path: binding.node for binding in traced.bindings}
    assert set(places) == set(nodes)
    for graph, where in ((built, nodes), (traced, places)):
        kinds = [graph.primitive[where[path]] for path in sorted(nodes)]
        shaped = [graph.shapes[where[path]].tolist() for path in sorted(nodes)]
        if graph is built:
            expected = kinds, shaped
    assert (kinds, shaped) == expected
    assert sorted(built.distances(50).ravel()) == sorted(traced.distances(50).ravel())


@pytest.mark.parametrize("name", ["all", "dead"])
def test_one_program_predicts_what_predict_params_predicts(source, name):
    source, ghn = source
    choice = nb.from_text(CELLS[name])
    shapes = jax.eval_shape(lambda: PARAMS)
    graph = trace_graph(net.network(SKELETON, choice), {"params": shapes}, X)
    expected = predict_leaves(graph, ghn)
    found = flatten_dict(source.of(choice))
    for path, leaf in expected.items():
        assert_close(found[path], leaf, 1e-5, "/".join(path))
    logits = net.network(SKELETON, choice)({"params": source.of(choice)}, X)
    score = JUDGE(source, choice)
    assert score.score == pytest.approx(float(jnp.mean(jnp.argmax(logits, -1) == LABELS)))
    losses = -jax.nn.log_softmax(logits)[jnp.arange(6), LABELS]
    assert score.loss == pytest.approx(float(jnp.mean(losses)), rel=1e-4)


def test_cells_that_nothing_passes_through_are_worth_nothing(source):
    nothing = dict.fromkeys(nb.EDGES, 0)
    assert not net.connected(nothing) and not net.connected({**nothing, (0, 1): 1, (2, 3): 1})
    assert JUDGE(source[0], nothing) == (np.inf, -np.inf)
    with pytest.raises(ValueError, match="nothing reaches the output of .*no network"):
        net.network(SKELETON, nothing)
    with pytest.raises(ValueError, match="nothing reaches the output of .*no graph"):
        graph_of(SKELETON, nothing)


def test_a_hypernetwork_for_other_classes_is_refused():
    ghn = LoadedGHN(config(), {}, "small", {})
    with pytest.raises(ValueError, match="small cannot predict head/kernel: .*classifier of 7"):
        CellPredictor(ghn, net.Skeleton(7, 4, 1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "cells must be at least 1"),
        ({"image_size": 30}, "image_size must be a multiple of 4, received 30"),
    ],
)
def test_skeletons_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        net.Skeleton(**options)
