"""Checkpoints of the PyTorch reference to and from this package's parameters.

A reference checkpoint is a dictionary with "state_dict", "config" (arguments of the reference's
constructor) and "epoch". One table, made from the configuration, says for every tensor there
which leaf of theta it is, and which transposition lies between the two; the same table serves
both directions. PyTorch is imported only inside the two functions that touch files.

Legend: `D` node embedding, `O`, `I`, `S` channels and size of the largest block, `C` classes.
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.config import MAX_DISTANCE, GHNConfig
from ppuda_jax.ghn.embeddings import channel_sizes, spatial_sizes
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.primitives import PRIMITIVES

_IMAGENET_KERNEL = 16  # the reference's ImageNet hypernetworks decode 16x16 kernels, others 11x11


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One tensor in both worlds.

    Attributes:
      torch_name: key in the reference's state dict.
      torch_shape: its shape there.
      path: keys of the leaf in theta.
      split: shape the torch tensor is viewed in before it is transposed.
      perm: order of the axes of `split` that gives the leaf.
    """

    torch_name: str
    torch_shape: tuple[int, ...]
    path: tuple[str, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf of theta."""
        return tuple(self.split[axis] for axis in self.perm)

    def to_leaf(self, tensor: np.ndarray) -> np.ndarray:
        """Torch tensor to leaf."""
        return np.ascontiguousarray(tensor.reshape(self.split).transpose(self.perm))

    def to_torch(self, leaf: np.ndarray) -> np.ndarray:
        """Leaf to torch tensor."""
        return np.ascontiguousarray(leaf.transpose(np.argsort(self.perm))).reshape(self.torch_shape)


def _same(torch_name: str, path: str, shape: tuple[int, ...]) -> Iterator[TensorRow]:
    yield TensorRow(torch_name, shape, tuple(path.split("/")), shape, tuple(range(len(shape))))


def _dense(
    torch_name: str,
    path: str,
    fan_in: int,
    features: tuple[int, ...],
    perm: tuple[int, ...] | None = None,
    conv: bool = False,
) -> Iterator[TensorRow]:
    """Weight and bias of a dense layer (or 1x1 convolution) whose output axis splits in axes.

    `features` are those axes in the reference's order, `perm` their order in theta.
    """
    size, rank = math.prod(features), len(features)
    perm = tuple(range(rank)) if perm is None else perm
    keys = tuple(path.split("/"))
    weight_shape = (size, fan_in, 1, 1) if conv else (size, fan_in)
    split = (*features, fan_in)
    yield TensorRow(f"{torch_name}.weight", weight_shape, (*keys, "kernel"), split, (rank, *perm))
    yield TensorRow(f"{torch_name}.bias", (size,), (*keys, "bias"), features, perm)


def _gru(side: str, path: str, hid: int) -> Iterator[TensorRow]:
    weight = TensorRow(
        f"gnn.gru.weight_{side}", (3 * hid, hid), ("gnn", path, "kernel"), (3 * hid, hid), (1, 0)
    )
    yield weight
    yield from _same(f"gnn.gru.bias_{side}", f"gnn/{path}/bias", (3 * hid,))


def _mlp(torch_name: str, path: str, widths: tuple[int, int, int]) -> Iterator[TensorRow]:
    for index, layer in enumerate((0, 2)):
        fan_in, features = widths[index], widths[index + 1]
        yield from _dense(f"{torch_name}.fc.{layer}", f"{path}/dense_{index}", fan_in, (features,))


def _gnn_rows(config: GHNConfig) -> Iterator[TensorRow]:
    hid = config.hid
    if config.hypernet == "mlp":
        yield from _mlp("gnn", "gnn", (hid, hid, hid))
        return
    width = hid // 2 if config.uses_virtual_edges else hid
    yield from _mlp("gnn.mlp", "gnn/mlp", (hid, width, hid))
    if config.uses_virtual_edges:
        yield from _mlp("gnn.mlp_ve", "gnn/mlp_sp", (hid, width, hid))
    yield from _gru("ih", "gru_input", hid)
    yield from _gru("hh", "gru_hidden", hid)


def _decoder_rows(config: GHNConfig) -> Iterator[TensorRow]:
    hid, classes = config.hid, config.num_classes
    out_size, in_size, height, width = config.max_shape
    ours = "kernel_decoder"
    classes_name = "decoder.class_layer_predictor.1"
    if config.decoder == "mlp":
        yield from _dense("decoder.mlp.fc.0", f"{ours}/dense_0", hid, (2 * hid,))
        block = (out_size, in_size, height, width)
        yield from _dense("decoder.mlp.fc.2", f"{ours}/dense_1", 2 * hid, block, (2, 3, 1, 0))
        yield from _dense(classes_name, f"{ours}/classes", 2 * hid, (classes, in_size))
        return
    taps = (4 * hid, height, width)
    yield from _dense("decoder.fc.0", f"{ours}/taps", hid, taps, (1, 2, 0))
    yield from _dense("decoder.conv.0", f"{ours}/conv_0", 4 * hid, (8 * hid,), conv=True)
    matrix = (out_size, in_size)
    yield from _dense("decoder.conv.2", f"{ours}/conv_1", 8 * hid, matrix, (1, 0), conv=True)
    yield from _dense(classes_name, f"{ours}/classes", out_size, (classes,), conv=True)


def tensor_table(config: GHNConfig) -> tuple[TensorRow, ...]:
    """All tensors of a checkpoint of this configuration."""
    hid, size = config.hid, config.max_shape[0]
    channel_rows = len(channel_sizes(config.num_classes)) + 1
    spatial_rows = len(spatial_sizes(config.max_shape[2])) + 1
    rows: list[TensorRow] = []
    if config.layernorm:
        rows += _same("ln.weight", "layer_norm/scale", (hid,))
        rows += _same("ln.bias", "layer_norm/bias", (hid,))
    rows += _same("embed.weight", "embedding/primitive", (len(PRIMITIVES), hid))
    spatial = (spatial_rows, hid // 4)
    rows += _same("shape_enc.embed_spatial.weight", "embedding/spatial", spatial)
    channel = (channel_rows, hid // 4)
    rows += _same("shape_enc.embed_channel.weight", "embedding/channel", channel)
    rows += _gnn_rows(config)
    rows += _decoder_rows(config)
    rows += _mlp("decoder_1d", "vector_decoder/mlp", (hid, 2 * hid, 2 * size))
    rows += _dense("bias_class.1", "vector_decoder/classes", size, (config.num_classes,))
    return tuple(rows)


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


def load_torch_ghn(path: str | os.PathLike[str]) -> LoadedGHN:
    """Reads a checkpoint of the reference (GHN-1, GHN-2 or MLP).

    Args:
      path: the .pt file.

    Returns:
      The hypernetwork; its metadata say what the shape of its decoders tells of the data.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is truncated, no checkpoint of a hypernetwork, or does not fit its config.
      ImportError: PyTorch is not installed.
    """
    torch = _torch()
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise ValueError(
            f"{path} is not a readable PyTorch checkpoint (truncated, or another format): {error}"
        ) from error
    missing = {"state_dict", "config"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(
            f"{path} is no hypernetwork checkpoint: a dictionary with 'state_dict' and 'config' "
            f"is expected, {sorted(missing)} missing"
        )
    config = config_from_torch(content["config"])
    tensors = {name: tensor.numpy() for name, tensor in content["state_dict"].items()}
    large = config.max_shape[2] >= _IMAGENET_KERNEL
    dataset = {(1000, True): "imagenet", (10, False): "cifar10"}.get((config.num_classes, large))
    metadata = {
        "dataset": dataset,
        "num_classes": config.num_classes,
        "image_size": 224 if large else 32,
        "epoch": int(content.get("epoch", 0)),
    }
    return LoadedGHN(config, theta_from_state_dict(config, tensors), path, metadata)


def save_torch_ghn(ghn: LoadedGHN, path: str | os.PathLike[str]) -> None:
    """Writes a checkpoint that the reference's `GHN.load` reads.

    The file appears only when it is complete.

    Args:
      ghn: the hypernetwork.
      path: the .pt file; one that exists is replaced.

    Raises:
      ValueError: theta does not fit the config, or the reference cannot express it.
      ImportError: PyTorch is not installed.
    """
    torch = _torch()
    config = config_to_torch(ghn.config)
    tensors = state_dict_from_theta(ghn.config, ghn.theta)
    content = {
        "state_dict": {name: torch.from_numpy(array.copy()) for name, array in tensors.items()},
        "epoch": int(ghn.metadata.get("epoch", 0)),
        "config": config,
    }
    folder = os.path.dirname(os.path.abspath(os.fspath(path)))
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".pt.partial")
    os.close(handle)
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch checkpoints need PyTorch, which is optional here: "
            "pip install 'ppuda_jax[torch]'"
        ) from error
    return torch


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
