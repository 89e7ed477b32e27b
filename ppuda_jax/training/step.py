"""The meta-batch step: images, gradient, update; several of them in one compiled call.

The parts are the same for every driver: the executor compiles them into one program, the host calls
one after the other.

Legend: `K` steps of a dispatch, `S` devices, `M` networks of a meta-batch, `b` images of a batch,
`s` pixels of an image.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ppuda_jax import parallel
from ppuda_jax.data.batches import LoadFn
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.state import TrainState, make_optimiser, running_average

Metrics = Mapping[str, jax.Array]
"""Scalars by name."""


class LossFn(Protocol):
    """Mean loss of the networks of one device's share of a meta-batch."""

    def __call__(
        self,
        theta: Any,
        networks: Any,
        images: jax.Array,
        labels: jax.Array,
        rng: jax.Array,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """(loss float32 [], metrics: arrays that are averaged, `accuracy` among them).

        Args:
            theta: parameters of the hypernetwork.
            networks: one device's arrays of a meta-batch, without leading axes.
            images: float32 [b, s, s, 3], normalised.
            labels: int32 [b].
            rng: key of this step, for dropout; consumed.
        """


Images = tuple[jax.Array, jax.Array, jax.Array]
"""Images [b, s, s, 3], labels int32 [b], and the key of the step's dropout."""


def make_images(load: LoadFn) -> Callable[[TrainState, Any, Any], Images]:
    """Returns `images(state, resident, batch) -> (images, labels, key)`, pure."""

    def images(state: TrainState, resident: Any, batch: Any) -> Images:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        image_rng, loss_rng = jax.random.split(rng)
        return *load(resident, batch, image_rng), loss_rng

    return images


def make_update(config: TrainConfig) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `update(state, loss, scalars, gradient, rate) -> (state, metrics)`, pure.

    A loss or gradient that is not finite leaves theta and the optimiser as they were and is
    counted; the step number advances all the same, so that data and architectures move on.
    """
    optimiser = make_optimiser(config)

    def update(
        state: TrainState,
        loss: jax.Array,
        scalars: Mapping[str, jax.Array],
        gradient: Any,
        rate: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        theta, opt_state = _update(optimiser, state, gradient, rate)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(finite, new, old)

        theta = jax.tree.map(keep, theta, state.theta)
        average = state.average
        if average is not None:
            average = running_average(average, theta, state.step, config.average_decay)
        state = dataclasses.replace(
            state,
            theta=theta,
            average=average,
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            step=state.step + 1,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        metrics = {
            **scalars,
            "loss": loss,
            "grad_norm": norm,
            "finite": finite,
            "skipped_in_a_row": state.skipped_in_a_row,
        }
        return state, metrics

    return update


def make_step(
    loss_fn: LossFn,
    load: LoadFn,
    config: TrainConfig,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `step(state, resident, networks, batch, rate) -> (state, metrics)`, pure."""
    images, update = make_images(load), make_update(config)

    def step(
        state: TrainState, resident: Any, networks: Any, batch: Any, rate: jax.Array
    ) -> tuple[TrainState, Metrics]:
        pixels, labels, rng = images(state, resident, batch)
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, aux), grads = gradient_fn(state.theta, networks, pixels, labels, rng)
        scalars = {name: jnp.mean(value) for name, value in aux.items()}
        loss, scalars, grads = parallel.mean_over((loss, scalars, grads), axis_name)
        return update(state, loss, scalars, grads, rate)

    return step


def _update(
    optimiser: optax.GradientTransformation, state: TrainState, grads: Any, rate: jax.Array
) -> tuple[Any, Any]:
    with jax.numpy_dtype_promotion("standard"):  # Adam raises floats to an integer power
        updates, opt_state = optimiser.update(grads, state.opt_state, state.theta)
    theta = jax.tree.map(lambda t, u: t - rate.astype(t.dtype) * u, state.theta, updates)
    return theta, opt_state


def make_dispatch(
    step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Runs K steps in one call: `dispatch(state, resident, networks, batches, rates)`.

    `networks` has leaves [K, 1, ...] (one device's share), `batches` [K, ...], `rates` [K];
    metrics come back as [K]. One step is run without a loop.
    """

    def one(
        state: TrainState, resident: Any, inputs: tuple[Any, Any, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        networks, batch, rate = inputs
        networks = jax.tree.map(lambda leaf: leaf[0], networks)
        return step(state, resident, networks, batch, rate)

    def dispatch(
        state: TrainState, resident: Any, networks: Any, batches: Any, rates: jax.Array
    ) -> tuple[TrainState, Metrics]:
        inputs = (networks, batches, rates)
        if rates.shape[0] == 1:
            state, metrics = one(state, resident, jax.tree.map(lambda leaf: leaf[0], inputs))
            return state, jax.tree.map(lambda leaf: leaf[None], metrics)
        return lax.scan(lambda s, x: one(s, resident, x), state, inputs)

    return dispatch
