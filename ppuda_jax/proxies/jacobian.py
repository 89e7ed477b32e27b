"""The Jacobian covariance: how differently a network sees the images of a batch.

Legend: `B` images of a batch, `S` pixels per side, `F` values of an image.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.proxies.base import ApplyFn, Batch, Roles

_FLOOR = 1e-5  # k of the published code


def jacob_cov(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Minus the sum over eigenvalues v of log(v + k) + 1 / (v + k), k = 1e-5.

    The eigenvalues are those of the correlations between images of the gradient of the sum of all
    logits in each (Mellor et al. 2020, first version).

    Args:
      apply_fn: the network.
      params: its parameters.
      batch: images; labels are not used.
      roles: not used.

    Returns:
      float32 []; NaN where an image has no gradient.
    """
    del roles

    def total(images: jax.Array) -> jax.Array:
        return jnp.sum(apply_fn({"params": params}, images))

    return spread_of(jax.grad(total)(batch.images))


def spread_of(jacobian: jax.Array) -> jax.Array:
    """See `jacob_cov`, from the gradient [B, S, S, 3]."""
    with jax.enable_x64(True):
        rows = jacobian.reshape(jacobian.shape[0], -1).astype(jnp.float64)  # [B, F]
        values = jnp.linalg.eigvalsh(jnp.corrcoef(rows))
        score = -jnp.sum(jnp.log(values + _FLOOR) + 1 / (values + _FLOOR))
        return score.astype(jnp.float32)
