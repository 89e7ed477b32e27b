"""Training against a loop written out, continuing, divergence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import he, orthogonal, predicted, random, warm
from ppuda_jax.finetune.network import of_apply
from ppuda_jax.finetune.recipe import Recipe
from tests.close import assert_close
from tests.finetune.conftest import initial, linear

RECIPE = Recipe(learning_rate=0.5, batch_size=8, grad_clip=0.0)


def _fit(network, train_images, held_out, recipe=RECIPE, **options):
    params = network.pack(initial(0))
    return fit(network, params, train_images, held_out, recipe, **{"steps": 12, **options})


def _loss(params, pixels, labels):
    logits = linear({"params": params}, pixels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def test_a_loop_written_out(network, train_images, held_out):
    curve = _fit(network, train_images, held_out, every=4)
    params, optimiser = initial(0), optax.trace(0.9)
    trace = optimiser.init(params)
    for number in range(12):
        images, labels = (x[train_images.batch(number)] for x in train_images.resident)
        pixels = (images / 255.0 - 0.5) / 0.25

        gradient = jax.grad(_loss)(params, jnp.asarray(pixels, jnp.float32), labels)
        gradient = jax.tree.map(lambda g, p: g + 3e-4 * p, gradient, params)
        update, trace = optimiser.update(gradient, trace)
        rate = np.float32(0.5 * 0.5 * (1 + np.cos(np.pi * number / 12)))
        params = optax.apply_updates(params, optax.tree.scale(-rate, update))
    assert_close(curve.params, params, 1e-5)
    assert list(curve.steps) == [0, 4, 8, 12]
    assert curve.accuracy[0] < curve.final == 1.0
    images = jnp.concatenate([b.images for b in held_out.batches])
    want = _loss(params, images, jnp.concatenate([b.labels for b in held_out.batches]))
    assert_close(curve.points[-1].loss, want, 1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_continuing_equals_never_having_stopped(network, train_images, held_out, name):
    recipe, snapshots = dataclasses.replace(RECIPE, optimizer=name), []
    whole = _fit(network, train_images, held_out, recipe, every=4, save=snapshots.append)
    assert [s.points[-1].step for s in snapshots] == [4, 8, 12]
    rest = _fit(network, train_images, held_out, recipe, every=4, start=snapshots[0])
    assert np.array_equal(rest.accuracy, whole.accuracy)
    for a, b in zip(*map(jax.tree.leaves, (rest.params, whole.params)), strict=True):
        assert np.array_equal(a, b)


def test_networks_of_one_key_share_programs_and_rates_do_not_count(network, train_images, held_out):
    from ppuda_jax.programs import PROGRAMS

    _fit(network, train_images, held_out)
    loads = PROGRAMS.loads
    other = of_apply(linear, initial, name="other")
    _fit(other, train_images, held_out, dataclasses.replace(RECIPE, learning_rate=0.01))
    assert PROGRAMS.loads == loads


def test_a_loss_that_is_not_finite_ends_training(train_images, held_out):
    def broken(variables, images):
        logits = linear(variables, images)
        return jnp.where(jnp.abs(variables["params"]["kernel"]).max() > 1.0, jnp.nan, logits)

    network = of_apply(broken, initial)
    curve = _fit(network, train_images, held_out, every=1)
    assert curve.diverged_at is not None and 0 < curve.diverged_at < 12
    assert curve.points[-1].step <= curve.diverged_at
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(curve.params))


def test_running_statistics_are_kept(train_images, held_out):
    def train(variables, images, key):
        del key
        return linear(variables, images), {"count": variables["count"] + 1}

    network = of_apply(linear, initial, train=train, state={"count": jnp.zeros((), jnp.int32)})
    assert int(_fit(network, train_images, held_out).state["count"]) == 12


def test_another_way_to_train_the_same_function_is_another_program(train_images, held_out):
    def frozen(variables, images, key):
        del key
        return jax.lax.stop_gradient(linear(variables, images)), {}

    recipe = dataclasses.replace(RECIPE, weight_decay=0.0)
    moving = _fit(of_apply(linear, initial), train_images, held_out, recipe)
    still = _fit(of_apply(linear, initial, train=frozen), train_images, held_out, recipe)
    assert_close(still.params, initial(0), 1e-6)
    assert moving.final > still.final


def test_warm_is_a_short_training(network, train_images, held_out):
    warmed = warm(12, train_images, held_out, RECIPE)(network, 0)
    assert_close(warmed, _fit(network, train_images, held_out).params, 1e-6)


def test_what_needs_a_graph_says_so(network):
    assert_close(random()(network, 0), initial(0), 1e-7)
    with pytest.raises(ValueError, match="linear was given without a graph"):
        he()(network, 0)
    with pytest.raises(ValueError, match="linear was given without a graph"):
        orthogonal()(network, 0)
    with pytest.raises(ValueError, match="linear was given without a graph"):
        predicted(None)(network, 0)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"steps": 0}, "must be at least 1, .* received 0 and None"),
        ({"every": 0}, "must be at least 1, .* received 12 and 0"),
        ({"every": (3, 13)}, "stops at most steps; received 12 and \\(3, 13\\)"),
        ({"recipe": Recipe(batch_size=16)}, "batches of 16 images, received 8"),
    ],
)
def test_bad_arguments(network, train_images, held_out, options, message):
    with pytest.raises(ValueError, match=message):
        _fit(network, train_images, held_out, **options)
