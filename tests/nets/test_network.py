"""Flax networks of plans: equal to the reference's logits, and their training options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets.network import Network, build_network
from tests.networks import plan_of, random_params
from tests.reference import REFERENCE, arrays_of, needs_reference, peer_nets


@needs_reference
@pytest.mark.parametrize("record", peer_nets(), ids=lambda r: r["file"])
def test_logits_equal_the_reference(record):
    arrays = arrays_of(REFERENCE / "peer" / record["file"])
    images = np.load(REFERENCE / "peer" / "images.npy").transpose(0, 2, 3, 1)
    net, params = build_network(record["net_args"]), {}
    for spec in net.plan.params:
        leaf = arrays[f"param/{spec.torch_name}"]
        order = {"pos_enc": (0, 2, 3, 1)}.get(spec.role, (2, 3, 1, 0))
        leaf = leaf.transpose(order) if leaf.ndim == 4 else leaf.T
        *modules, name = spec.path
        functools.reduce(lambda tree, key: tree.setdefault(key, {}), modules, params)[name] = leaf
    logits = jax.jit(net.apply)({"params": params}, images)
    expected = arrays["logits_ghn2"]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_parameters_are_those_of_the_plan():
    plan = plan_of("sep_conv_3x3:0 cse:1", "skip_connect:0 conv_7x1_1x7:1")
    shapes = jax.eval_shape(Network(plan).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    leaves = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    assert leaves == {spec.path: spec.shape for spec in plan.params}


def test_dropout_and_drop_path_act_in_training_only():
    plan = plan_of("conv_3x3:0 max_pool_3x3:1", "conv_1x1:0 skip_connect:1", fc_layers=2)
    net, params = Network(plan, drop_path=0.5), random_params(plan)
    images = jnp.ones((2, 32, 32, 3)) * jnp.arange(32.0)[None, :, None, None] / 32
    apply = jax.jit(net.apply, static_argnames="train")
    run = functools.partial(apply, {"params": params}, images)
    np.testing.assert_array_equal(run(), run())
    first, second = (run(train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1))
    assert not np.allclose(first, second)


def test_auxiliary_head():
    plan = plan_of("max_pool_3x3:0 skip_connect:1", "avg_pool_3x3:0 skip_connect:1")
    net = Network(plan, auxiliary=True)
    images = jnp.ones((2, 32, 32, 3))
    init, apply = (functools.partial(f, train=True) for f in (net.init, net.apply))
    variables = jax.eval_shape(init, jax.random.key(0), images)
    logits, extra = jax.eval_shape(apply, variables, images)
    assert logits.shape == extra.shape == (2, 10)
    assert jax.eval_shape(net.apply, variables, images).shape == (2, 10)


def test_images_of_another_size_are_refused():
    plan = plan_of("max_pool_3x3:0 skip_connect:1", "avg_pool_3x3:0 skip_connect:1")
    with pytest.raises(ValueError, match=r"must be \[B, 32, 32, 3\], received \(1, 28, 28, 1\)"):
        Network(plan).apply({"params": random_params(plan)}, jnp.zeros((1, 28, 28, 1)))
