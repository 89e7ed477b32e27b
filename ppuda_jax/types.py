"""Types that several packages share: the description of one parameter, and aliases.

Legend: a *path* is the tuple of dictionary keys that leads to a leaf of a parameter pytree.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol

Role = Literal["kernel", "bias", "norm_scale", "norm_bias", "pos_enc"]
"""What a leaf does in its layer."""

Params = Mapping[str, Any]
"""A pytree of arrays: nested mappings from names to arrays."""


class ApplyFn(Protocol):
    """A network as a pure function: `apply_fn({"params": params}, images) -> logits`."""

    def __call__(self, variables: Mapping[str, Any], images: Any, /, **kwargs: Any) -> Any:
        """Runs the network."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ParamSpec:
    """One parameter tensor of a target network.

    Attributes:
      path: keys that lead to the leaf in the network's `params`.
      torch_name: name of the same tensor in the reference's state dict.
      shape: shape of the leaf, Flax layout: convolutions [kh, kw, I, O] (depthwise
        [kh, kw, 1, C]), dense [I, O], positional encoding [1, S, S, C], vectors [C].
      role: what the tensor does, which decides how it is predicted.
    """

    path: tuple[str, ...]
    torch_name: str
    shape: tuple[int, ...]
    role: Role

    @property
    def size(self) -> int:
        """Number of elements of the tensor."""
        size = 1
        for dim in self.shape:
            size *= dim
        return size

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """Shape in the reference's layout: [O, I, kh, kw], [O, I], [1, C, S, S] or [n]."""
        if len(self.shape) == 4:
            first, second, third, fourth = self.shape
            if self.role == "pos_enc":
                return (first, fourth, second, third)
            return (fourth, third, first, second)
        return self.shape[::-1]


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested dictionaries from leaves by path."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree
