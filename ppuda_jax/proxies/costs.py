"""The baselines that every proxy is held against: how large a network is, and how much it computes.

Legend: `B` images of a batch.
"""

import math
from typing import Any

from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Op, Plan
from ppuda_jax.proxies.base import ApplyFn, Batch
from ppuda_jax.structure.supernet import count_flops
from ppuda_jax.tracing.params import param_tree

_OF_VECTORS = ("dense", "cse")


def params(apply_fn: ApplyFn, params: Any, batch: Batch) -> int:
    """How many parameters a network has."""
    del apply_fn, batch
    return param_tree(params)[0].num_params


def flops(apply_fn: ApplyFn, params: Any, batch: Batch) -> float:
    """Floating-point operations for one image, as XLA counts them; nothing is compiled."""
    return count_flops(lambda p, x: apply_fn({"params": p}, x), params, batch.images) / len(
        batch.images
    )


def plan_flops(plan: Plan) -> float:
    """Operations of the layers of a network of DeepNets-1M for one image, without tracing it.

    Two for each multiplication of a weight with a value, as usual; norms, pools and the products
    inside of attention are not counted.
    """
    return float(sum(2 * _products(op) for op in plan.ops))


def _products(op: Op) -> int:
    kernels = [spec.shape for spec in op_params(op) if spec.role == "kernel"]
    if op.kind in _OF_VECTORS:
        places = [1] * len(kernels)
    elif op.kind == "msa":  # on all tokens; a stride leaves some out afterwards
        places = [op.h_in**2] * len(kernels)
    elif op.kind == "conv_7x1_1x7":
        places = [op.h_in * op.h_out, op.h_out**2]
    else:
        places = [op.h_out**2] * len(kernels)
    return sum(math.prod(shape) * n for shape, n in zip(kernels, places, strict=True))
