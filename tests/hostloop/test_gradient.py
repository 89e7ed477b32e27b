"""The gradient of networks driven from the host against automatic differentiation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.gradient import leaf_gradient, request_gradient
from ppuda_jax.hostloop.meta_gradient import MetaGradient
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.predictor import Predictor
from ppuda_jax.hostloop.run import calls_of_leaves, run
from ppuda_jax.hostloop.steps import steps_of
from ppuda_jax.nets.network import Network
from ppuda_jax.prediction.predict import predict_params
from tests.close import assert_close
from tests.networks import plan_of, random_params

_IMAGES = 8


def _plans():
    one = "sep_conv_3x3:0 dil_conv_5x5:1 conv_7x1_1x7:2 cse:0 conv_3x3:1 skip_connect:3"
    two = "max_pool_3x3:0 avg_pool_3x3:1 none:0 conv_1x1:2"
    return [
        plan_of(one, two, concat=(2, 3), n_cells=3),
        plan_of(two, two, concat=(2, 3), n_cells=3, norm=None, fc_layers=2),
    ]


def _inputs():
    keys = jax.random.split(jax.random.key(1))
    images = jax.random.normal(keys[0], (_IMAGES, 32, 32, 3))
    return images, jax.random.randint(keys[1], (_IMAGES,), 0, 10)


def _meta_gradient(threads, dropout=False):
    functions = StepFunctions(Batch(_IMAGES, dropout=dropout), 1)
    return MetaGradient(Predictor(ghn2_cifar10()), functions, threads)


def test_loss_and_gradient_are_those_of_the_flax_networks():
    """In double precision: in single precision, sums of other orders move the gradient by 3e-3."""
    settings = {"jax_enable_x64": True, "jax_numpy_dtype_promotion": "standard"}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():  # of all threads
            jax.config.update(name, value)
        _compare_with_the_flax_networks()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _compare_with_the_flax_networks():
    config, plans, (images, labels) = ghn2_cifar10(), _plans(), _inputs()
    wide = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
    theta, images = wide(init_theta(config, jax.random.key(0))), wide(images)
    networks = [make_network(plan, config) for plan in plans]
    functions = StepFunctions(Batch(_IMAGES, "float64", "float64"), 1)
    run_host = MetaGradient(Predictor(config), functions, 2)
    loss, scores, gradient = run_host(theta, networks, images, labels, None, 0.1)
    targets = 0.9 * np.eye(10)[labels] + 0.1 / 10

    def objective(theta):
        """Mean loss of predicted networks (paper, Eq. 1)."""
        losses, accuracies = [], []
        for plan in plans:
            params = predict_params(None, graph_from_plan(plan), LoadedGHN(config, theta))
            logits = Network(plan).apply({"params": params}, images)
            losses.append(-(targets * jax.nn.log_softmax(logits)).sum(1).mean())
            accuracies.append((logits.argmax(1) == labels).mean())
        losses = jnp.stack(losses)
        return losses.mean(), {"loss": losses, "accuracy": jnp.stack(accuracies)}

    (want, want_scores), want_gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(theta)
    assert_close(loss, want, 1e-6)
    for name, value in scores.items():
        assert_close(value, want_scores[name], 1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want_gradient))
    chex.assert_trees_all_close(gradient, want_gradient, rtol=0, atol=1e-5 * largest)


def test_the_gradient_of_own_parameters_is_that_of_finite_differences():
    cell = "sep_conv_3x3:0 conv_1x1:1 cse:2 skip_connect:2"
    plan = plan_of(cell, cell, concat=(2, 3), n_cells=3, C=32, fc_layers=2)
    steps = steps_of(plan)
    with jax.enable_x64(True):
        images, labels = jnp.asarray(_inputs()[0][:2], jnp.float64), jnp.array([3, 7])
        functions = StepFunctions(Batch(2, "float64", "float64"), 1)
        rng = np.random.default_rng(0)
        leaves = _in_order(plan, random_params(plan, 0))
        request_gradient(functions, "leaves", steps)

        def loss(shift):
            moved = [leaf + shift * step for leaf, step in zip(leaves, direction, strict=True)]
            logits = run(calls_of_leaves(functions, steps, moved), images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        scores, gradient = leaf_gradient(functions, steps, leaves, images, labels, None)
        for number in (None, *rng.choice(len(leaves), 5, replace=False)):
            direction = [
                rng.standard_normal(leaf.shape) * (number is None or i == number)
                for i, leaf in enumerate(leaves)
            ]
            slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
            difference = (loss(1e-7) - loss(-1e-7)) / 2e-7  # hardly ever over a kink of a ReLU
            np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(scores.loss, loss(0.0), rtol=1e-6)


def _in_order(plan, params):
    leaves = [functools.reduce(lambda tree, key: tree[key], s.path, params) for s in plan.params]
    return [jnp.asarray(leaf, jnp.float64) for leaf in leaves]
