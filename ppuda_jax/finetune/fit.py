"""Trains one network and says how its accuracy grows.

Legend: `b` images of a batch.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.finetune.curve import Curve, Point
from ppuda_jax.finetune.network import Params, Trainable
from ppuda_jax.finetune.recipe import Recipe, cut_out
from ppuda_jax.programs import CachedFunction


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Where training is; continuing from it equals never having stopped, on a CPU bit for bit.

    Attributes:
      params: parameters.
      optimiser: state of the optimiser.
      state: what else the network keeps.
      points: evaluations so far, the newest at the snapshot's step.
    """

    params: Params
    optimiser: Any
    state: Any
    points: tuple[Point, ...] = ()


def fit(
    network: Trainable,
    params: Params,
    images: TrainingImages,
    held_out: EvalImages,
    recipe: Recipe,
    *,
    steps: int,
    every: int | Sequence[int] | None = None,
    seed: int = 0,
    start: Snapshot | None = None,
    save: Callable[[Snapshot], None] | None = None,
) -> Curve:
    """Trains a network.

    Args:
      network: what is trained.
      params: where it starts, from `network.pack` or `network.predict`; not changed.
      images: training images, in batches of the size of the recipe.
      held_out: what the curve is measured on.
      recipe: how.
      steps: updates.
      every: steps between evaluations, or the steps after which to evaluate; by default only before
        the first and after the last.
      seed: of augmentation and dropout; the order of the images is that of `images`.
      start: a snapshot to continue from, instead of `params`.
      save: called with a snapshot of NumPy arrays after each evaluation but the first.

    Returns:
      The curve, with the parameters. A loss that is not finite ends it.

    Raises:
      ValueError: fewer than one step, or images in batches of another size.
    """
    stops = _stops(steps, every)
    found = jax.tree.leaves(images.batch(0))[0].shape[0]
    if found != recipe.batch_size:
        raise ValueError(
            f"the recipe has batches of {recipe.batch_size} images, received {found}: load the "
            "training images with the recipe's batch_size"
        )
    optimiser = recipe.make_optimiser()
    if start is None:
        params = jax.tree.map(jnp.array, params)  # the step is given its arguments
        now = Snapshot(params, optimiser.init(params), network.state)
        now = dataclasses.replace(now, points=(_point(network, now, held_out, 0, None, 0.0),))
    else:
        now = _copied(start, jnp.array)
    advance = _advance(network, images, recipe, steps, seed)
    if now.points[-1].step < steps:
        # What a step needs is compiled by one that is thrown away, so that times are of training.
        blank = _copied(now, jnp.array)
        jax.block_until_ready(advance(blank.params, blank.optimiser, blank.state, 0))
    for stop in stops:
        before = now.points[-1]
        if stop <= before.step:
            continue
        kept = jax.tree.map(jnp.array, (now.params, now.state))
        params, opt_state, state = now.params, now.optimiser, now.state
        losses, seconds = [], before.seconds
        started = time.perf_counter()
        for number in range(before.step, stop):
            params, opt_state, state, loss = advance(params, opt_state, state, number)
            losses.append(loss)
        numbers = np.asarray(jax.device_get(losses))
        seconds += time.perf_counter() - started
        if not np.isfinite(numbers).all():
            at = before.step + int(np.flatnonzero(~np.isfinite(numbers))[0])
            return Curve(now.points, at, *kept)
        now = Snapshot(params, opt_state, state, now.points)
        point = _point(network, now, held_out, stop, float(numbers.mean()), seconds)
        now = dataclasses.replace(now, points=(*now.points, point))
        if save is not None:
            save(_copied(now, np.array))
    return Curve(now.points, None, now.params, now.state)


def _copied(snapshot: Snapshot, copy: Callable[[Any], Any]) -> Snapshot:
    """The step is given its arguments, so what stays needs arrays of its own."""
    values = (snapshot.params, snapshot.optimiser, snapshot.state)
    params, optimiser, state = jax.tree.map(copy, values)
    return Snapshot(params, optimiser, state, snapshot.points)


def _stops(steps: int, every: int | Sequence[int] | None) -> list[int]:
    """Steps after which a network is evaluated; the last one is `steps`."""
    wrong = steps < 1
    if every is None:
        inner: Sequence[int] = ()
    elif isinstance(every, int):
        inner = range(every, steps, every) if every > 0 else ()
        wrong |= every < 1
    else:
        inner = every
        wrong |= not all(1 <= stop <= steps for stop in every)
    if wrong:
        raise ValueError(
            f"steps and every must be at least 1, and stops at most steps; received {steps} and "
            f"{every}"
        )
    return sorted({*inner, steps})


def _advance(
    network: Trainable, images: TrainingImages, recipe: Recipe, steps: int, seed: int
) -> Callable[[Params, Any, Any, int], tuple[Params, Any, Any, jax.Array]]:
    """One step, by its number; parameters and state of the optimiser are donated."""
    resident = jax.tree.map(jnp.asarray, images.resident)
    load, update, keys = _load(images, recipe), _update(recipe), jax.random.key(seed)
    smoothing = jnp.float32(recipe.label_smoothing)

    def advance(
        params: Params, opt_state: Any, state: Any, number: int
    ) -> tuple[Params, Any, Any, jax.Array]:
        rate = jnp.float32(recipe.rate(number / steps))
        image_key, own_key = jax.random.split(jax.random.fold_in(keys, number))
        pixels, labels = load(resident, images.batch(number), image_key)
        loss, gradient, state = network.gradient(params, state, pixels, labels, own_key, smoothing)
        params, opt_state = update(params, opt_state, gradient, rate)
        return params, opt_state, state, loss

    return advance


def _load(images: TrainingImages, recipe: Recipe) -> CachedFunction:
    """What makes images of a batch, augmented, with holes."""

    def load(resident, batch, key):
        image_key, hole_key = jax.random.split(key)
        pixels, labels = images.load(resident, batch, image_key)
        return cut_out(pixels, hole_key, recipe.cutout), labels

    return CachedFunction(load, (images.spec, type(images), recipe.cutout), "loads of images")


def _update(recipe: Recipe) -> CachedFunction:
    """An update by the optimiser, whatever the learning rate."""
    optimiser = recipe.make_optimiser()

    def update(params, opt_state, gradient, rate):
        rates = {**opt_state.hyperparams, "learning_rate": rate}
        opt_state = opt_state._replace(hyperparams=rates)
        with jax.numpy_dtype_promotion("standard"):  # Adam raises floats to an integer power
            updates, opt_state = optimiser.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    key = dataclasses.replace(recipe, learning_rate=1.0, schedule="constant")
    jit = functools.partial(jax.jit, donate_argnums=(0, 1))
    return CachedFunction(update, key, "updates of networks", jit=jit)


def _point(
    network: Trainable,
    now: Snapshot,
    held_out: EvalImages,
    step: int,
    train_loss: float | None,
    seconds: float,
) -> Point:
    sums = [
        network.score(now.params, now.state, b.images, b.labels, b.weights)
        for b in held_out.batches
    ]
    hits, _, loss = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)
    count = held_out.num_images
    return Point(step, float(hits / count), float(loss / count), _or_nan(train_loss), seconds)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
