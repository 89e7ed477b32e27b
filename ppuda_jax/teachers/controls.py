"""What a hypernetwork that has learnt from trained networks must beat: copies of them.

The controls of the audit of generative models of parameters ("Generative modeling of weights:
generalization or memorization?", 2025, arXiv 2506.07998), for networks of other architectures than
the trained ones: parameters are taken over where path and shape are the same, the others are those
that are given.

Legend: `p` tensors of a network.
"""

from collections.abc import Sequence

import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.teachers.store import Teacher, TeacherStore
from ppuda_jax.types import ParamSpec

Leaves = Sequence[np.ndarray]
"""Parameters of a network, in the order of its plan."""


def nearest(plan: Plan, store: TeacherStore) -> Teacher:
    """The trained network that most parameters of a network can be taken from.

    Args:
      plan: the network.
      store: trained networks.
    """

    def shared(teacher: Teacher) -> int:
        there = {_key(spec) for spec in teacher.record.plan.params}
        return sum(spec.size for spec in plan.params if _key(spec) in there)

    return max(store.teachers.values(), key=shared)


def borrowed(plan: Plan, teacher: Teacher, others: Leaves) -> list[np.ndarray]:
    """Parameters of a network, from a trained one where path and shape are the same.

    Args:
      plan: the network.
      teacher: the trained network.
      others: parameters in the order of `plan.params`, for what it does not have.
    """
    there = dict(zip(map(_key, teacher.record.plan.params), teacher.leaves, strict=True))
    return [there.get(_key(spec), leaf) for spec, leaf in zip(plan.params, others, strict=True)]


def mean_of_all(plan: Plan, store: TeacherStore, others: Leaves) -> list[np.ndarray]:
    """Parameters of a network: of each the mean over the trained networks that have it.

    Args:
      plan: the network.
      store: trained networks.
      others: parameters in the order of `plan.params`, for what none has.
    """
    found: dict[tuple, list[np.ndarray]] = {_key(spec): [] for spec in plan.params}
    for teacher in store.teachers.values():
        for spec, leaf in zip(teacher.record.plan.params, teacher.leaves, strict=True):
            if _key(spec) in found:
                found[_key(spec)].append(leaf)
    return [
        np.mean(found[_key(spec)], axis=0) if found[_key(spec)] else leaf
        for spec, leaf in zip(plan.params, others, strict=True)
    ]


def with_noise(leaves: Leaves, relative: float, seed: int) -> list[np.ndarray]:
    """Parameters with Gaussian noise of a share of each tensor's standard deviation."""
    rng = np.random.default_rng(seed)
    return [
        (leaf + relative * leaf.std() * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
        for leaf in leaves
    ]


def _key(spec: ParamSpec) -> tuple:
    return spec.path, spec.shape
