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
from ppuda_jax.finetune.network import Gradient, Params, Traced, Trainable
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
    if start is None:
        now = beginning(network, params, recipe)
        now = dataclasses.replace(now, points=(_point(network, now, held_out, 0, None, 0.0),))
    else:
        now = _copied(start)
    advance = make_step(network, images, recipe, steps, seed)
    if now.points[-1].step < steps:
        # What a step needs is compiled by one that is thrown away, so that times are of training.
        blank = _copied(now)
        jax.block_until_ready(advance(blank.params, blank.optimiser, blank.state, 0))
    for stop in stops:
        before = now.points[-1]
        if stop <= before.step:
            continue
        kept = jax.tree.map(np.array, (now.params, now.state))
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
            save(_copied(now))
    return Curve(now.points, None, now.params, now.state)


def _copied(snapshot: Snapshot) -> Snapshot:
    """The step is given its arguments, so what stays needs arrays of its own, on the host."""
    values = (snapshot.params, snapshot.optimiser, snapshot.state)
    params, optimiser, state = jax.tree.map(np.array, values)
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


Step = Callable[[Params, Any, Any, int], tuple[Params, Any, Any, jax.Array]]
"""(params, state of the optimiser, state, number) -> the three after it, loss []; the first two
are donated."""


def make_step(
    network: Trainable, images: TrainingImages, recipe: Recipe, steps: int, seed: int
) -> Step:
    """What `fit` does `steps` times, numbered from 0: one program, if JAX can trace the network.

    Args:
      network: what is trained.
      images: training images.
      recipe: how.
      steps: updates in all, which the learning rate falls along.
      seed: of augmentation and dropout.
    """
    resident = jax.device_put(images.resident)  # `asarray` would compile a program for each shape
    step: Callable[..., Any]
    if network.traced is None:  # the host drives it, between a program before it and one after it
        step = _joined(network.gradient, _load(images, recipe), _update(recipe))
    else:
        step = functools.partial(_whole(network.traced, images, recipe), network.traced.data)
    smoothing, own = np.float32(recipe.label_smoothing), np.uint32(seed)

    def advance(
        params: Params, opt_state: Any, state: Any, number: int
    ) -> tuple[Params, Any, Any, jax.Array]:
        rate = np.float32(recipe.rate(number / steps))
        batch = images.batch(number)
        numbers = own, np.int32(number), rate, smoothing
        return step(params, opt_state, state, resident, batch, *numbers)

    return advance


def beginning(network: Trainable, params: Params, recipe: Recipe) -> Snapshot:
    """Where training from some parameters begins, in arrays of its own.

    Zeros are in the place of the optimiser's first state, which the first update makes.
    """
    shapes = jax.eval_shape(recipe.make_optimiser().init, params)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return Snapshot(jax.tree.map(np.array, params), blank, network.state)


def _whole(traced: Traced, images: TrainingImages, recipe: Recipe) -> CachedFunction:
    """A step as one program: images, gradient and update."""
    load, update = _load(images, recipe), _update(recipe)

    def step(data: Any, *arguments: Any) -> tuple[Params, Any, Any, jax.Array]:
        return _joined(functools.partial(traced.gradient, data), load, update)(*arguments)

    key = (traced.key, load.key, update.key)
    jit = functools.partial(jax.jit, donate_argnums=(1, 2))
    return CachedFunction(step, key, "steps of networks", jit=jit)


def _joined(
    slope_of: Gradient, load: CachedFunction, update: CachedFunction
) -> Callable[..., tuple[Params, Any, Any, jax.Array]]:
    """A step from its parts: programs of their own, or pieces of one where it is traced."""

    def step(params, opt_state, state, resident, batch, seed, number, rate, smoothing):
        pixels, labels, key = load(resident, batch, seed, number)
        loss, slope, state = slope_of(params, state, pixels, labels, key, smoothing)
        return *update(params, opt_state, slope, number, rate), state, loss

    return step


def _load(images: TrainingImages, recipe: Recipe) -> CachedFunction:
    """What makes images of a batch, augmented, with holes, and the key of the network's own."""

    def load(resident, batch, seed, number):
        key = jax.random.fold_in(jax.random.key(seed), number)
        image_key, own_key = jax.random.split(key)
        image_key, hole_key = jax.random.split(image_key)
        pixels, labels = images.load(resident, batch, image_key)
        return cut_out(pixels, hole_key, recipe.cutout), labels, own_key

    return CachedFunction(load, (images.spec, type(images), recipe.cutout), "loads of images")


def _update(recipe: Recipe) -> CachedFunction:
    """An update by the optimiser, whatever the learning rate; the first one makes its state."""
    optimiser = recipe.make_optimiser()

    def update(params, opt_state, gradient, number, rate):
        first = optimiser.init(params)
        opt_state = jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), first, opt_state)
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
