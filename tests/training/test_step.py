"""The step: optimiser as published, skipped updates, one program per variant."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.training.state import best_theta, make_optimiser, make_state
from ppuda_jax.training.step import make_dispatch, make_step
from tests.training import toy

CONFIG = toy.settings()
TASK = toy.task(CONFIG)
CROPPED = dataclasses.replace(TASK.images.spec, crop_padding=4)  # digits are not, by themselves
LOAD = dataclasses.replace(TASK.images, spec=CROPPED).load


def arguments(networks, steps=1, rate=1e-3):
    arrays = [networks.build(range(8 * k, 8 * k + 8), "variant0") for k in range(steps)]
    stacked = jax.tree.map(lambda *x: np.stack(x)[:, None], *arrays)
    batches = np.stack([TASK.images.batch(k) for k in range(steps)])
    return TASK.images.resident, stacked, batches, np.full(steps, rate, np.float32)


@functools.cache
def compiled(config):
    return jax.jit(make_dispatch(make_step(toy.loss_for("variant0"), LOAD, config)))


def run(networks, steps=1, state=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    state = make_state(toy.theta(), config) if state is None else state
    return compiled(config)(state, *arguments(networks, steps))


def test_optimiser_is_clipping_then_l2_inside_adam():
    config = dataclasses.replace(CONFIG, grad_clip=5.0, weight_decay=0.1)
    theta = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([3.0])}
    grads = {"a": jnp.asarray([6.0, 8.0]), "b": jnp.asarray([0.0])}
    optimiser = make_optimiser(config)
    state, mean, variance = optimiser.init(theta), np.zeros(3), np.zeros(3)
    flat = np.asarray([1.0, -2.0, 3.0])
    for count in (1, 2, 3):
        with jax.numpy_dtype_promotion("standard"):  # as the step does
            updates, state = optimiser.update(grads, state, theta)
        gradient = np.asarray([3.0, 4.0, 0.0]) + 0.1 * flat  # norm 10 clipped to 5
        mean = 0.9 * mean + 0.1 * gradient
        variance = 0.999 * variance + 0.001 * gradient**2
        expected = mean / (1 - 0.9**count) / (np.sqrt(variance / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(
            np.concatenate([updates["a"], updates["b"]]), expected, rtol=3e-5
        )
        theta = jax.tree.map(lambda t, u: t - 0.01 * u, theta, updates)
        flat = flat - 0.01 * expected


def test_class_heads_may_have_a_rate_of_their_own():
    theta = {"decoder": {"classes": jnp.ones(3), "conv": jnp.ones(2)}, "gnn": jnp.ones(2)}
    grads = jax.tree.map(lambda leaf: 0.1 * leaf, theta)
    updates = []
    for factor in (1.0, 20.0):
        optimiser = make_optimiser(dataclasses.replace(CONFIG, head_rate=factor))
        with jax.numpy_dtype_promotion("standard"):
            updates.append(optimiser.update(grads, optimiser.init(theta), theta)[0])
    scaled = updates[0]["decoder"] | {"classes": 20 * updates[0]["decoder"]["classes"]}
    chex.assert_trees_all_close(updates[1], updates[0] | {"decoder": scaled})


def test_several_steps_of_a_dispatch_equal_single_ones():
    together, metrics = run(toy.ToyNetworks(), steps=3)
    state = make_state(toy.theta(), CONFIG)
    resident, networks, batches, rates = arguments(toy.ToyNetworks(), 3)
    losses = []
    for k in range(3):
        one = jax.tree.map(lambda x, k=k: x[k : k + 1], networks)
        state, single = compiled(CONFIG)(state, resident, one, batches[k : k + 1], rates[k : k + 1])
        losses.append(single["loss"][0])
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    chex.assert_trees_all_close(together.theta, state.theta, atol=1e-6)
    assert int(together.step) == 3


def test_updates_that_are_not_finite_are_skipped_and_counted():
    poisoned = toy.ToyNetworks(poison_from=8)  # the second meta-batch is poisoned
    first, _ = run(toy.ToyNetworks(), steps=1)
    state, metrics = run(poisoned, steps=2)
    np.testing.assert_array_equal(metrics["finite"], [True, False])
    np.testing.assert_array_equal(metrics["skipped_in_a_row"], [0, 1])
    chex.assert_trees_all_close(state.theta, first.theta, atol=1e-6)
    chex.assert_trees_all_close(state.opt_state, first.opt_state, atol=1e-6)
    assert (int(state.step), int(state.skipped)) == (2, 1)
    after, _ = run(toy.ToyNetworks(), steps=1, state=state)
    assert (int(after.skipped), int(after.skipped_in_a_row)) == (1, 0)
    chex.assert_tree_all_finite(after.theta)


def test_the_average_follows_theta():
    state = make_state(toy.theta(), CONFIG)
    expected = state.average
    for count in range(3):
        state, _ = run(toy.ToyNetworks(), state=state)
        decay = min(CONFIG.average_decay, (1 + count) / (10 + count))
        expected = jax.tree.map(lambda a, t, d=decay: d * a + (1 - d) * t, expected, state.theta)
        chex.assert_trees_all_close(state.average, expected, rtol=1e-5)
    assert best_theta(state) is state.average
    without = make_state(toy.theta(), dataclasses.replace(CONFIG, average_decay=0.0))
    assert without.average is None
    assert best_theta(without) is without.theta


def test_augmentation_follows_seed_and_step():
    images = [run(toy.ToyNetworks(), seed=seed)[1]["loss"] for seed in (1, 1, 2)]
    assert images[0] == images[1] != images[2]


def test_every_step_draws_anew():
    """The same images and networks: only the step's number tells the keys apart."""

    def draws(theta, networks, images, labels, rng):
        loss, _ = toy.loss_for("variant0")(theta, networks, images, labels, rng)
        return loss, {"crop": images.mean(), "dropout": jax.random.uniform(rng)}

    step = make_step(draws, LOAD, CONFIG)
    resident, networks, batches, rates = arguments(toy.ToyNetworks(), 3, rate=0.0)
    same = jax.tree.map(lambda x: np.repeat(x[:1], 3, axis=0), (networks, batches))
    state = make_state(toy.theta(), CONFIG)
    _, metrics = jax.jit(make_dispatch(step))(state, resident, *same, rates)
    for name in ("crop", "dropout"):
        assert len(set(np.asarray(metrics[name]).tolist())) == 3, name
