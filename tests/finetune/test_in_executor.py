"""Networks as data of the executor: the training of their own modules, by few programs."""

import jax
import numpy as np
import pytest

from ppuda_jax.evaluation.executor_runner import executor_bytes
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import rows_needed
from ppuda_jax.finetune.compare import compare
from ppuda_jax.finetune.deepnets import by_itself
from ppuda_jax.finetune.fit import _whole, beginning, fit
from ppuda_jax.finetune.in_executor import in_executor, rooms_of
from ppuda_jax.finetune.inits import predicted, random
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.runtime.compilation import CompileCounter
from tests.close import assert_close
from tests.evaluation.given import SMALL, small_nets

RECIPE = Recipe(batch_size=8, learning_rate=0.05, label_smoothing=0.1)


def _nets():
    """The first one has no dropout, whose keys are others in each way to train."""
    return sorted(small_nets(4), key=lambda net: net.config.fc_layers)[:2]


@pytest.fixture(scope="module")
def networks():
    nets = _nets()
    rooms = rooms_of(nets)
    return [(net, in_executor(net, 8, rooms=rooms)) for net in nets]


@pytest.fixture(scope="module")
def ghn():
    config = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
    theta = jax.tree.map(np.asarray, init_theta(config, jax.random.key(0)))
    return LoadedGHN(config, theta, "tiny")


def test_the_least_room_is_that_of_the_largest_network():
    nets = _nets()
    needs = [rows_needed([make_program(net.plan, SMALL)]) for net in nets]
    (room,) = rooms_of(nets).values()
    for tables in ("mats", "vecs"):
        for name, rows in getattr(room, tables):
            assert rows == max(dict(getattr(need, tables))[name] for need in needs), name
            assert rows <= dict(getattr(capacity_of(SMALL, 1), tables))[name]


def test_training_is_that_of_the_network_by_itself(networks, train_images, held_out):
    net, network = networks[0]
    own, start = by_itself(net), network.initial(3)
    curves = [
        fit(way, way.pack(start), train_images, held_out, RECIPE, steps=3, every=1)
        for way in (network, own)
    ]
    for ours, want in zip(*(curve.points for curve in curves), strict=True):
        assert_close(ours.loss, want.loss, 1e-3)  # steps drift apart by rounding
    ours, want = network.unpack(curves[0].params), curves[1].params
    together = [
        np.concatenate([np.ravel(leaf) for leaf in net.plan.in_order(params)])
        for params in (ours, want)
    ]
    assert_close(*together, 1e-3)


def test_a_comparison_compiles_three_programs(networks, ghn, train_images, held_out):
    """Networks, initialisations, seeds and learning rates are data."""
    kinds = {"random": random(), "predicted": predicted(ghn, classifier=False)}
    options = {"steps": 2, "every": 2, "seeds": 2, "at_once": 2}
    with CompileCounter() as counter:
        rows = compare(
            networks, kinds, {"sgd": RECIPE}, lambda seed: train_images, held_out, **options
        )
    assert counter.calls <= 3
    assert len(rows) == 2 and all(np.isfinite(row.mean).all() for row in rows)
    with CompileCounter() as counter:
        slower = {"sgd": Recipe(batch_size=8, learning_rate=0.01, label_smoothing=0.1)}
        again = compare(networks, kinds, slower, lambda seed: train_images, held_out, **options)
    assert counter.calls == 0
    assert again[0].mean[0] == rows[0].mean[0] and again[0].learning_rate == 0.01


def test_the_memory_that_training_is_expected_to_take_is_about_what_xla_takes(
    networks, train_images
):
    net, network = networks[0]
    now = beginning(network, network.pack(network.initial(0)), RECIPE)
    arrays = now.params, now.optimiser, now.state, train_images.resident, train_images.batch(0)
    numbers = np.uint32(0), np.int32(0), np.float32(0), np.float32(0)
    step = _whole(network.traced, train_images, RECIPE)
    memory = step.load(network.traced.data, *arrays, *numbers).memory_analysis()
    measured = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert 0.3 < executor_bytes(net.variant, 8, 10, training=True) / measured < 2.5
