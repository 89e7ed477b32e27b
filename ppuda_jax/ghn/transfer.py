"""A hypernetwork for other classes than it was trained for."""

import dataclasses
from typing import Any

import jax

from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta

_HEADS = "classes"
"""Name of the layers that end in one row per class: of the classifier's kernels, of its biases."""


def with_classes(ghn: LoadedGHN, num_classes: int, rng: jax.Array) -> LoadedGHN:
    """Keeps everything of a hypernetwork but its class heads, which are drawn anew.

    Args:
        ghn: the hypernetwork.
        num_classes: of the images that it is for now.
        rng: key, consumed where the number is another.

    Returns:
        The same hypernetwork where the number of classes is the same already.
    """
    if ghn.config.num_classes == num_classes:
        return ghn
    config = dataclasses.replace(ghn.config, num_classes=num_classes)
    drawn = init_theta(config, rng)

    kept = dict(ghn.theta)
    theta = jax.tree.map(
        lambda head, new, old: new if head else old, class_heads(kept), drawn, kept
    )
    return dataclasses.replace(ghn, config=config, theta=theta)


def class_heads(theta: Any) -> Any:
    """Which leaves of theta belong to class heads: a tree of bool."""

    def is_head(path: jax.tree_util.KeyPath, _: Any) -> bool:
        return any(getattr(key, "key", None) == _HEADS for key in path)

    return jax.tree_util.tree_map_with_path(is_head, theta)
