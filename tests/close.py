"""Closeness relative to an array's scale: single entries near zero carry no information."""

from typing import Any

import jax
import numpy as np


def assert_close(actual: Any, desired: Any, tol: float, what: str = "") -> None:
    """Asserts that arrays differ by at most `tol` times the largest magnitude of the desired one.

    Args:
      actual: an array, or a pytree of arrays.
      desired: likewise, of the same structure and shapes; each array has a scale of its own. An
        array of zeros alone has scale one.
      tol: the relative tolerance.
      what: a name for the message.

    Raises:
      AssertionError: structures, shapes or values differ, or the actual ones are not finite where
        the desired ones are.
    """
    mine, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (actual, desired))
    names = [[jax.tree_util.keystr(path) for path, _ in tree] for tree in (mine, theirs)]
    assert names[0] == names[1], f"{what} trees differ: {names[0]} and {names[1]}"
    for name, (_, ours), (_, other) in zip(names[0], mine, theirs, strict=True):
        _assert_close(np.asarray(ours), np.asarray(other), tol, f"{what}{name}")


def _assert_close(actual: np.ndarray, desired: np.ndarray, tol: float, name: str) -> None:
    assert actual.shape == desired.shape, f"{name} has shape {actual.shape}, not {desired.shape}"
    if not desired.size:
        return
    wide = np.complex128 if np.iscomplexobj(desired) else np.float64
    actual, desired = actual.astype(wide), desired.astype(wide)
    scale = float(np.abs(desired).max()) or 1.0
    difference = np.abs(actual - desired)
    worst = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), desired.shape)
    place = tuple(int(i) for i in worst)
    assert difference[worst] <= tol * scale, (
        f"{name} at {place}: {actual[worst]} is not {desired[worst]}; they differ by "
        f"{difference[worst] / scale:.2e} of the largest magnitude {scale:.3g}, {tol:.0e} allowed"
    )
