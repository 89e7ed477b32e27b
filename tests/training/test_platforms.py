"""The step of accelerators lowers for them: no operation in it is of the CPU alone."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from ppuda_jax import parallel
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.objective import meta_loss
from ppuda_jax.training.state import make_state
from ppuda_jax.training.step import make_dispatch, make_step
from tests.networks import plan_of

PLATFORMS = ("cuda", "rocm", "tpu")
GHN2 = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
PLANS = {
    "convolutions": plan_of("sep_conv_3x3:0 cse:1", "max_pool_3x3:0 conv_7x1_1x7:1", fc_layers=2),
    "transformer": plan_of("msa:0 dil_conv_5x5:1", "avg_pool_3x3:0 msa:1", n_cells=3),
}


@pytest.fixture
def accelerator(monkeypatch):
    """Tracing asks for a backend that is not there; neither side sees what the other traced."""
    jax.clear_caches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("name", PLANS)
def test_a_step_on_two_devices_lowers(name):
    plan, settings = PLANS[name], TrainConfig(meta_batch_size=2, compute_dtype="bfloat16")
    variant, topology = variant_of(plan), parallel.make_topology(2)

    def loss_fn(theta, networks, images, labels, rng):
        return meta_loss(GHN2, variant, theta, networks, images.astype("bfloat16"), labels, rng)

    def load(resident, batch, rng):
        del batch, rng
        return resident

    step = make_step(loss_fn, load, settings, topology.axis_name)
    run = parallel.jit_step(make_dispatch(step), topology, (False, True, False, False))
    state = jax.eval_shape(lambda: make_state(init_theta(GHN2, jax.random.key(0)), settings))
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((8,), "int32")
    # One step for each device: axes of dispatch and device before those of the meta-batch.
    networks = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, 2, *jnp.shape(leaf)), jnp.result_type(leaf)),
        build_meta_batch([plan], variant),
    )
    rates = jax.ShapeDtypeStruct((1,), jnp.float32)
    lowered = export.export(run, platforms=PLATFORMS)(state, images, networks, (), rates)
    assert lowered.platforms == PLATFORMS and lowered.nr_devices == 2
    # Convolutions and pools of the library, not the sums of shifted maps that a CPU prefers.
    text = lowered.mlir_module()
    assert "stablehlo.convolution" in text and "stablehlo.reduce_window" in text
    assert "bf16" in text
