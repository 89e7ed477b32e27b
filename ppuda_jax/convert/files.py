"""Reads and writes checkpoints of the reference.

Such a file is a dictionary with "state_dict", "config" (arguments of the reference's constructor)
and "epoch". PyTorch is optional and imported only when a file is touched.
"""

import os
import tempfile
from typing import Any

from ppuda_jax.convert.state_dicts import (
    config_from_torch,
    config_to_torch,
    state_dict_from_theta,
    theta_from_state_dict,
)
from ppuda_jax.ghn.loaded import LoadedGHN

_IMAGENET_KERNEL = 16  # the reference's ImageNet hypernetworks decode 16x16 kernels, others 11x11


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
