"""Proxies from the gradient of the loss in the weights, at one batch.

Definitions: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021), as its code
has them. All are sums over the weights of convolutions and linear layers; the loss is the mean
cross-entropy.

Legend: `W` the weights of a layer, `g` the gradient of the loss in them, `H` its Hessian in the
weights of all layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.proxies.base import ApplyFn, Batch, Roles, mean_loss, pairs
from ppuda_jax.proxies.weights import kernels_of


def grad_norm(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Sum over layers of the Euclidean norm of g, []; arguments as in `gradient_scores`."""
    return gradient_scores(apply_fn, params, batch, roles=roles)["grad_norm"]


def plain(apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None) -> jax.Array:
    """Sum of W g, []; arguments as in `gradient_scores`."""
    return gradient_scores(apply_fn, params, batch, roles=roles)["plain"]


def snip(apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None) -> jax.Array:
    """Sum of |W g|, the gradient in a mask of ones (Lee et al. 2019); as in `gradient_scores`."""
    return gradient_scores(apply_fn, params, batch, roles=roles)["snip"]


def gradient_scores(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> dict[str, jax.Array]:
    """The three proxies that one gradient gives.

    Args:
      apply_fn: the network.
      params: its parameters.
      batch: images and labels.
      roles: of the leaves; found by `roles_of` if None.

    Returns:
      `grad_norm`, `plain` and `snip`, [] each.

    Raises:
      UnsupportedError: a network whose weights cannot be found.
    """
    kernels = kernels_of(apply_fn, params, batch.images, roles)
    weights = kernels.values
    gradient = jax.grad(lambda w: mean_loss(apply_fn, kernels.params(w), batch))(weights)
    return scores_of(weights, gradient)


def scores_of(weights: Sequence[Any], gradient: Sequence[Any]) -> dict[str, Any]:
    """See `gradient_scores`, from the weights of layers and the gradient in them.

    Of JAX or of NumPy arrays: with NumPy's, nothing is compiled for their shapes.
    """
    products = [w * g for w, g in zip(weights, gradient, strict=True)]
    return {
        "grad_norm": l2_of(gradient),
        "plain": sum(p.sum() for p in products),
        "snip": sum(abs(p).sum() for p in products),
    }


def grasp(apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None) -> jax.Array:
    """Minus the sum of W (H g), [] (Wang et al. 2020, with the sign of the zero-cost code).

    The product is one derivative of the gradient along g; arguments as in `gradient_scores`.
    """
    kernels = kernels_of(apply_fn, params, batch.images, roles)
    weights = kernels.values
    gradient = jax.grad(lambda w: mean_loss(apply_fn, kernels.params(w), batch))
    g = gradient(weights)

    def along(w: list[jax.Array]) -> jax.Array:
        terms = [jnp.sum(jax.lax.stop_gradient(a) * b) for a, b in pairs(g, gradient(w))]
        return jnp.sum(jnp.stack(terms))

    products = jax.grad(along)(weights)
    return -jnp.sum(jnp.stack([jnp.sum(w * hg) for w, hg in pairs(weights, products)]))


def l2_norm(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Sum over layers of the Euclidean norm of W, []; arguments as in `gradient_scores`."""
    return l2_of(kernels_of(apply_fn, params, batch.images, roles).values)


def l2_of(weights: Sequence[Any]) -> Any:
    """See `l2_norm`, from the weights of layers; of JAX or of NumPy arrays."""
    return sum((w * w).sum() ** 0.5 for w in weights)
