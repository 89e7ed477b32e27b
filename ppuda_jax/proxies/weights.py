"""Which parameters are weights of convolutions and linear layers, over which proxies sum."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppuda_jax.proxies.anatomy import open_network
from ppuda_jax.proxies.base import ApplyFn, Images, Path, Roles, UnsupportedError
from ppuda_jax.tracing.api import trace_graph
from ppuda_jax.tracing.params import param_tree
from ppuda_jax.types import Role


def roles_of(apply_fn: ApplyFn, params: Any, images: Images) -> dict[Path, Role]:
    """Finds what the leaves do from the computation alone.

    It is what `tracing` proves, and besides, a leaf that data is multiplied by in a convolution or
    a matrix product is a weight, whether a hypernetwork can predict it or not.

    Args:
      apply_fn: the network.
      params: its parameters, or their shapes.
      images: a batch, or its shape.

    Raises:
      UnsupportedError: the function cannot be traced.
    """
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    try:
        graph = trace_graph(apply_fn, {"params": params}, shape)
    except ValueError as error:
        raise UnsupportedError(f"the layers of the network cannot be found: {error}") from error
    roles: dict[Path, Role] = {binding.path: binding.role for binding in graph.bindings}
    network = open_network(apply_fn, params, shape)
    for layer in network.anatomy.layers.values():
        for leaf in layer.leaves:
            roles.setdefault(network.paths[leaf], "kernel")
    return roles


class Kernels:
    """The weights of layers, apart from all other leaves.

    A leaf of several dimensions in which the weights of several layers are stacked counts as one
    layer.

    Attributes:
      paths: of the weights.
      values: the weights, in the same order.
    """

    def __init__(self, params: Any, roles: Roles) -> None:
        """Splits parameters.

        Args:
          params: a pytree of arrays.
          roles: of its leaves.

        Raises:
          UnsupportedError: there are no such weights.
        """
        self._tree, leaves = param_tree(params)
        self._leaves = dict(zip(self._tree.paths, leaves, strict=True))
        self.paths = tuple(path for path in self._tree.paths if roles.get(path) == "kernel")
        if not self.paths:
            raise UnsupportedError(
                "the network has no weights of convolutions or linear layers, received the leaves "
                f"{['/'.join(path) for path in self._tree.paths[:5]]}"
            )
        self.values: list[jax.Array] = [self._leaves[path] for path in self.paths]

    def params(self, values: list[jax.Array]) -> Any:
        """All parameters, with other values of the weights."""
        own = dict(zip(self.paths, values, strict=True))
        return self._tree.unflatten({**self._leaves, **own})


def kernels_of(apply_fn: ApplyFn, params: Any, images: jax.Array, roles: Roles | None) -> Kernels:
    """The weights of a network, by roles that are given or found."""
    return Kernels(params, roles_of(apply_fn, params, images) if roles is None else roles)


def with_leaves(params: Any, change: Callable[[Path, jax.Array], jax.Array]) -> Any:
    """Parameters whose arrays are changed, each by its path."""
    tree, leaves = param_tree(params)
    found: Mapping[Path, Any] = dict(zip(tree.paths, leaves, strict=True))
    return tree.unflatten({path: change(path, leaf) for path, leaf in found.items()})


def leaves_of(params: Any) -> list[jax.Array]:
    """The arrays of a pytree, in the order of `Opened.paths`."""
    return param_tree(params)[1]
