"""Recipes: optimisers by name, schedules, what decays, cutout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.finetune.recipe import FULL, LONG, SHOTS, Recipe, cut_out, optimizers
from tests.close import assert_close

PARAMS = {"w": jnp.array([3.0, -4.0])}
GRADIENT = {"w": jnp.array([30.0, 40.0])}


def _update(recipe, params=PARAMS, gradient=GRADIENT):
    optimiser = recipe.make_optimiser()
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimiser.update(gradient, optimiser.init(params), params)
    return updates["w"]


def test_sgd_by_hand():
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, grad_clip=5.0)
    clipped = np.array([3.0, 4.0])  # norm 50 -> 5
    assert_close(_update(recipe), -0.1 * (clipped + 0.5 * np.array([3.0, -4.0])), 1e-6)
    unclipped = Recipe(learning_rate=0.1, weight_decay=0.0, grad_clip=0.0)
    assert_close(_update(unclipped), -0.1 * np.array([30.0, 40.0]), 1e-6)


def test_decay_is_decoupled_where_the_optimiser_takes_it():
    decayed, plain = (
        _update(Recipe("adamw", 0.1, weight_decay=decay, grad_clip=0.0)) for decay in (0.5, 0.0)
    )
    assert_close(decayed - plain, -0.1 * 0.5 * np.array([3.0, -4.0]), 1e-5)
    # Adam takes the penalty's gradient in, and divides it away at the first step.
    assert_close(
        _update(Recipe("adam", 0.1, weight_decay=0.5, grad_clip=0.0)), np.full(2, -0.1), 1e-4
    )


def test_the_rate_is_set_from_outside():
    optimiser = Recipe("adam", 0.1).make_optimiser()
    state = optimiser.init(PARAMS)
    assert_close(state.hyperparams["learning_rate"], np.float32(0.1), 1e-6)


def test_schedules():
    assert [Recipe(learning_rate=2.0).rate(p) for p in (0, 0.5, 1)] == pytest.approx([2, 1, 0])
    constant = Recipe(learning_rate=2.0, schedule="constant")
    assert [constant.rate(p) for p in (0, 0.5, 1)] == [2, 2, 2]


@pytest.mark.parametrize("name", optimizers())
def test_every_optimiser_makes_a_step(name):
    assert np.isfinite(_update(Recipe(name, 0.1))).all()


def test_published_recipes():
    assert (FULL.optimizer, FULL.learning_rate, FULL.momentum) == ("sgd", 0.025, 0.9)
    assert (FULL.weight_decay, FULL.grad_clip, FULL.batch_size) == (3e-4, 5.0, 96)
    assert (LONG.cutout, LONG.drop_path, LONG.auxiliary) == (16, 0.2, 0.4)
    assert SHOTS.weight_decay == 1e-3


def test_cutout_zeroes_a_square_wherever_its_centre_lies():
    images = jnp.ones((200, 8, 8, 3))
    holes = np.asarray(cut_out(images, jax.random.key(0), 4) == 0)
    assert (holes == holes[..., :1]).all()
    sizes = holes[..., 0].sum((1, 2))
    assert sizes.max() == 16 and sizes.min() >= 4  # a corner keeps at least 2 x 2 of the square
    rows, columns = holes[..., 0].any(2), holes[..., 0].any(1)
    assert (sizes == rows.sum(1) * columns.sum(1)).all()
    assert holes[..., 0].any(0).all()
    assert cut_out(images, jax.random.key(0), 0) is images


@pytest.mark.parametrize(
    "change,message",
    [
        ({"optimizer": "sgdd"}, "must be one of optax's .*adam.*received 'sgdd'"),
        ({"batch_size": 1}, "batch_size at least 2"),
        ({"learning_rate": -1.0}, "must not be negative"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie in"),
    ],
)
def test_bad_recipes(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_optimisers_are_those_of_a_rate_alone():
    assert {"sgd", "adam", "adamw", "lamb", "lion"} <= set(optimizers())
    assert not {"chain", "scale_by_adam", "clip", "cosine_decay_schedule"} & set(optimizers())
    assert all(callable(getattr(optax, name)) for name in optimizers())
