"""State dicts and constructor arguments of the reference to and from theta and its config."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppuda_jax.convert.tensors import tensor_table
from ppuda_jax.ghn.config import MAX_DISTANCE, GHNConfig


def config_from_torch(fields: Mapping[str, Any]) -> GHNConfig:
    """Configuration from the arguments of the reference's constructor.

    Raises:
      ValueError: a key is unknown, one of the two required ones is missing, or a value is invalid.
    """
    known = {"ve": "virtual_edges"} | {
        name: name
        for name in [
            "max_shape",
            "num_classes",
            "hypernet",
            "decoder",
            "weight_norm",
            "layernorm",
            "hid",
        ]
    }
    unknown = sorted(set(fields) - set(known) - {"debug_level"})
    missing = sorted({"max_shape", "num_classes"} - set(fields))
    if unknown or missing:
        raise ValueError(
            f"the checkpoint's config must have max_shape and num_classes, and of {sorted(known)} "
            f"what it needs; missing {missing}, unknown {unknown}"
        )
    ours = {known[key]: value for key, value in fields.items() if key in known}
    if "virtual_edges" in ours:
        ours["virtual_edges"] = MAX_DISTANCE if ours["virtual_edges"] else 1
    return GHNConfig(**ours)


def config_to_torch(config: GHNConfig) -> dict[str, Any]:
    """Inverse of `config_from_torch`.

    Raises:
      ValueError: the reference cannot express the length of the virtual edges.
    """
    if config.uses_virtual_edges and config.virtual_edges != MAX_DISTANCE:
        raise ValueError(
            f"the reference knows virtual edges up to {MAX_DISTANCE} or none, received "
            f"{config.virtual_edges}; this checkpoint cannot be written for it"
        )
    fields = dataclasses.asdict(config)
    fields["ve"] = fields.pop("virtual_edges") > 1
    return fields


def theta_from_state_dict(config: GHNConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Theta from the reference's tensors.

    Args:
      config: the hypernetwork.
      tensors: state dict as NumPy arrays; a "module." in front of every name is taken off.

    Raises:
      ValueError: naming every tensor that is missing, left over or of another shape.
    """
    tensors = dict(tensors)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    problems: list[str] = []
    theta: dict[str, Any] = {}
    for row in tensor_table(config):
        value = tensors.pop(row.torch_name, None)
        if value is None:
            problems.append(f"{row.torch_name} is missing, shape {row.torch_shape} expected")
        elif tuple(value.shape) != row.torch_shape:
            problems.append(
                f"{row.torch_name} has shape {tuple(value.shape)}, {row.torch_shape} expected"
            )
        elif not np.issubdtype(value.dtype, np.floating):
            problems.append(f"{row.torch_name} has type {value.dtype}, floating point expected")
        else:
            _insert(theta, row.path, jnp.asarray(row.to_leaf(value), jnp.float32))
    problems += [f"{name} is not part of such a hypernetwork" for name in sorted(tensors)]
    if problems:
        raise ValueError(
            f"the state dict does not fit its config ({len(problems)} problems):\n  "
            + "\n  ".join(problems)
        )
    return theta


def state_dict_from_theta(config: GHNConfig, theta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The reference's tensors from theta.

    Args:
      config: the hypernetwork.
      theta: its parameters.

    Returns:
      float32 NumPy arrays by the name that the reference gives them.

    Raises:
      ValueError: naming every leaf that is missing, left over or of another shape.
    """
    leaves = dict(_flatten(theta))
    problems, tensors = [], {}
    for row in tensor_table(config):
        leaf = leaves.pop(row.path, None)
        if leaf is None:
            problems.append(f"{'/'.join(row.path)} is missing, shape {row.shape} expected")
        elif tuple(leaf.shape) != row.shape:
            problems.append(
                f"{'/'.join(row.path)} has shape {tuple(leaf.shape)}, {row.shape} expected"
            )
        else:
            tensors[row.torch_name] = row.to_torch(np.asarray(leaf, np.float32))
    problems += [f"{'/'.join(path)} is unknown" for path in sorted(leaves)]
    if problems:
        raise ValueError(
            f"theta does not fit its config ({len(problems)} problems):\n  " + "\n  ".join(problems)
        )
    return tensors


def _insert(tree: dict[str, Any], path: tuple[str, ...], leaf: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


def _flatten(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value
