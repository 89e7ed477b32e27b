"""What a network is worth with parameters that were predicted for it, or trained for some steps.

Legend: `B` images, `K` classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.proxies.base import ApplyFn, Batch


def accuracy(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """The share of images whose largest logit is right, []."""
    return worth(apply_fn({"params": params}, batch.images), batch.labels)["accuracy"]


def margin(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Mean of the right logit minus the largest other one, [].

    It tells apart networks of the same accuracy; predictions are not calibrated, so logits are
    divided by their own deviation over the batch.
    """
    return worth(apply_fn({"params": params}, batch.images), batch.labels)["margin"]


def loss(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Minus the mean cross-entropy, [], so that more is better as everywhere."""
    return worth(apply_fn({"params": params}, batch.images), batch.labels)["loss"]


def worth(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """`accuracy`, `margin` and `loss` from logits [B, K] and labels [B], [] each."""
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(right, logits, 0.0), axis=-1)
    other = jnp.max(jnp.where(right, -jnp.inf, logits), axis=-1)
    scale = jnp.std(logits - jnp.mean(logits, axis=-1, keepdims=True))
    return {
        "accuracy": jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)),
        "margin": jnp.mean(own - other) / jnp.where(scale > 0, scale, 1.0),
        "loss": -jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)),
    }
