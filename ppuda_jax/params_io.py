"""Saves and loads parameter pytrees of target networks: orbax folders or .safetensors files."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from ppuda_jax.tracing.params import key_name

_SUFFIX = ".safetensors"


def save_params(path: str | os.PathLike[str], params: Any) -> pathlib.Path:
    """Writes parameters.

    Args:
      path: a file that ends in .safetensors (leaves named "a/b/kernel"), else a folder for orbax
        (nested dictionaries).
      params: any pytree of arrays.

    Returns:
      The absolute path.

    Raises:
      ValueError: if the path exists already.
    """
    target = pathlib.Path(path).expanduser().resolve()
    if target.exists():
        raise ValueError(f"{target} exists already: choose another name or remove it.")
    flat = {
        tuple(key_name(key) for key in keys): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == _SUFFIX:
        from safetensors.numpy import save_file

        named = {"/".join(keys): np.ascontiguousarray(leaf) for keys, leaf in flat.items()}
        save_file(named, os.fspath(target))
        return target
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, _nest(flat))
    return target


def load_params(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_params` wrote, as nested dictionaries of NumPy arrays.

    Raises:
      ValueError: if there is nothing of that kind.
    """
    source = pathlib.Path(path).expanduser().resolve()
    if source.suffix == _SUFFIX and source.is_file():
        from safetensors.numpy import load_file

        return _nest({tuple(name.split("/")): leaf for name, leaf in load_file(source).items()})
    if not source.is_dir():
        raise ValueError(f"{source} is neither a .safetensors file nor a folder of parameters.")
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(source))


def _nest(flat: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree
