"""Proxies that look inside of a network: Fisher, SynFlow and NASWOT.

What they need of it is found in its jaxpr (`anatomy`), so that any JAX function can be scored.

Legend: `B` images of a batch, `C` channels of a layer, `F` values of a map.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from ppuda_jax.proxies.anatomy import Layer, Opened, open_network
from ppuda_jax.proxies.base import ApplyFn, Batch, Roles, UnsupportedError, mean_loss, pairs
from ppuda_jax.proxies.jaxprs import Edit, Edited, Place
from ppuda_jax.proxies.weights import Kernels, kernels_of, leaves_of, roles_of, with_leaves
from ppuda_jax.types import Role


def fisher(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Sum over the channels of all layers of half the mean square of activation times gradient.

    For an output a of a layer with the gradient da of the mean loss: the sum of a da over the
    pixels, squared, averaged over images (Turner et al. 2020, as in the zero-cost code). It is the
    gradient in a gain of one for each image and channel.

    Args:
      apply_fn: the network.
      params: its parameters.
      batch: images and labels.
      roles: of the leaves; found by `roles_of` if None.

    Returns:
      [].

    Raises:
      UnsupportedError: a layer that is no convolution or matrix product, whose output has no axis
        of images, or which is inside of a loop.
    """
    network = open_network(apply_fn, params, batch.images)
    network.anatomy.require("layers", "fisher")
    layers = tuple(network.anatomy.layers.values())
    _check_layers(network, kernels_of(apply_fn, params, batch.images, roles))

    def run(gains: list[jax.Array]) -> jax.Array:
        edits = {layer.place: _scaled_by(gain) for layer, gain in zip(layers, gains, strict=True)}
        (logits,), _ = Edited(network.closed, edits)(*network.leaves, batch.images)
        return mean_loss(lambda variables, images: logits, None, batch)

    gains = [jnp.ones(layer.gain_shape, batch.images.dtype) for layer in layers]
    gradients = jax.grad(run)(gains)
    count = batch.images.shape[0]
    return jnp.sum(jnp.stack([0.5 * jnp.sum(jnp.square(g)) / count for g in gradients]))


def _scaled_by(gain: jax.Array) -> Edit:
    return lambda outs: ([outs[0] * gain.astype(outs[0].dtype)], None)


def _check_layers(network: Opened, kernels: Kernels) -> None:
    layers = network.anatomy.layers.values()
    seen = {network.paths[leaf] for layer in layers for leaf in layer.leaves}
    missing = [path for path in kernels.paths if path not in seen]
    if missing:
        raise UnsupportedError(
            f"fisher needs the output of every layer, and {'/'.join(missing[0])} meets its data in "
            "an operation that is neither a convolution nor a matrix product; networks of this "
            'package have the operation with OpContext(form="library")'
        )
    for layer in layers:
        if layer.images is None:
            raise UnsupportedError(
                f"fisher sums over the pixels of each image, and the output {layer.shape} of "
                f"{_names(network, layer)} has no axis of the images"
            )


def _names(network: Opened, layer: Layer) -> str:
    return " and ".join("/".join(network.paths[leaf]) for leaf in sorted(layer.leaves))


def synflow(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Logarithm of the sum of |W| dR/d|W|, where R sums the outputs for one image of ones.

    All parameters are taken by magnitude, norms are left out, and the computation is in float64
    (Tanaka et al. 2020, as in the zero-cost code; its logarithm has the same ranks and fits into
    float32).

    Args:
      apply_fn: the network.
      params: its parameters.
      batch: gives the shape of an image.
      roles: of the leaves; found by `roles_of` if None.

    Returns:
      float32 []; minus infinity where nothing reaches the output.

    Raises:
      UnsupportedError: norms inside of a loop, or a network whose weights cannot be found.
    """
    if roles is None:
        roles = roles_of(apply_fn, params, batch.images)
    with jax.enable_x64(True):
        params = with_leaves(params, lambda path, leaf: _linear(leaf, roles.get(path)))
        ones = jnp.ones((1, *batch.images.shape[1:]), jnp.float64)
        network = open_network(apply_fn, params, ones)
        network.anatomy.require("norms", "synflow")
        edits: dict[Place, Edit] = dict.fromkeys(network.anatomy.statistics, _zeros)
        edits |= dict.fromkeys(network.anatomy.deviations, _ones)
        kernels = Kernels(params, roles)

        def flow(weights: list[jax.Array]) -> jax.Array:
            leaves = leaves_of(kernels.params(weights))
            (outputs,), _ = Edited(network.closed, edits)(*leaves, ones)
            return jnp.sum(outputs)

        gradient = jax.grad(flow)(kernels.values)
        total = jnp.sum(jnp.stack([jnp.sum(w * g) for w, g in pairs(kernels.values, gradient)]))
        return jnp.log(total).astype(jnp.float32)


def _linear(leaf: jax.Array, role: Role | None) -> jax.Array:
    """A parameter by magnitude; norms multiply by one and add nothing."""
    if role in ("norm_scale", "norm_bias"):
        return jnp.full(leaf.shape, float(role == "norm_scale"), jnp.float64)
    return jnp.abs(leaf).astype(jnp.float64)


def _zeros(outs: list[jax.Array]) -> tuple[list[jax.Array], None]:
    return [jnp.zeros_like(out) for out in outs], None


def _ones(outs: list[jax.Array]) -> tuple[list[jax.Array], None]:
    return [jnp.ones_like(out) for out in outs], None


def naswot(
    apply_fn: ApplyFn, params: Any, batch: Batch, *, roles: Roles | None = None
) -> jax.Array:
    """Logarithm of |det K|, where K counts the ReLUs that two images switch alike.

    K = sum over ReLUs of c c' + (1 - c)(1 - c)', where c [B, F] says which inputs are positive
    (Mellor et al. 2021, second version; published with 128 images).

    Args:
      apply_fn: the network.
      params: its parameters.
      batch: images; labels are not used.
      roles: not used.

    Returns:
      float32 []; minus infinity where two images have the same codes.

    Raises:
      UnsupportedError: a network without ReLUs, or with ReLUs inside of a loop.
    """
    del roles
    network = open_network(apply_fn, params, batch.images)
    network.anatomy.require("ReLUs", "naswot")
    if not network.anatomy.relus:
        raise UnsupportedError("naswot compares the codes of ReLUs, and the network has none")
    return naswot_of(network.closed, tuple(network.anatomy.relus), network.leaves, batch.images)


def naswot_of(
    closed: ClosedJaxpr, relus: tuple[Place, ...], leaves: list[jax.Array], images: jax.Array
) -> jax.Array:
    """See `naswot`, for a jaxpr and the places of its ReLUs."""
    start = jnp.zeros((images.shape[0],) * 2)
    edits: dict[Place, Edit] = dict.fromkeys(relus, lambda outs: (outs, alike(outs[0])))
    _, total = Edited(closed, edits, start)(*leaves, images)
    return log_determinant(total)


def alike(outputs: jax.Array) -> jax.Array:
    """How many ReLUs two images switch alike: [B, B], from the outputs [B, ...]."""
    signs = jnp.where(outputs > 0, 1, -1).reshape(outputs.shape[0], -1).astype(jnp.float32)
    return 0.5 * (signs.shape[1] + signs @ signs.T)


def log_determinant(matrix: jax.Array) -> jax.Array:
    """Logarithm of |det| of [B, B] counts, in float64: float32 []."""
    with jax.enable_x64(True):
        return jnp.linalg.slogdet(matrix.astype(jnp.float64))[1].astype(jnp.float32)
