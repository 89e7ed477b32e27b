"""From settings to a task."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.data.spec import PUBLISHED, trained_spec
from ppuda_jax.ghn import config as ghn_configs
from ppuda_jax.training import setup
from ppuda_jax.training.config import TrainConfig


@pytest.mark.parametrize(
    ("model", "size", "preset"),
    [
        ("ghn1", 32, ghn_configs.ghn1_cifar10),
        ("ghn2", 32, ghn_configs.ghn2_cifar10),
        ("mlp", 32, ghn_configs.mlp_cifar10),
        ("ghn2", 224, ghn_configs.ghn2_imagenet),
    ],
)
def test_models_are_the_published_ones(model, size, preset):
    classes = 10 if size == 32 else 1000
    assert setup.ghn_config(TrainConfig(model=model), size, classes) == preset()


def test_a_task_on_digits():
    task = setup.deepnets_task(TrainConfig(dataset="digits", batch_size=16, hidden=8, seed=4))
    assert trained_spec(task.record["metadata"]) == PUBLISHED["digits"] == task.images.spec
    assert task.record["ghn"]["hid"] == 8
    assert task.images.num_images == 1295
    survey = task.networks.survey(0)
    arrays = task.networks.build([0], survey.variant)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(arrays))
    assert task.networks.seed == 4


def test_equal_settings_start_equal():
    settings = TrainConfig(dataset="digits", batch_size=16, hidden=8)
    thetas = [
        setup.deepnets_task(dataclasses.replace(settings, seed=seed)).theta for seed in (1, 1, 2)
    ]
    leaves = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in thetas]
    np.testing.assert_array_equal(leaves[0], leaves[1])
    assert not np.array_equal(leaves[0], leaves[2])


def test_a_run_can_start_from_a_given_hypernetwork():
    settings = TrainConfig(dataset="digits", batch_size=16, init_from="ghn2-cifar10")
    given, task = load_ghn("ghn2-cifar10"), setup.deepnets_task(settings)
    jax.tree.map(np.testing.assert_array_equal, task.theta, given.theta)
    assert task.record["metadata"]["training"] == given.metadata["training"] != []
    with pytest.raises(ValueError, match="'ghn2-cifar10' is another hypernetwork .* --hidden"):
        setup.deepnets_task(dataclasses.replace(settings, hidden=8))


def test_a_given_hypernetwork_of_other_classes_keeps_all_but_its_heads(tmp_path, caplog):
    path = tmp_path / "set.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 4)
    settings = TrainConfig(dataset=f"npz:{path}", batch_size=16, init_from="ghn2-cifar10")
    task, given = setup.deepnets_task(settings), load_ghn("ghn2-cifar10")
    assert "predicts 10 classes, the run's images have 4: its class heads are drawn" in caplog.text
    assert task.record["ghn"]["num_classes"] == task.record["metadata"]["num_classes"] == 4
    assert task.record["metadata"]["class_names"] == ["0", "1", "2", "3"]
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), task.theta["gnn"], given.theta["gnn"])
    assert all(jax.tree.leaves(same))
    assert task.theta["kernel_decoder"]["classes"]["bias"].shape == (4,)


def test_given_metadata_of_the_images_are_those_of_the_run():
    settings = TrainConfig(dataset="digits", batch_size=16, init_from="ghn2-cifar10")
    assert trained_spec(setup.deepnets_task(settings).record["metadata"]) == PUBLISHED["digits"]
