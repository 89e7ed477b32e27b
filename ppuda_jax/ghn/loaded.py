"""A graph hypernetwork with its parameters and where they come from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ppuda_jax.ghn.config import GHNConfig


@dataclasses.dataclass(frozen=True)
class LoadedGHN:
    """What `load_ghn` returns and `predict_params` takes.

    Attributes:
      config: architecture of the hypernetwork.
      theta: its parameters, as `init_theta` lays them out.
      name: shipped name or path, for messages.
      metadata: what is known of the training: "dataset", "num_classes", "image_size", and
        anything else the checkpoint says.

    Examples:
      >>> import ppuda_jax as pj
      >>> ghn = pj.load_ghn("ghn2-cifar10")
      >>> ghn.name, sorted(ghn.theta)
      ('ghn2-cifar10', ['embedding', 'gnn', 'kernel_decoder', 'layer_norm', 'vector_decoder'])
    """

    config: GHNConfig
    theta: Mapping[str, Any]
    name: str = "unnamed"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
