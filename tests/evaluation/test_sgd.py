"""Networks trained by SGD, through the executor and from the host, and random parameters."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.data.batches import ResidentImages
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.evaluation.executor_runner import executor_bytes
from ppuda_jax.evaluation.parameters import he_params
from ppuda_jax.evaluation.sgd import SgdTrainer, train_archs
from tests.evaluation.given import arrays, small_nets

ONE = evaluation.EvalSettings(num_devices=1, driver="executor")
HOST = evaluation.EvalSettings(num_devices=1, driver="host")


@pytest.fixture(scope="module")
def images() -> evaluation.EvalImages:
    return evaluation.make_images(arrays(12), "test", batch_size=8)


def _training_images() -> ResidentImages:
    given = arrays(12)
    spec = dataclasses.replace(given.spec, crop_padding=0)
    return ResidentImages(spec, (given.images, given.labels), ImageOrder(12, 12, seed=0))


def test_sgd_learns_its_images_through_the_executor(images, tmp_path):
    trainer, net = SgdTrainer(_training_images(), run_settings=ONE), small_nets(1)[0]
    start, end = (trainer.train(images, net, steps) for steps in (1, 25))
    assert (end.name, end.steps) == (net.name, 25) and end.train_s > 0
    assert end.top1 >= max(0.5, start.top1) and (trainer.batch_size, trainer.epoch) == (12, 1)
    (model, _) = evaluation.choose_networks("predefined")
    with pytest.raises(ValueError, match="resnet50 cannot be trained by SGD: .*hand-made model"):
        trainer.train(images, model, 1)
    path, new = tmp_path / "sgd.jsonl", []
    first, second = (
        train_archs(trainer, images, [net], 1, results_path=path, progress=new.append)
        for _ in range(2)
    )
    assert first == second == tuple(new) and first[0].top1 == start.top1
    with pytest.raises(ValueError, match="another evaluation .*steps: there 1, now 2"):
        train_archs(trainer, images, [net], 2, results_path=path)


def test_the_host_takes_the_steps_that_the_executor_takes(images):
    # Two-layer heads have dropout, whose masks differ.
    net = next(net for net in small_nets(9) if net.config.fc_layers == 1)
    results = []
    for settings in (ONE, HOST):
        trainer = SgdTrainer(_training_images(), run_settings=settings)
        network = trainer._steps(net, images.spread(settings.topology))
        params, state = network.start(he_params(net.plan, 0))
        arguments = trainer._resident, trainer._images.batch(0), jax.random.key(1)
        network.load(params, state, *arguments)
        for _ in range(2):
            params, state = network.step(params, state, *arguments)
        batch, form = images.batches[0], network.score_form(params)
        results.append(np.asarray(network.prepared.score(form, batch)))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_the_host_evaluates_on_the_way(images):
    trainer, net = SgdTrainer(_training_images(), run_settings=HOST), small_nets(1)[0]
    start, end = trainer.train_to(images, net, (1, 25))
    assert (start.steps, end.steps) == (1, 25) and 0 < start.train_s < end.train_s
    assert end.top1 >= max(0.5, start.top1)
    (model, _) = evaluation.choose_networks("predefined")
    with pytest.raises(ValueError, match="resnet50 cannot be trained by SGD: a hand-made model"):
        trainer.train(images, model, 1)


def test_a_network_that_has_no_memory_to_be_trained_is_refused(images):
    settings = evaluation.EvalSettings(memory_limit_gib=1e-3, driver="executor")
    small = SgdTrainer(_training_images(), run_settings=settings)
    with pytest.raises(ValueError, match="cannot be trained .*GiB in the executor to be trained"):
        small.train(images, small_nets(1)[0], 1)


def test_the_memory_that_training_is_expected_to_take_is_about_what_xla_takes(images):
    net = small_nets(1)[0]
    trainer = SgdTrainer(_training_images(), run_settings=ONE)
    network = trainer._steps(net, images)
    tables, state = network.start(he_params(net.plan, 0))
    network.load(tables, state, trainer._resident, trainer._images.batch(0), jax.random.key(0))
    memory = network._loaded.memory_analysis()
    measured = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert 0.6 < executor_bytes(net.variant, 12, 10, training=True) / measured < 2.5


@pytest.mark.parametrize("gain", [2.0, 1.0])
def test_random_parameters_have_the_published_spread(gain):
    net = evaluation.choose_networks("test", 1)[0]
    params = he_params(net.plan, 0, gain)
    for spec in net.plan.params:
        leaf = params
        for key in spec.path:
            leaf = leaf[key]
        assert leaf.shape == spec.shape and leaf.dtype == np.float32
        if spec.role == "kernel" and spec.size > 4000:
            fan_in = np.prod(spec.shape[:-1])
            assert leaf.std() == pytest.approx(np.sqrt(gain / fan_in), rel=0.1)
