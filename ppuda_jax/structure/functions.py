"""Base functions of families, and the lecture's examples."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ppuda_jax.structure.family import Family, Function, Params


def _identity(x: jax.Array) -> jax.Array:
    return x


IDENTITY = Function("identity", lambda params, x: x)
"""Leaves the input as it is: choosing it removes a layer."""

ZERO = Function("zero", lambda params, x: jnp.zeros_like(x))
"""No connection."""


def constant() -> Function:
    """A learnt number whatever the input: [n, D] -> [n]."""
    return Function(
        "constant",
        lambda params, x: jnp.broadcast_to(params["bias"], x.shape[:1]),
        lambda key, x: {"bias": jnp.zeros((), x.dtype)},
    )


def dense(
    features: int,
    activation: Callable[[jax.Array], jax.Array] = _identity,
    *,
    bias: bool = True,
    name: str | None = None,
) -> Function:
    """A dense layer [n, D] -> [n, features], kernels drawn by LeCun's rule."""

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        scale = x.shape[-1] ** -0.5
        kernel = scale * jax.random.normal(key, (x.shape[-1], features), x.dtype)
        return {"kernel": kernel} | ({"bias": jnp.zeros(features, x.dtype)} if bias else {})

    def apply(params: Params, x: jax.Array) -> jax.Array:
        y = x @ params["kernel"]
        return activation(y + params["bias"][None] if bias else y)

    return Function(name or f"dense_{features}", apply, init)


def two_layer(hidden: int, outputs: int, choices: Sequence[Function] | None = None) -> Family:
    """The lecture's example of a network of two layers, each with a choice of functions.

    Args:
      hidden: units between the layers.
      outputs: units at the end.
      choices: functions of the hidden layer; tanh, ReLU and linear if None.
    """
    if choices is None:
        choices = (
            dense(hidden, jnp.tanh, name="tanh"),
            dense(hidden, jax.nn.relu, name="relu"),
            dense(hidden, name="linear"),
        )
    return Family(3, {(0, 1): tuple(choices), (1, 2): (dense(outputs),)})
