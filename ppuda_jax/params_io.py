"""Saves and loads parameter pytrees of target networks: orbax folders or .safetensors files.

A path is the tuple of keys that leads to a leaf. Keys may hold any character, "/" included
(Haiku's do), so a .safetensors file keeps the paths beside its flat names.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ppuda_jax.tracing.params import Path, key_name
from ppuda_jax.types import nest

_SUFFIX = ".safetensors"
_PATHS = "paths"  # in a file's metadata: the keys of every leaf by its flat name, as JSON


def save_params(path: str | os.PathLike[str], params: Any) -> pathlib.Path:
    """Writes parameters.

    Args:
      path: a file that ends in .safetensors (leaves named "a/b/kernel"), else a folder for orbax
        (nested dictionaries).
      params: any pytree of arrays of any shape and dtype.

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

        names = _flat_names(flat)
        named = {names[keys]: np.ascontiguousarray(leaf) for keys, leaf in flat.items()}
        metadata = {_PATHS: json.dumps({name: keys for keys, name in names.items()})}
        save_file(named, os.fspath(target), metadata)
        return target
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, nest(flat))
    return target


def load_params(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_params` wrote, as nested dictionaries of NumPy arrays.

    A .safetensors file of another program is read as if "/" in its names parted the keys.

    Args:
      path: what was given to `save_params`.

    Returns:
      The parameters, with lists and tuples as dictionaries by position ("0", "1"...).

    Raises:
      ValueError: if there is nothing of that kind.
    """
    source = pathlib.Path(path).expanduser().resolve()
    if source.suffix == _SUFFIX and source.is_file():
        from safetensors import safe_open

        with safe_open(os.fspath(source), "numpy") as file:
            paths = json.loads((file.metadata() or {}).get(_PATHS, "{}"))
            return nest(
                {
                    tuple(paths.get(name, name.split("/"))): file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118 (the file is no mapping)
                }
            )
    if not source.is_dir():
        raise ValueError(f"{source} is neither a .safetensors file nor a folder of parameters.")
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(source))


def _flat_names(paths: Iterable[Path]) -> dict[Path, str]:
    """One name per path, "a/b/kernel"; a counter follows where keys with slashes collide."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        plain = name = "/".join(path)
        count = 0
        while name in taken:
            count += 1
            name = f"{plain}#{count}"
        taken.add(name)
        names[path] = name
    return names
