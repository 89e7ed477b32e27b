"""Pulls cotangents of predicted parameters back to the hypernetwork's own parameters.

Any loss on predicted parameters that is not run in the executor (distance to trained weights,
finetuned parameters, penalties) has its gradient in `theta` by this one vector-Jacobian product.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jraph

from ppuda_jax.executor.arrays import Tables
from ppuda_jax.executor.layout import Variant
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.prediction.leaves import Path
from ppuda_jax.prediction.meta_batch import MetaBatch
from ppuda_jax.prediction.predict import leaf_pullback
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.tracing.params import param_tree


def pullback(ghn: LoadedGHN, graph: ArchGraph | jraph.GraphsTuple, cotangents: Any) -> Any:
    """Gradient in theta of the inner product of cotangents with the parameters of one network.

    Args:
      ghn: the hypernetwork.
      graph: the network.
      cotangents: a pytree like the result of `predict_params`; leaves that are left out count
        as zeros, and are not computed.

    Returns:
      A pytree like `ghn.theta`.

    Raises:
      ValueError: cotangents of leaves that are not predicted, or of other shapes.
    """
    tree, leaves = param_tree(cotangents)
    given: dict[Path, jax.Array] = {
        path: jnp.asarray(leaf) for path, leaf in zip(tree.paths, leaves, strict=True)
    }
    return leaf_pullback(graph, ghn, given)


def pull_tables(
    config: GHNConfig,
    variant: Variant,
    theta: Mapping[str, Any],
    meta_batch: MetaBatch,
    cotangents: Tables,
) -> Any:
    """Gradient in theta of the inner product of cotangents with a meta-batch's tables.

    To be called under `jit`; for losses of the executor's logits, `executor.run.mean_loss` has
    its own gradient in the tables.

    Args:
      config: the hypernetwork (static).
      variant: class of the networks (static).
      theta: its parameters.
      meta_batch: M networks.
      cotangents: tables like those of `predict_tables`.

    Returns:
      A pytree like `theta`.
    """
    _, pull = jax.vjp(lambda t: predict_tables(config, variant, t, meta_batch), theta)
    (gradient,) = pull(cotangents)
    return gradient
