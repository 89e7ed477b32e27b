"""Small networks and random parameters for tests of the target networks and the executor."""

from typing import Any

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.plan import Plan, make_plan

WIDTH = 16


def plan_of(normal: str, reduce: str, *, concat=(2,), **settings: Any) -> Plan:
    """A plan of width 16 from cells written as "op:state op:state ..."."""

    def edges(text):
        return [[op, int(state)] for op, state in (item.split(":") for item in text.split())]

    base = {
        "n_cells": 5, "C": WIDTH, "C_mult": 1, "ks": 3, "stem_type": 0, "stem_pool": True,
        "norm": "bnorm", "preproc": True, "glob_avg": True, "fc_layers": 1, "fc_dim": 64,
    }  # fmt: skip
    genotype = {"normal": edges(normal), "reduce": edges(reduce), "normal_concat": list(concat),
                "reduce_concat": list(concat)}
    return make_plan(NetConfig.from_dict({**base, **settings, "genotype": genotype}))


def random_params(plan: Plan, seed: int = 0) -> dict[str, Any]:
    """A pytree of parameters for a plan's Flax network, scaled to keep activations near one."""
    rng, params = np.random.default_rng(seed), {}
    for spec in plan.params:
        leaf = rng.normal(size=spec.shape)
        if spec.role == "kernel":
            leaf *= np.sqrt(1.5 / np.prod(spec.shape[:-1]))
        else:
            leaf = (spec.role == "norm_scale") + 0.2 * leaf
        tree = params
        for key in spec.path[:-1]:
            tree = tree.setdefault(key, {})
        tree[spec.path[-1]] = leaf.astype(np.float32)
    return params
