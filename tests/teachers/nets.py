"""Networks and parameters of these tests: one of every kind of operation, and sampled ones."""

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.nets.network import Network
from tests.networks import plan_of, random_params

_ONE = "sep_conv_3x3:0 dil_conv_5x5:1 conv_7x1_1x7:2 cse:0 conv_3x3:1 skip_connect:3"
_TWO = "max_pool_3x3:0 avg_pool_3x3:1 none:0 conv_1x1:2"
_MSA = "msa:0 cse:1 conv_1x1:2 skip_connect:0"

PLANS = {
    "concat, residual, sep_conv, cse": plan_of(_ONE, _TWO, concat=(2, 3), n_cells=4),
    "no norm, two dense layers": plan_of(
        _ONE, _TWO, concat=(2, 3), n_cells=4, norm=None, fc_layers=2
    ),
    "flattened, two resolutions": plan_of(
        _TWO, _ONE, concat=(2, 3), n_cells=3, stem_type=1, glob_avg=False, C_mult=2
    ),
    "transformer": plan_of(_MSA, _MSA, concat=(2, 3), n_cells=3),
    "without preprocessing": plan_of(
        "sep_conv_5x5:0 conv_5x5:1", "cse:0 conv_3x3:1", preproc=False
    ),
    "sampled": make_plan(arch_at(SPLITS["test"], 3, 32)),
}


def leaves_of(plan: Plan, seed: int) -> list[np.ndarray]:
    """Random parameters float64 in the order of `plan.params`."""
    return [np.asarray(leaf, np.float64) for leaf in plan.in_order(random_params(plan, seed))]


def logits(plan: Plan, leaves: list[np.ndarray], images: int = 3) -> np.ndarray:
    """What the network computes, in float64."""
    with jax.enable_x64(True):
        pixels = np.random.default_rng(0).standard_normal((images, 32, 32, 3))
        apply = jax.jit(lambda params, x: Network(plan).apply({"params": params}, x))
        return np.asarray(apply(plan.as_tree(leaves), jnp.asarray(pixels)))
