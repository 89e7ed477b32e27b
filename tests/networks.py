"""Small networks, and random parameters, for tests of the target networks and the executor."""

from typing import Any

from experiments.check_executor import random_params
from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.plan import Plan, make_plan

__all__ = ["WIDTH", "plan_of", "random_params"]

WIDTH = 16


def plan_of(normal: str, reduce: str, *, concat=(2,), **settings: Any) -> Plan:
    """A plan of width 16 from cells written as "op:state op:state ..."."""

    def edges(text):
        return [[op, int(state)] for op, state in (item.split(":") for item in text.split())]

    base = {
        "n_cells": 5,
        "C": WIDTH,
        "C_mult": 1,
        "ks": 3,
        "stem_type": 0,
        "stem_pool": True,
        "norm": "bnorm",
        "preproc": True,
        "glob_avg": True,
        "fc_layers": 1,
        "fc_dim": 64,
    }
    genotype = {
        "normal": edges(normal),
        "reduce": edges(reduce),
        "normal_concat": list(concat),
        "reduce_concat": list(concat),
    }
    return make_plan(NetConfig.from_dict({**base, **settings, "genotype": genotype}))
