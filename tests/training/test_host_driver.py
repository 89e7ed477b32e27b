"""Steps driven from the host: the losses of the Flax networks, and exactly repeatable."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from ppuda_jax import parallel
from ppuda_jax.data.grouping import GroupingState
from ppuda_jax.data.stream import MetaBatches
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.records import network_graph
from ppuda_jax.nets.network import build_network
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.programs import ProgramCache
from ppuda_jax.training import driver as drivers
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.loop import train
from ppuda_jax.training.metrics import read_metrics
from ppuda_jax.training.setup import deepnets_task
from ppuda_jax.training.state import make_state
from ppuda_jax.training.step import make_images
from tests.networks import plan_of

SETTINGS = TrainConfig(
    dataset="digits",
    hidden=8,
    meta_batch_size=2,
    batch_size=8,
    steps=4,
    num_devices=1,
    arch_workers=0,
    driver="host",
    average_decay=0.5,
    checkpoint_every=2,
    log_every=1,
    compilation_cache=None,
)
ONE = parallel.make_topology(1)


_CELLS = "sep_conv_3x3:0 conv_1x1:1", "max_pool_3x3:0 skip_connect:1"
PLANS = (
    plan_of(*_CELLS, concat=(2,), n_cells=3),
    plan_of(*_CELLS[::-1], concat=(2,), n_cells=3, norm=None),
)


@dataclasses.dataclass(frozen=True)
class TwoPlans:
    """An endless stream of two small networks by turns, built as the given networks are."""

    given: object

    def survey(self, index):
        survey = self.given.survey(index)
        return dataclasses.replace(survey, num_nodes=10)

    def build(self, indices, variant):
        plans = [PLANS[index % 2] for index in indices]
        return self.given.build_meta_batch(plans, variant)

    def describe(self, index):
        return {"index": index}


def task_of(settings):
    task = deepnets_task(settings)
    return dataclasses.replace(task, networks=TwoPlans(task.networks))


def dispatch(settings, steps):
    """State and metrics after so many steps in one dispatch, each on both plans."""
    task = task_of(settings)
    arrays = np.stack([task.networks.build((0, 1), None)] * steps)[:, None]
    state = parallel.to_host(make_state(task.theta, settings))
    batches = np.stack([task.images.batch(k) for k in range(steps)])
    rates = np.linspace(1e-3, 1e-2, steps, dtype=np.float32)
    placed = parallel.replicate((state, task.images.resident, batches, rates), ONE)
    driver = task.make_driver(settings, ONE)
    group = MetaBatches(None, (0, 1) * steps, arrays, GroupingState())
    try:
        return parallel.to_host(driver.run(group, placed))
    finally:
        driver.close()


def test_losses_are_those_of_the_flax_networks():
    task = task_of(SETTINGS)
    state = make_state(task.theta, SETTINGS)
    images, labels, _ = make_images(task.images.load)(
        state, task.images.resident, task.images.batch(0)
    )
    ghn = LoadedGHN(GHNConfig.from_dict(task.record["ghn"]), task.theta)
    losses = []
    for plan in PLANS:
        net = build_network(plan.config.to_dict(), num_classes=10, image_size=32)
        graph = network_graph(plan.config.to_dict(), num_classes=10, image_size=32)
        params = predict_params(net.apply, graph, ghn=ghn)
        logits = jax.jit(net.apply)({"params": params}, images)
        losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())
    _, metrics = dispatch(SETTINGS, 1)
    np.testing.assert_allclose(metrics["loss"], [np.mean(losses)], rtol=1e-5)


def test_steps_of_a_dispatch_are_taken_one_after_the_other():
    state, metrics = dispatch(SETTINGS, 3)
    _, first = dispatch(SETTINGS, 1)
    assert int(state.step) == 3
    np.testing.assert_array_equal(metrics["loss"][:1], first["loss"])
    assert len(set(metrics["loss"].tolist())) == 3 and metrics["finite"].all()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """With networks of different variants in a meta-batch, compiled anew in another order."""
    whole = dataclasses.replace(SETTINGS, workdir=str(tmp_path / "whole"))
    result = train(whole, task_of(whole))
    assert (result.step, result.reason) == (4, "finished") and result.programs > 20
    half = dataclasses.replace(SETTINGS, workdir=str(tmp_path / "half"), steps=2, compile_threads=3)
    train(half, task_of(half))
    monkeypatch.setattr("ppuda_jax.hostloop.functions.PROGRAMS", ProgramCache())
    rest = dataclasses.replace(half, steps=4, change_length=True, compile_threads=1)
    resumed = train(rest, task_of(rest))
    jax.tree.map(np.testing.assert_array_equal, resumed.theta, result.theta)
    losses = [[row["loss"] for row in read_metrics(settings.workdir)] for settings in (whole, rest)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_the_host_is_the_default_of_one_cpu_only():
    two = parallel.make_topology(2)
    assert drivers.choose_driver(TrainConfig(), ONE) == "host"
    assert drivers.choose_driver(TrainConfig(), two) == "executor"
    assert drivers.choose_driver(TrainConfig(driver="executor"), ONE) == "executor"
    with pytest.raises(ValueError, match="runs networks on one device, received 2: set num_dev"):
        drivers.choose_driver(TrainConfig(driver="host"), two)
