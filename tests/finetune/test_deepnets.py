"""The ways to train a network of DeepNets-1M are one training."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.runners import UnfitError
from ppuda_jax.executor.tables import Tables
from ppuda_jax.finetune.deepnets import best_way, by_itself, hand_made, on_host
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.in_executor import in_executor
from ppuda_jax.finetune.inits import he, orthogonal, postprocessed, predicted
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from tests.close import assert_close
from tests.evaluation.given import small_nets
from tests.networks import plan_of

CELLS = "conv_1x1:0 max_pool_3x3:1"
ATTENTION = "msa:0 max_pool_3x3:1"  # the executor compiles these in a fifth of the time
RECIPE = Recipe(batch_size=8, learning_rate=0.05, label_smoothing=0.1)


@pytest.fixture(scope="module")
def net():
    plan = plan_of(CELLS, CELLS, n_cells=3)
    net = EvalNet("test", 0, plan.config, num_classes=10)
    assert net.plan == plan
    return net


@pytest.fixture(scope="module")
def attentive():
    plan = plan_of(ATTENTION, ATTENTION, n_cells=3, fc_layers=2)
    return EvalNet("test", 1, plan.config, num_classes=10)


@pytest.fixture(scope="module")
def ghn():
    config = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tiny")


def test_driven_from_the_host_or_by_itself_is_one_training(net, train_images, held_out):
    curves = []
    recipe = dataclasses.replace(RECIPE, learning_rate=0.005)  # more would make much of rounding
    for network in (by_itself(net), on_host(net, 8)):
        start = he()(network, 0)
        curves.append(fit(network, start, train_images, held_out, recipe, steps=4, every=2))
    first, *_, last = (point.loss for point in curves[0].points)
    assert abs(first - last) > 1e-2 * first
    for point, want in zip(curves[1].points, curves[0].points, strict=True):
        assert_close(point.loss, want.loss, 1e-4)
        assert point.accuracy == want.accuracy
    by_name, in_order = curves[0].params, curves[1].params
    for spec, leaf in zip(net.plan.params, in_order, strict=True):
        want = by_name
        for name in spec.path:
            want = want[name]
        assert_close(leaf, want, 1e-3, "/".join(spec.path))


def test_every_way_starts_from_one_prediction(attentive, ghn, held_out):
    points = []
    for network in (by_itself(attentive), on_host(attentive, 8), in_executor(attentive, 8)):
        params = predicted(ghn)(network, 0)
        b = held_out.batches[0]
        points.append(network.score(params, network.state, b.images, b.labels, b.weights))
    for point in points[1:]:
        assert_close(point, points[0], 1e-4)


def test_a_random_classifier_on_a_predicted_network(attentive, ghn, held_out):
    """As the paper does for images that the hypernetwork was not trained on (section 5.3)."""
    b, points = held_out.batches[0], []
    for network in (by_itself(attentive), on_host(attentive, 8), in_executor(attentive, 8)):
        params = predicted(ghn, classifier=False)(network, 3)
        points.append(network.score(params, network.state, b.images, b.labels, b.weights))
    for point in points[1:]:
        assert_close(point, points[0], 1e-4)
    whole = predicted(ghn)(by_itself(attentive), 3)
    mixed, own = (
        predicted(ghn, classifier=False)(by_itself(attentive), 3),
        by_itself(attentive).initial(3),
    )
    assert_close(mixed["stem0"], whole["stem0"], 1e-6)
    assert_close(mixed["classifier_0"], whole["classifier_0"], 1e-6)
    assert_close(mixed["classifier_1"], own["classifier_1"], 1e-6)


def test_recipes_with_dropped_edges_and_an_auxiliary_classifier(net, train_images, held_out):
    recipe = dataclasses.replace(RECIPE, drop_path=0.2, auxiliary=0.4)
    network = best_way(net, recipe)
    start = he()(network, 0)
    curve = fit(network, start, train_images, held_out, recipe, steps=2)
    before, after = start["auxiliary_head"], curve.params["auxiliary_head"]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert min(jax.tree.leaves(moved)) > 0 and curve.diverged_at is None


def test_orthogonal_starts(net, ghn):
    network = by_itself(net)
    for init in (orthogonal(), postprocessed(ghn, beta=0.0)):
        kernel = np.asarray(init(network, 0)["stem"]["conv"]["kernel"])
        matrix = kernel.reshape(-1, kernel.shape[-1])
        gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        assert_close(gram, np.eye(len(gram)), 1e-4)


def test_he_draws_kernels_and_leaves_the_rest():
    (wide,) = small_nets(1)
    network = by_itself(wide)
    own, drawn = network.initial(1), he()(network, 2)
    leaves = zip(wide.plan.params, wide.plan.in_order(own), wide.plan.in_order(drawn), strict=True)
    large = 0
    for spec, before, after in leaves:
        if spec.role.startswith(("norm", "bias")):
            np.testing.assert_array_equal(before, after)
        elif spec.role == "kernel" and spec.size > 4000:
            large += 1
            deviation = np.sqrt(2 / np.prod(spec.shape[:-1]))
            assert np.std(after) == pytest.approx(deviation, rel=0.1), spec.path
            assert abs(np.corrcoef(np.ravel(before), np.ravel(after))[0, 1]) < 0.1
    assert large


def test_what_does_not_fit_is_named(net):
    model = EvalNet("predefined", 0, None, "resnet50")
    with pytest.raises(UnfitError, match="resnet50 cannot be trained in the executor: a hand-made"):
        in_executor(model, 8)
    with pytest.raises(UnfitError, match="resnet50 is no network of DeepNets-1M"):
        by_itself(model)
    with pytest.raises(UnfitError, match="resnet50 is no network of DeepNets-1M"):
        on_host(model, 8)
    with pytest.raises(UnfitError, match=r"needs .* GiB in the executor to be trained"):
        in_executor(net, 8, memory_limit_gib=0.001)


def test_models_of_splits_are_trained_by_themselves(held_out):
    network = best_way(EvalNet("predefined", 0, None, "resnet50"), RECIPE)
    assert network.name == "resnet50" and network.graph is not None
    with pytest.raises(UnfitError, match="test-0 is a network of DeepNets-1M"):
        hand_made(EvalNet("test", 0, plan_of(CELLS, CELLS).config))


def test_the_driver_decides_how_networks_are_trained(net):
    host, executor = (best_way(net, RECIPE, driver) for driver in ("host", "executor"))
    assert isinstance(host.pack(host.initial(0)), list)
    assert isinstance(executor.pack(executor.initial(0)), Tables)
    alone = best_way(net, RECIPE, "executor", memory_limit_gib=0.001)
    assert isinstance(alone.pack(alone.initial(0)), dict)
