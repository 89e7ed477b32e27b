"""Networks driven from the host against the Flax networks with the same parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.ghn.config import ghn1_cifar10, ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.pages import blocks_of, read_leaves
from ppuda_jax.hostloop.predictor import Predictor
from ppuda_jax.hostloop.run import calls_of_leaves, calls_of_pages, run
from ppuda_jax.hostloop.steps import steps_of
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.prediction.predict import predict_params
from tests.networks import plan_of, random_params

_EDGES = {
    "dense": ("conv_1x1:0 conv_3x3:1 conv_5x5:0 conv_7x7:2 conv_7x1_1x7:3 skip_connect:0", (2, 4)),
    "separable": ("sep_conv_3x3:0 dil_conv_5x5:1 sep_conv_5x5:2 dil_conv_3x3:0", (2, 3)),
    "pools": ("max_pool_3x3:0 avg_pool_3x3:1 cse:2 cse:0", (2, 3)),
    "absent": ("none:0 conv_1x1:1 none:0 none:1 skip_connect:1 none:0", (2, 3, 4)),
    "attention": ("msa:0 skip_connect:1 conv_3x3:2 cse:0", (2, 3)),
}
_SETTINGS = {
    "default": {},
    "other": {"stem_type": 1, "norm": None, "glob_avg": False, "fc_layers": 2, "C_mult": 2},
    "plain": {"preproc": False, "stem_pool": False, "ks": 7},
}


@functools.cache
def _theta(make):
    return init_theta(make(), jax.random.key(0))


def _images(plan: Plan, dtype=jnp.float32):
    size = plan.image_size
    return jax.random.normal(jax.random.key(1), (4, size, size, 3), dtype)


def _in_order(plan: Plan, params):
    return [functools.reduce(lambda tree, key: tree[key], s.path, params) for s in plan.params]


def _plan(edges: str, settings: str) -> Plan:
    cells, concat = _EDGES[edges]
    if settings == "plain":  # without preprocessing all maps have one width
        concat = concat[:1]
    return plan_of(cells, cells, concat=concat, n_cells=3, **_SETTINGS[settings])


@functools.cache
def _functions() -> StepFunctions:
    return StepFunctions(Batch(4), 1)


def _close(got, want, tolerance):
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    "edges,settings",
    [(edges, "default") for edges in _EDGES]
    + [("dense", "other"), ("attention", "other"), ("pools", "plain"), ("absent", "plain")],
)
def test_steps_compute_what_the_flax_network_does(edges, settings):
    plan = _plan(edges, settings)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(np.float64), random_params(plan, 0))
        images = _images(plan, jnp.float64)
        functions = StepFunctions(Batch(4, "float64", "float64"), 1)
        calls = calls_of_leaves(functions, steps_of(plan), _in_order(plan, params))
        want = jax.jit(Network(plan).apply)({"params": params}, images)
        _close(run(calls, images), want, 1e-11)


@pytest.mark.parametrize(
    "make,split,index",
    [(ghn2_cifar10, "test", 1), (ghn2_cifar10, "wide", 3), (ghn1_cifar10, "test", 6)],
)
def test_pages_hold_what_predict_params_predicts(make, split, index):
    plan, config, theta = make_plan(arch_at(split, index, 32)), make(), _theta(make)
    network = make_network(plan, config)
    pages = Predictor(config).predict(theta, network)
    params = predict_params(None, graph_from_plan(plan), LoadedGHN(config, theta))
    leaves, checked = _in_order(plan, params), set()
    for step, place in zip(network.steps, network.places, strict=True):
        read = [pages[b][n] for b, n in zip(blocks_of(step.key), place.pages, strict=True)]
        got = read_leaves(step.key, read, jnp.asarray(place.starts))
        for number, leaf in zip(step.params, got, strict=True):
            _close(leaf, leaves[number], 1e-5)
            checked.add(number)
    assert len(checked) == len(leaves)


def test_a_network_runs_on_its_pages():
    plan, config, theta = _plan("separable", "default"), ghn2_cifar10(), _theta(ghn2_cifar10)
    network, images, functions = make_network(plan, config), _images(plan), _functions()
    pages = Predictor(config).predict(theta, network)
    got = run(calls_of_pages(functions, network.steps, network.places, pages), images)
    params = predict_params(None, graph_from_plan(plan), LoadedGHN(config, theta))
    _close(got, jax.jit(Network(plan).apply)({"params": params}, images), 1e-5)


def test_norms_use_the_first_images_alone():
    plan = plan_of(*["conv_1x1:0 conv_3x3:1"] * 2, n_cells=3)
    params, images = random_params(plan, 0), _images(plan)
    functions = StepFunctions(Batch(4, calibration=2), 1)
    calls = calls_of_leaves(functions, steps_of(plan), _in_order(plan, params))
    calibrated = Network(plan, context=OpContext(norm_images=2))
    want = jax.jit(calibrated.apply)({"params": params}, images)
    _close(run(calls, images), want, 1e-5)


def test_networks_share_functions_and_nothing_is_compiled_per_network():
    functions = StepFunctions(Batch(4), 1)
    one = plan_of("conv_1x1:0 conv_3x3:1", "conv_1x1:0 conv_3x3:1", n_cells=5)
    two = plan_of("conv_3x3:0 conv_1x1:1", "conv_3x3:0 conv_1x1:1", n_cells=8)
    counts = []
    for plan in (one, two):
        leaves = _in_order(plan, random_params(plan, 0))
        run(calls_of_leaves(functions, steps_of(plan), leaves), _images(plan))
        counts.append(functions.count)
    assert counts[0] == counts[1]


def test_another_decoder_is_refused():
    config = ghn2_cifar10().__class__(decoder="mlp")
    with pytest.raises(ValueError, match="conv decoder with blocks of 64 x 64 channels, received"):
        make_network(plan_of("conv_1x1:0 conv_1x1:1", "conv_1x1:0 conv_1x1:1"), config)
