"""The state of a meta-training run, all of it on the device."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ppuda_jax.ghn.transfer import class_heads
from ppuda_jax.training.config import TrainConfig

PyTree = Any
"""Any nesting of arrays."""


@flax.struct.dataclass
class TrainState:
    """What a step reads and returns.

    Attributes:
        theta: parameters of the hypernetwork.
        average: their running average (see `running_average`), or None.
        opt_state: optimiser state of `make_optimiser`.
        step: int32 [], updates tried so far, skipped ones included.
        rng: uint32 [2], raw key; never advanced, each step folds its number into it.
        skipped: int32 [], updates left out because loss or gradient was not finite.
        skipped_in_a_row: int32 [], of these, the last without interruption.
    """

    theta: PyTree
    average: PyTree | None
    opt_state: PyTree
    step: jax.Array
    rng: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def make_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, then L2 inside Adam, as published; the learning rate is applied by the step."""
    parts = [
        optax.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
    ]
    if config.head_rate != 1.0:
        parts.append(optax.masked(optax.scale(config.head_rate), class_heads))
    return optax.chain(*parts)


def running_average(average: PyTree, theta: PyTree, step: jax.Array, decay: float) -> PyTree:
    """Exponential average of theta; its decay grows from 0.1 so that the start is forgotten."""
    count = step.astype(jnp.float32)
    grown = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return optax.incremental_update(theta, average, 1.0 - grown)


def best_theta(state: TrainState) -> PyTree:
    """The parameters to evaluate and to use: the average where there is one."""
    return state.theta if state.average is None else state.average


def make_state(theta: PyTree, config: TrainConfig) -> TrainState:
    """State before the first step."""
    return TrainState(
        theta=theta,
        average=theta if config.average_decay else None,
        opt_state=make_optimiser(config).init(theta),
        step=jnp.zeros((), jnp.int32),
        rng=jax.random.key_data(jax.random.key(config.seed)),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )
