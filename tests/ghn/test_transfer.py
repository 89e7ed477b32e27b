"""A hypernetwork for other classes."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.ghn.config import PRESETS, GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.ghn.transfer import with_classes

CONFIGS = {name: dataclasses.replace(make(), hid=4) for name, make in PRESETS.items()}
CONFIGS["mlp decoder"] = GHNConfig(num_classes=10, max_shape=(8, 8, 3, 3), hid=4, decoder="mlp")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_everything_but_the_class_heads_is_kept(config):
    given = LoadedGHN(config, init_theta(config, jax.random.key(0)))
    found = with_classes(given, 7, jax.random.key(1))
    assert found.config == dataclasses.replace(config, num_classes=7)
    template = jax.eval_shape(lambda key: init_theta(found.config, key), jax.random.key(0))
    changed = set()
    leaves = jax.tree_util.tree_leaves_with_path(found.theta)
    before = dict(jax.tree_util.tree_leaves_with_path(given.theta))
    for (path, leaf), wanted in zip(leaves, jax.tree.leaves(template), strict=True):
        assert leaf.shape == wanted.shape
        if leaf.shape != before[path].shape or not np.array_equal(leaf, before[path]):
            changed.add(jax.tree_util.keystr(path, simple=True, separator="/").rsplit("/", 1)[0])
    assert changed == {"kernel_decoder/classes", "vector_decoder/classes"}


def test_the_same_number_of_classes_changes_nothing():
    config = CONFIGS["ghn2-cifar10"]
    given = LoadedGHN(config, init_theta(config, jax.random.key(0)))
    assert with_classes(given, config.num_classes, jax.random.key(1)) is given
