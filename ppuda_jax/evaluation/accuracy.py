"""The accuracy of one network with given parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.runners import count_hits


def accuracy(apply_fn: Callable[..., Any], variables: Any, images: EvalImages) -> float:
    """Top-1 accuracy of a network, in [0, 1].

    Args:
      apply_fn: called as `apply_fn(variables, images [b, s, s, 3])`, returns logits [b, K].
      variables: its first argument, e.g. `{"params": params}`.
      images: from `load_eval_images`, on one device; batch norm that is not calibrated sees one
        batch at a time (paper, section 5.1).
    """

    @jax.jit
    def sums(variables, batch_images, labels, weights):
        logits = apply_fn(variables, batch_images).astype(jnp.float32)
        return count_hits(logits, labels, weights)

    hits = [sums(variables, b.images, b.labels, b.weights)[0] for b in images.batches]
    return float(sum(map(float, hits)) / images.num_images)
