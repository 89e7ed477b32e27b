"""Noise and orthogonalisation of predicted parameters before they are trained (GHN-orth).

"Pretraining a Neural Network before Knowing Its Architecture" (Knyazev, arXiv 2207.10049) and the
released code of the reference. Predicted rows are alike, so that training would keep them alike:
noise in proportion to the spread of their correlations tells them apart, and orthogonal columns
have nothing in common.

Legend: `O` and `I` output and input channels, `k` kernel side, `R` and `C` the longer and the
shorter side of a tensor seen as a matrix.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.placement import read, write
from ppuda_jax.tracing.params import param_tree


def postprocess(
    params: Any,
    graph: ArchGraph | jraph.GraphsTuple,
    key: jax.Array,
    *,
    beta: float = 3e-5,
    orthogonal: bool = True,
    from_layer: int = 1,
    noise_from_layer: int = 1,
) -> Any:
    """Transforms predicted parameters for training.

    Layers are the kernels of convolutions and dense layers, counted from 1 in the network's order.
    The last one, the classifier, and all after it stay as they are, as published. The scale and
    the bias of a norm get noise too, in proportion to the correlations of the layer before them.

    Args:
      params: pytree of the network; any layout (Flax, Haiku, Equinox), by the graph's bindings.
      graph: the network.
      key: PRNG key of the noise (consumed).
      beta: size of the noise in standard deviations of the correlations; 0 for none.
      orthogonal: whether layers become orthogonal.
      from_layer: first layer that becomes orthogonal.
      noise_from_layer: first layer that gets noise; the released code takes `from_layer` here for
        ConvNeXt and 1 for all others.

    Returns:
      A pytree like `params`; leaves without a binding are the same arrays.

    Raises:
      ValueError: a negative `beta`, or parameters of another network.
    """
    if beta < 0:
        raise ValueError(f"beta is a size of noise and must not be negative, received {beta}")
    arch = ArchGraph.of(graph)
    tree, given = param_tree(params)
    leaves = dict(zip(tree.paths, given, strict=True))
    _check(arch.bindings, {path: tuple(leaf.shape) for path, leaf in leaves.items()})
    last = max((n for n, b in enumerate(arch.bindings) if b.role == "kernel"), default=0)
    layer, spread = 0, jnp.zeros(())
    for number, binding in enumerate(arch.bindings[:last]):
        if binding.role not in ("kernel", "norm_scale", "norm_bias"):
            continue
        tensor = read(binding, leaves[binding.path])
        if binding.role == "kernel":
            layer, spread = layer + 1, _spread_of_correlations(tensor)
        if beta and layer >= noise_from_layer:
            noise = jax.random.normal(jax.random.fold_in(key, number), tensor.shape, tensor.dtype)
            tensor = tensor + beta * spread.astype(tensor.dtype) * noise
        if orthogonal and binding.role == "kernel" and layer >= from_layer:
            tensor = orthogonalise(tensor)
        leaves[binding.path] = write(binding, leaves[binding.path], tensor)
    return tree.unflatten(leaves)


def orthogonalise(tensor: jax.Array) -> jax.Array:
    """The orthogonal factor of a tensor [O, ...] seen as a matrix, which is tall or transposed.

    The signs are those that make the diagonal of the triangular factor positive, so that what is
    orthogonal already stays as it is.
    """
    matrix, transposed = _as_tall(tensor)
    q, r = jnp.linalg.qr(matrix)
    q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)[None]
    return jnp.reshape(q.T if transposed else q, tensor.shape)


def _as_tall(tensor: jax.Array) -> tuple[jax.Array, bool]:
    """A matrix [R, C] with R >= C, and whether it is transposed."""
    matrix = jnp.reshape(tensor, (tensor.shape[0], -1))
    transposed = matrix.shape[0] < matrix.shape[1]
    return (matrix.T if transposed else matrix), transposed


def _spread_of_correlations(tensor: jax.Array) -> jax.Array:
    """Standard deviation of all correlations [R, R] between rows of the tall matrix.

    Rows without variance, such as those of a single column, correlate with nothing.
    """
    matrix, _ = _as_tall(tensor)
    return jnp.std(jnp.nan_to_num(jnp.corrcoef(matrix)), ddof=1)


def _check(bindings: Sequence[Binding], shapes: dict[tuple[str, ...], tuple[int, ...]]) -> None:
    wrong = [
        f"{'/'.join(b.path)} {b.leaf_shape}"
        + (f", received {shapes[b.path]}" if b.path in shapes else ", which is missing")
        for b in bindings
        if shapes.get(b.path) != tuple(b.leaf_shape)
    ]
    if wrong:
        raise ValueError(
            f"these are not the parameters of the graph: {len(wrong)} leaves differ, "
            f"expected {'; '.join(wrong[:5])}"
        )
