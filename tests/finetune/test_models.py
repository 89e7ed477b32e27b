"""Flax modules are trained as their users train them: switches, statistics, dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import he, random
from ppuda_jax.finetune.models import of_module, of_variables, with_statistics
from ppuda_jax.finetune.recipe import Recipe
from tests.close import assert_close
from tests.finetune.conftest import initial, linear

RECIPE = Recipe(learning_rate=0.1, batch_size=8, grad_clip=0.0, schedule="constant")


class Plain(nn.Module):
    """Norm and dropout in Flax's own words."""

    @nn.compact
    def __call__(self, images, deterministic: bool = True):
        x = nn.Conv(4, (3, 3), strides=8, use_bias=False)(images)
        x = nn.BatchNorm(use_running_average=deterministic, momentum=0.5)(x)
        x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))
        return nn.Dense(3)(x.mean((1, 2)))


def test_a_step_is_that_of_a_loop_in_flax(train_images, held_out):
    module, network = Plain(), of_module(Plain(), 32, "plain")
    start = random()(network, 3)
    curve = fit(network, start, train_images, held_out, RECIPE, steps=1, seed=5)

    load_key, own_key = jax.random.split(jax.random.fold_in(jax.random.key(5), 0))
    image_key, _ = jax.random.split(load_key)
    pixels, labels = train_images.load(
        jax.tree.map(jnp.asarray, train_images.resident), train_images.batch(0), image_key
    )

    def loss(params):
        logits, changed = module.apply(
            {"params": params, **network.state},
            pixels,
            deterministic=False,
            rngs={"dropout": own_key},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed["batch_stats"]

    gradient, statistics = jax.grad(loss, has_aux=True)(start)
    want = jax.tree.map(lambda p, g: p - 0.1 * (g + 3e-4 * p), start, gradient)
    assert_close(curve.params, want, 1e-5)
    assert_close(curve.state["batch_stats"], statistics, 1e-5)
    b = held_out.batches[0]
    logits = module.apply({"params": want, "batch_stats": statistics}, b.images)
    hits, _, _ = network.score(curve.params, curve.state, b.images, b.labels, b.weights)
    assert float(hits) == float((jnp.argmax(logits, -1) == b.labels).sum())


def test_statistics_of_a_start_are_those_of_its_images(train_images):
    module, network = Plain(), of_module(Plain(), 32)
    params = random()(network, 0)
    images = jax.random.normal(jax.random.key(0), (4, 8, 32, 32, 3))
    state = with_statistics(network, module, params, iter(images))
    x = nn.Conv(4, (3, 3), strides=8, use_bias=False).apply({"params": params["Conv_0"]}, images)
    found = state["batch_stats"]["BatchNorm_0"]
    assert_close(found["mean"], x.mean((0, 1, 2, 3)), 1e-4)
    assert_close(found["var"], x.var((1, 2, 3)).mean(0), 1e-4)


class Bare(nn.Module):
    """Nothing but layers."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.mean((1, 2)))


def test_a_module_without_state_has_none(train_images, held_out):
    network = of_module(Bare(), 32)
    assert network.state == {} and network.graph is not None
    assert with_statistics(network, Bare(), None, ()) == {}
    curve = fit(network, he()(network, 0), train_images, held_out, RECIPE, steps=2)
    assert curve.diverged_at is None and curve.state == {}


@pytest.mark.parametrize("wrapped", [True, False], ids=["flax", "pytree"])
def test_functions_of_any_library(wrapped, train_images, held_out):
    apply = linear if wrapped else lambda params, images: linear({"params": params}, images)
    variables = {"params": initial(0)} if wrapped else initial(0)
    network = of_variables(apply, variables, jnp.zeros((2, 32, 32, 3)), "mine")
    curve = fit(network, random()(network, 0), train_images, held_out, RECIPE, steps=3)
    assert set(network.unpack(curve.params)) == {"kernel", "bias"}
    assert not np.allclose(curve.params["kernel"], initial(0)["kernel"])


def test_variables_that_are_only_described_are_refused():
    shapes = jax.eval_shape(lambda: {"params": initial(0)})
    with pytest.raises(ValueError, match="mine was given with 2 variables that are only described"):
        of_variables(linear, shapes, jnp.zeros((2, 32, 32, 3)), "mine")
