"""Trains one network and says how its accuracy grows.

Legend: `b` images of a batch.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
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
    every: int | None = None,
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
      every: steps between evaluations; only before and after by default.
      seed: of augmentation and dropout; the order of the images is that of `images`.
      start: a snapshot to continue from, instead of `params`.
      save: called with a snapshot of NumPy arrays after each evaluation but the last.

    Returns:
      The curve, with the parameters. A loss that is not finite ends it.

    Raises:
      ValueError: fewer than one step, or images in batches of another size.
    """
    if steps < 1 or (every is not None and every < 1):
        raise ValueError(f"steps and every must be at least 1, received {steps} and {every}")
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
    resident = jax.tree.map(jnp.asarray, images.resident)
    load, update, keys = _load(images, recipe), _update(recipe), jax.random.key(seed)
    smoothing = jnp.float32(recipe.label_smoothing)
    stops = sorted({*range(every or steps, steps, every or steps), steps})
    for stop in stops:
        before = now.points[-1]
        if stop <= before.step:
            continue
        kept = jax.tree.map(jnp.array, (now.params, now.state))
        params, state, opt_state = now.params, now.state, now.optimiser
        losses, seconds = [], before.seconds
        for number in range(before.step, stop):
            started = time.perf_counter()
            rate = jnp.float32(recipe.rate(number / steps))
            image_key, own_key = jax.random.split(jax.random.fold_in(keys, number))
            pixels, labels = load(resident, images.batch(number), image_key)
            loss, gradient, state = network.gradient(
                params, state, pixels, labels, own_key, smoothing
            )
            params, opt_state = update(params, opt_state, gradient, rate)
            losses.append(loss)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        numbers = np.asarray(jax.device_get(losses))
        seconds += time.perf_counter() - started
        if not np.isfinite(numbers).all():
            at = before.step + int(np.flatnonzero(~np.isfinite(numbers))[0])
            return Curve(now.points, at, *kept)
        now = Snapshot(params, opt_state, state, now.points)
        point = _point(network, now, held_out, stop, float(numbers.mean()), seconds)
        now = dataclasses.replace(now, points=(*now.points, point))
        if save is not None and stop < steps:
            save(_copied(now, np.array))
    return Curve(now.points, None, now.params, now.state)


def _copied(snapshot: Snapshot, copy: Callable[[Any], Any]) -> Snapshot:
    """The step is given its arguments, so what stays needs arrays of its own."""
    values = (snapshot.params, snapshot.optimiser, snapshot.state)
    params, optimiser, state = jax.tree.map(copy, values)
    return Snapshot(params, optimiser, state, snapshot.points)


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
