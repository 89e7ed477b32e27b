"""Comparison of logits with those of a trained network.

Legend: `B` images, `K` classes.
"""

import jax
import jax.numpy as jnp


def distillation(
    logits: jax.Array, teacher: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """Mean over images of T^2 KL(softmax(teacher / T) || softmax(logits / T)).

    The square keeps the size of the gradient whatever the temperature (Hinton et al. 2015, arXiv
    1503.02531).

    Args:
      logits: [B, K].
      teacher: [B, K]; no gradient goes there.
      temperature: T.

    Returns:
      A scalar, differentiable in the logits.
    """
    scale = jnp.asarray(temperature, logits.dtype)
    ours = jax.nn.log_softmax(logits / scale)
    theirs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(logits.dtype) / scale)
    divergence = jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)
    return scale**2 * jnp.mean(divergence)
