"""The accuracy of one network with given parameters."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.runners import count_hits
from ppuda_jax.programs import CachedFunction


class _Same:
    """Equal for the same object only, for those that cannot be hashed."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __hash__(self) -> int:
        return id(self._thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._thing is self._thing


def accuracy(
    apply_fn: Callable[..., Any],
    variables: Any,
    images: EvalImages,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Top-1 accuracy of a network, in [0, 1].

    The first call for a function and shapes compiles, later ones do not.

    Args:
      apply_fn: called as `apply_fn(variables, images [b, s, s, 3])`, returns logits [b, K].
      variables: its first argument, e.g. `{"params": params}`.
      images: from `load_eval_images`, on one device; batch norm that is not calibrated sees one
        batch at a time (paper, section 5.1).
      progress: called after each batch as (done, in all).

    Raises:
      ValueError: the network does not take images of this size, or has other classes, or the
        images are others.

    Examples:
      >>> import jax.numpy as jnp
      >>> import ppuda_jax as pj
      >>> def always_three(variables, images):
      ...     return jnp.zeros((len(images), 10)).at[:, 3].set(1.0)
      >>> images = pj.load_eval_images("digits", max_images=100)
      >>> round(pj.accuracy(always_three, {}, images), 2)
      0.18
    """
    if not isinstance(images, EvalImages):
        raise ValueError(
            f"images must be from load_eval_images, received {type(images).__name__}: it takes "
            "arrays as a file, load_eval_images('images.npz')"
        )

    def sums(
        variables: Any, batch_images: jax.Array, labels: jax.Array, weights: jax.Array
    ) -> jax.Array:
        logits = _checked_logits(apply_fn, variables, batch_images, images.spec)
        return count_hits(logits.astype(jnp.float32), labels, weights)

    function = CachedFunction(sums, (_key_of(apply_fn), images.spec), "accuracies")
    hits = []
    for batch in images.batches:
        hits.append(function(variables, batch.images, batch.labels, batch.weights)[0])
        if progress is not None:
            hits[-1].block_until_ready()
            progress(len(hits), len(images.batches))
    return float(sum(map(float, hits)) / images.num_images)


def _checked_logits(
    apply_fn: Callable[..., Any], variables: Any, images: jax.Array, spec: DatasetSpec
) -> jax.Array:
    """Calls the network; its mistakes are found while it is traced, before anything runs."""
    facts = f"{spec.name}: {spec.image_size}x{spec.image_size} pixels, {spec.num_classes} classes"
    wanted = (images.shape[0], spec.num_classes)
    try:
        logits = apply_fn(variables, images)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the network cannot be called with its variables and images {images.shape} ({facts}): "
            f"{error}; build it for this size"
        ) from error
    if getattr(logits, "shape", None) != wanted:
        raise ValueError(
            f"apply_fn must return logits {wanted} ({facts}), received "
            f"{getattr(logits, 'shape', type(logits).__name__)}: take a network with this many "
            "classes, or the images that it is for"
        )
    return logits


def _key_of(apply_fn: Callable[..., Any]) -> Hashable:
    try:
        hash(apply_fn)
    except TypeError:
        return _Same(apply_fn)
    return apply_fn
