"""The executor at 224 pixels: the same logits as the Flax network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.executor import run
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import pack_params, stack_programs
from ppuda_jax.nets.network import Network
from tests.networks import plan_of, random_params

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 224, 224, 3)), jnp.float32)
STEMS = {
    "simple": ("conv_1x1:0 cse:1", {"stem_type": 0}),
    "imagenet": ("conv_1x1:0 cse:1", {"stem_type": 1}),
    "transformer": ("msa:0 conv_1x1:1", {}),
}


@pytest.mark.parametrize("stem", STEMS)
def test_equals_the_flax_network(stem):
    normal, settings = STEMS[stem]
    small = plan_of(normal, "max_pool_3x3:0 skip_connect:1", n_cells=3, **settings)
    plan = make_plan(small.config, num_classes=20, image_size=224)
    program, params = make_program(plan), random_params(plan, seed=1)
    arrays = pack_params([program], [params]), stack_programs([program])
    logits = jax.jit(run.logits, static_argnums=0)(program.variant, *arrays, IMAGES)
    expected = jax.jit(Network(plan).apply)({"params": params}, IMAGES)
    assert expected.shape == (2, 20)
    np.testing.assert_allclose(logits[0], expected, atol=1e-5 * float(jnp.abs(expected).max()))
