"""Whole networks of DARTS against the library's own networks of their genotypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.op_params import op_params
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.records import network_graph
from ppuda_jax.nets.network import Network
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.structure import darts_cell, darts_net, tasks
from ppuda_jax.structure.darts_cell import OPS
from ppuda_jax.structure.search.named import METHODS
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.weights import predicted
from tests.close import assert_close

SKELETON = darts_net.Skeleton(channels=4, cells=3, steps=1)
SPACE = darts_net.supernet(SKELETON)
WIDE = darts_net.Skeleton(channels=4, cells=4, steps=3)


def random_structure(skeleton, seed):
    rng = np.random.default_rng(seed)
    return {e: jnp.asarray(rng.dirichlet(np.ones(8))) for edges in skeleton.edges for e in edges}


def choice_of(skeleton, structure):
    return {edge: int(op) for edge, op in darts_net.discretise(skeleton, structure).items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_traced_rule_is_the_one_of_cells(seed):
    structure = random_structure(WIDE, seed)
    normal, reduce = (
        {e: np.asarray(g) for e, g in WIDE.of_kind(structure, kind).items()}
        | {
            e: np.ones(1)
            for e in darts_cell.cell(3).edges
            if e not in WIDE.of_kind(structure, kind)
        }
        for kind in (False, True)
    )
    found = darts_net.genotype(WIDE, choice_of(WIDE, structure))
    assert found == darts_cell.genotype(normal, reduce)


@pytest.mark.parametrize("seed", range(3))
def test_every_vertex_has_a_plan_and_a_graph(seed):
    """One function an edge, drawn at random; parameters and operations are those of the plan."""
    rng = np.random.default_rng(seed)
    space = darts_net.supernet(WIDE)
    vertex = space.vertex({edge: int(rng.integers(8)) for edge in space.names})
    choice = choice_of(WIDE, vertex)
    plan = darts_net.plan_of(WIDE, choice)
    assert graph_from_plan(plan).num_nodes > 20 and space.connected(choice)
    structure = space.vertex(choice)
    assert int(space.size(structure)) == plan.num_params
    kernels = sum(
        2 * int(np.prod(spec.shape)) * op.h_out**2
        for op in plan.ops
        for spec in op_params(op)
        if spec.role == "kernel"
    )
    assert_close(float(space.flops(structure)), float(kernels), 1e-6)
    assert " + " in space.describe(choice) and "; reduce: " in space.describe(choice)


def test_the_shipped_hypernetwork_predicts_what_a_search_chose():
    """The supernet at a vertex is the library's network, with the parameters predicted for it."""
    names = {(1, 3): "sep_conv_3x3", (2, 3): "skip_connect"}
    choice = {e: OPS.index(names[e]) for e in SKELETON.edges[0]}
    choice |= {
        e: OPS.index(name)
        for e, name in zip(SKELETON.edges[1], ("skip_connect", "dil_conv_3x3"), strict=True)
    }
    ghn = load_ghn("ghn2-cifar10")
    config = SKELETON.config(darts_net.genotype(SKELETON, choice))
    params = predict_params(None, network_graph(config.to_dict()), ghn)
    source = predicted(darts_net.DartsPredictor(ghn, SKELETON))
    weights = source.inputs(choice, 0)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    with jax.disable_jit():
        expected = Network(darts_net.plan_of(SKELETON, choice)).apply({"params": params}, x)
        found = SPACE.run(source.weights(weights), choice, x)
    assert_close(found, expected, 1e-4)


def test_none_is_left_out_of_a_genotype():
    choice = {edge: OPS.index("none") for edges in SKELETON.edges for edge in edges}
    assert not SPACE.connected(choice)
    one = {**choice, SKELETON.edges[0][0]: 4, SKELETON.edges[1][1]: 3}
    assert darts_net.genotype(SKELETON, one).normal == (("sep_conv_3x3", 0), ("none", 0))
    assert darts_net.to_text(darts_net.genotype(SKELETON, one)) == (
        "normal: sep_conv_3x3~0 + none~0; reduce: skip_connect~1 + none~0"
    )


def test_the_non_centred_form_scales_operations():
    weights = jax.eval_shape(SPACE.init, jax.random.key(0))
    weights = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), weights)
    normal, reduce = (edges[0] for edges in SKELETON.edges)
    structure = {e: jnp.zeros(8) for edges in SKELETON.edges for e in edges}
    structure |= {normal: jnp.arange(8.0), reduce: 10 + jnp.arange(8.0)}
    scaled = SPACE.scale(weights, structure)
    for number in (4, 7):
        kernel = scaled["cell_0"]["edges"][1, 3][number][1]
        assert_close(kernel, jnp.full((1, 1, 4, 4), float(number)), 1e-6)
        assert float(scaled["cell_1"]["edges"][1, 3][number][0].max()) == 10 + number
    assert float(scaled["cell_2"]["edges"][1, 3][3][0].max()) == 13  # a strided skip connection
    assert scaled["head"] is weights["head"]


def test_parameters_of_partial_channels_are_not_predicted():
    with pytest.raises(ValueError, match="predicted for whole channels, received partial=2"):
        darts_net.DartsPredictor(None, darts_net.Skeleton(partial=2))


def test_the_supernet_can_be_searched():
    skeleton = darts_net.Skeleton(2, 2, 2, 1, 8, partial=2)
    data = Objects(jnp.ones((2, 8, 8, 3)), jnp.zeros(2, jnp.int32))
    task = tasks.darts(tasks.Images(data, data, 2), skeleton, 2)
    assert task.final.supernet.init(jax.random.key(0))["cell_0"]["edges"][1, 3][4][1].shape[-1] == 2
    method = METHODS["gdas"](task.problem, task.optimizers, 10)
    state = jax.eval_shape(method.init, jax.random.key(0))
    batch = task.problem.train
    stepped = jax.eval_shape(method.step, state, batch, batch, jax.random.key(0), 0)
    assert jax.tree.map(jnp.shape, stepped) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 1}, "cells must be at least 2, received 1"),
        ({"channels": 5}, "channels must be even, received 5"),
        ({"partial": 3}, "partial must divide the 8 channels, received 3"),
        ({"side": 30}, "side must be a multiple of 4, received 30"),
    ],
)
def test_skeletons_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        darts_net.Skeleton(**options)


def test_a_step_of_three_edges_is_no_genotype():
    choice = {edge: 3 for edges in WIDE.edges for edge in edges}
    with pytest.raises(ValueError, match="a step of a genotype has 2 edges, received .*discretise"):
        darts_net.genotype(WIDE, choice)
