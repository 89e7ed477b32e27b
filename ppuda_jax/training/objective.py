"""The meta-training objective: predict the networks of a meta-batch, run them, compare.

Legend: `M` networks, `B` images, `S` pixels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.executor import run
from ppuda_jax.executor.layout import Variant
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.prediction.meta_batch import MetaBatch
from ppuda_jax.prediction.tables import predict_tables


def meta_loss(
    config: GHNConfig,
    variant: Variant,
    theta: Any,
    meta_batch: MetaBatch,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss of predicted networks (paper, Eq. 1), differentiable in `theta`.

    Args:
      config: the hypernetwork (static).
      variant: class of the networks (static).
      theta: its parameters.
      meta_batch: M networks.
      images: [B, S, S, 3] normalised; its dtype is that of the target networks' computation.
      labels: int32 [B].
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      label_smoothing: 0.1 for ImageNet in the published recipe.

    Returns:
      The loss, and `loss` and `accuracy` per network [M].
    """
    meta_batch = jax.tree.map(jnp.asarray, meta_batch)
    tables = predict_tables(config, variant, theta, meta_batch)
    return run.mean_loss(variant, tables, meta_batch.programs, images, labels, key, label_smoothing)
