"""The path from GHN to executor tables equals `predict_params`, packed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.executor import run
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import CapacityError, pack_params
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.graphs.batching import Bucket
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.prediction import meta_batch as meta_batches
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.training.objective import meta_loss
from tests.networks import plan_of
from tests.reference import REFERENCE, arrays_of, needs_reference, peer_nets

GHN2 = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
PLANS = {
    "wide concatenation": plan_of(
        "conv_1x1:0 sep_conv_5x5:1 skip_connect:2 conv_7x7:0",
        "max_pool_3x3:0 cse:1 conv_3x3:2 skip_connect:0",
        concat=(2, 3),
        C=48,
        fc_layers=2,
        fc_dim=128,
        stem_type=1,
        ks=5,
    ),
    "transformer": plan_of("msa:0 dil_conv_3x3:1", "conv_7x1_1x7:0 msa:1", C=48, C_mult=2),
    "flat head": plan_of("conv_1x1:0 cse:1", "conv_1x1:0 skip_connect:1", glob_avg=False),
}


@pytest.mark.parametrize(
    "name,weight_norm", [*((name, True) for name in PLANS), ("flat head", False)]
)
def test_tables_hold_the_predicted_parameters(name, weight_norm):
    plan = PLANS[name]
    variant = variant_of(plan)
    config = GHNConfig(weight_norm=weight_norm, virtual_edges=50, layernorm=True, hid=8)
    theta = init_theta(config, jax.random.key(0))
    batch = build_meta_batch([plan, plan], variant, weight_norm)
    tables = jax.jit(functools.partial(predict_tables, config, variant))(theta, batch)
    params = predict_params(None, graph_from_plan(plan), ghn=LoadedGHN(config, theta))
    program = make_program(plan, variant)
    pack = functools.partial(pack_params, [program] * 2, capacity=capacity_of(variant, 2))
    # Rows of tensors narrower than the stage are decoded whole; their tails are never read.
    read = pack([jax.tree.map(np.ones_like, params)] * 2)
    for ours, theirs, mask in zip(
        *map(jax.tree.leaves, (tables, pack([params] * 2), read)), strict=True
    ):
        np.testing.assert_allclose(ours * mask, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_is_the_slope_of_the_loss():
    plan = plan_of("msa:0 conv_1x1:1", "skip_connect:0 max_pool_3x3:1", n_cells=3)
    variant = variant_of(plan)
    theta = init_theta(GHN2, jax.random.key(1))
    batch = build_meta_batch([plan], variant)
    images = jax.random.normal(jax.random.key(2), (4, 32, 32, 3))

    @jax.jit
    def evaluate(theta):
        return jax.value_and_grad(
            lambda t: meta_loss(GHN2, variant, t, batch, images, jnp.arange(4), None)[0]
        )(theta)

    loss, gradient = evaluate(theta)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    step = 1e-2 / norm
    ahead, _ = evaluate(jax.tree.map(lambda t, g: t + step * g / norm, theta, gradient))
    behind, _ = evaluate(jax.tree.map(lambda t, g: t - step * g / norm, theta, gradient))
    assert jnp.isfinite(loss)
    np.testing.assert_allclose((ahead - behind) / (2 * step), norm, rtol=0.05)


@needs_reference
@pytest.mark.parametrize("kind", ["ghn1", "ghn2"])
@pytest.mark.parametrize(
    "record", [r for r in peer_nets() if r["file"] == "net01.npz"], ids=lambda r: r["file"]
)
def test_logits_equal_the_reference(record, kind):
    pytest.importorskip("torch", reason="the reference's checkpoints need the torch extra")
    from ppuda_jax.archs.genotypes import NetConfig
    from ppuda_jax.convert.files import load_torch_ghn

    ghn = load_torch_ghn(REFERENCE / "peer" / f"{kind}_cifar10_random.pt")
    plan = make_plan(NetConfig.from_dict(record["net_args"]))
    variant = variant_of(plan)
    images = np.load(REFERENCE / "peer" / "images.npy").transpose(0, 2, 3, 1)
    batch = build_meta_batch([plan], variant, ghn.config.weight_norm)

    @jax.jit
    def logits(theta):
        tables = predict_tables(ghn.config, variant, theta, batch)
        return run.logits(variant, tables, batch.programs, jnp.asarray(images))

    expected = arrays_of(REFERENCE / "peer" / record["file"])[f"logits_{kind}"]
    np.testing.assert_allclose(logits(ghn.theta)[0], expected, atol=1e-4 * np.abs(expected).max())


def test_shapes_depend_on_variant_and_count_only():
    found = {}
    for index in range(60):
        plan = make_plan(arch_at("train", index))
        shapes = jax.tree.map(
            lambda x: (x.shape, x.dtype), build_meta_batch([plan], variant_of(plan))
        )
        assert found.setdefault(variant_of(plan), shapes) == shapes


def test_too_large_a_meta_batch_is_refused(monkeypatch):
    plan = PLANS["flat head"]
    monkeypatch.setattr(meta_batches, "BUCKET", Bucket(16, 16))
    with pytest.raises(CapacityError, match="at most 16 nodes"):
        build_meta_batch([plan], variant_of(plan))


def test_other_decoders_are_refused():
    config = GHNConfig(decoder="mlp")
    with pytest.raises(ValueError, match="decoder='mlp'.*use predict_params"):
        predict_tables(config, variant_of(PLANS["flat head"]), {}, None)


def test_a_meta_batch_of_more_than_eight_is_its_networks_one_by_one():
    cells = ("msa:0 cse:1", "max_pool_3x3:0 msa:1", "conv_1x1:0 msa:1")
    plans = [plan_of(normal, "skip_connect:0 skip_connect:1", n_cells=3) for normal in cells]
    variant = variant_of(plans[0])
    theta = init_theta(GHN2, jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (4, 32, 32, 3))
    loss = jax.jit(functools.partial(meta_loss, GHN2, variant))
    together, scores = loss(
        theta, build_meta_batch(plans * 4, variant), images, jnp.arange(4), None
    )
    alone = [
        loss(theta, build_meta_batch([plan], variant), images, jnp.arange(4), None)[0]
        for plan in plans
    ]
    assert len({round(float(value), 4) for value in alone}) == 3
    np.testing.assert_allclose(scores["loss"], alone * 4, rtol=1e-5)
    np.testing.assert_allclose(together, np.mean(alone), rtol=1e-5)
