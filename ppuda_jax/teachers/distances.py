"""How far predicted parameters are from trained ones, and how large they are, with cotangents.

Everything is NumPy in the dtype of the parameters: a network has hundreds of small tensors of as
many shapes, for which nothing should be compiled.

Legend: `p` tensors of a network, `O` output channels.
"""

from collections.abc import Collection, Sequence

import numpy as np

from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Plan

Measured = tuple[float, list[np.ndarray]]
"""A value, and its gradient in the tensors."""


def regression(
    leaves: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    filters: Collection[int] = (),
) -> Measured:
    """Mean over tensors of ||H_p - W_p||^2 / ||W_p||^2, see `squared_scale`.

    Args:
      leaves: predicted tensors H_p.
      targets: trained ones W_p, permuted or not. A kernel of zeros has no scale and is left out.
      filters: numbers of kernels before a norm, which undoes the scale of each filter: for these
        the mean over filters of ||h / ||h|| - w / ||w|| ||^2 is taken instead.

    Returns:
      The value and its gradient in the leaves.
    """
    present = [number for number, target in enumerate(targets) if squared_scale(target) > 0]
    total, gradients = 0.0, [np.zeros_like(leaf) for leaf in leaves]
    for number in present:
        measure = _filter_distance if number in filters else _relative_distance
        value, gradient = measure(leaves[number], targets[number])
        total += value / len(present)
        gradients[number] = gradient / len(present)
    return total, gradients


def squared_scale(target: np.ndarray) -> float:
    """What the squared distance of a trained tensor from another one is divided by.

    That is its squared norm, but for vectors at least their size: biases begin at zero, and what
    they are added to has about unit variance, as norm scales begin at one.
    """
    squared = float(np.vdot(target, target))
    return max(squared, float(target.size)) if target.ndim == 1 else squared


def norm_penalty(leaves: Sequence[np.ndarray]) -> Measured:
    """Sum of the Frobenius norms of the tensors (GHN-3, Knyazev et al. 2023, arXiv 2303.04143).

    Returns:
      The value and its gradient in the leaves; that of a tensor of zeros is zero.
    """
    norms = [float(np.linalg.norm(leaf)) for leaf in leaves]
    gradients = [
        leaf / norm if norm else np.zeros_like(leaf)
        for leaf, norm in zip(leaves, norms, strict=True)
    ]
    return sum(norms), gradients


def kernels_before_norms(plan: Plan) -> frozenset[int]:
    """Numbers in `plan.params` of kernels whose every filter is scaled by the norm behind it."""
    found, first = set(), 0
    for op in plan.ops:
        specs = op_params(op)
        if op.norm:
            for number, spec in enumerate(specs[:-1]):
                halves = op.kind == "factorized_reduce" and spec.role == "kernel"
                if halves or (spec.role == "kernel" and specs[number + 1].role == "norm_scale"):
                    found.add(first + number)
        first += len(specs)
    return frozenset(found)


def _relative_distance(leaf: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    difference = leaf - target.astype(leaf.dtype)
    scale = squared_scale(target)
    return float(np.vdot(difference, difference)) / scale, difference * (2.0 / scale)


def _filter_distance(leaf: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Filters of [..., O], each with a norm of one; those of zeros stay zeros."""
    axes = tuple(range(leaf.ndim - 1))
    ours, length = _units(leaf, axes)
    theirs, _ = _units(target.astype(leaf.dtype), axes)
    difference = ours - theirs
    # The part along the filter changes only its length.
    across = difference - ours * np.sum(difference * ours, axes, keepdims=True)
    value = float(np.vdot(difference, difference)) / leaf.shape[-1]
    return value, across * (2.0 / leaf.shape[-1]) / np.where(length > 0, length, np.inf)


def _units(leaf: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    length = np.sqrt(np.sum(leaf * leaf, axes, keepdims=True))
    return leaf / np.where(length > 0, length, 1), length
