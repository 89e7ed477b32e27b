"""What distinguishes one graph hypernetwork from another: sizes, variant, normalisation.

The published variants (Tables 3 and 8 of the paper) are functions at the end of the file. The
dictionary form is the reference's constructor arguments, so a checkpoint of either
implementation says the same thing with the same keys.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ppuda_jax.config import check_types
from ppuda_jax.graphs.virtual_edges import MAX_DISTANCE

Hypernet = Literal["gatedgnn", "mlp"]
"""What updates the states of nodes: the gated graph network, or nothing but an MLP."""
Decoder = Literal["conv", "mlp"]
"""What makes parameters of the state of a node."""

MaxShape = tuple[int, int, int, int]
"""Largest block that is decoded: (out, in, height, width)."""


@dataclasses.dataclass(frozen=True)
class GHNConfig:
    """Architecture of a graph hypernetwork; validated on creation.

    Attributes:
      num_classes: classes of the data set, and so rows of the classifier that is predicted.
      max_shape: (out, in, height, width) of the largest block the decoder produces; larger
        targets repeat it.
      hypernet: "gatedgnn", or "mlp" for a node-wise network that ignores the graph.
      decoder: "conv" (1x1 convolutions over the taps) or "mlp" (one dense layer for all).
      weight_norm: scale predicted weights by fan-in and bound norm weights and biases.
      virtual_edges: longest path length that sends a message; 1 or less means real edges only.
      layernorm: LayerNorm on the node embeddings before the decoders.
      hid: width D of the node embeddings, a multiple of four.

    Examples:
      >>> import ppuda_jax as pj
      >>> config = pj.GHNConfig(virtual_edges=50, weight_norm=True, layernorm=True)  # GHN-2
      >>> config.hid
      32
    """

    num_classes: int = 10
    max_shape: MaxShape = (64, 64, 11, 11)
    hypernet: Hypernet = "gatedgnn"
    decoder: Decoder = "conv"
    weight_norm: bool = False
    virtual_edges: int = 1
    layernorm: bool = False
    hid: int = 32

    def __post_init__(self) -> None:
        check_types(self)
        problems = []
        if min(self.max_shape) < 1:
            problems.append(f"max_shape must be four positive sizes, received {self.max_shape}")
        elif self.max_shape[2] != self.max_shape[3] or self.max_shape[0] != self.max_shape[1]:
            problems.append(
                f"max_shape must be square in channels and in space, received {self.max_shape}"
            )
        if self.hid < 4 or self.hid % 4:
            problems.append(f"hid must be a positive multiple of 4, received {self.hid}")
        if self.num_classes < 1:
            problems.append(f"num_classes must be positive, received {self.num_classes}")
        if not 0 <= self.virtual_edges <= MAX_DISTANCE:
            problems.append(
                f"virtual_edges must lie in 0..{MAX_DISTANCE}, received {self.virtual_edges}"
            )
        if problems:
            raise ValueError("invalid GHNConfig: " + "; ".join(problems))

    @property
    def uses_virtual_edges(self) -> bool:
        """Whether paths longer than one edge send messages."""
        return self.virtual_edges > 1

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, `max_shape` as a list."""
        fields = dataclasses.asdict(self)
        return {**fields, "max_shape": list(self.max_shape)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "GHNConfig":
        """Inverse of `to_dict`.

        Raises:
          ValueError: a key is unknown or a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(
                f"unknown GHNConfig keys {unknown}; the known ones are {sorted(known)}"
            )
        return cls(**dict(fields))


_CIFAR_SHAPE: MaxShape = (64, 64, 11, 11)
_IMAGENET_SHAPE: MaxShape = (64, 64, 16, 16)


def ghn1_cifar10() -> GHNConfig:
    """GHN-1 for CIFAR-10: real edges only, no LayerNorm, no parameter normalisation."""
    return GHNConfig(num_classes=10, max_shape=_CIFAR_SHAPE)


def ghn2_cifar10() -> GHNConfig:
    """GHN-2 for CIFAR-10: virtual edges, LayerNorm and parameter normalisation."""
    return dataclasses.replace(
        ghn1_cifar10(), weight_norm=True, virtual_edges=MAX_DISTANCE, layernorm=True
    )


def mlp_cifar10() -> GHNConfig:
    """The MLP baseline for CIFAR-10: GHN-2 with a node-wise network in place of the GNN."""
    return dataclasses.replace(ghn2_cifar10(), hypernet="mlp")


def ghn1_imagenet() -> GHNConfig:
    """GHN-1 for ImageNet: kernels up to 16x16 and 1000 classes."""
    return dataclasses.replace(ghn1_cifar10(), num_classes=1000, max_shape=_IMAGENET_SHAPE)


def ghn2_imagenet() -> GHNConfig:
    """GHN-2 for ImageNet: kernels up to 16x16 and 1000 classes."""
    return dataclasses.replace(ghn2_cifar10(), num_classes=1000, max_shape=_IMAGENET_SHAPE)


def mlp_imagenet() -> GHNConfig:
    """The MLP baseline for ImageNet."""
    return dataclasses.replace(mlp_cifar10(), num_classes=1000, max_shape=_IMAGENET_SHAPE)


PRESETS = {
    "ghn1-cifar10": ghn1_cifar10,
    "ghn2-cifar10": ghn2_cifar10,
    "mlp-cifar10": mlp_cifar10,
    "ghn1-imagenet": ghn1_imagenet,
    "ghn2-imagenet": ghn2_imagenet,
    "mlp-imagenet": mlp_imagenet,
}
"""The published configurations by name."""
