"""What runs a network: a small protocol, and the sums that every runner returns.

A runner prepares a network, once, for images of one shape; what it returns predicts or packs the
network's parameters and scores batches with them. `executor_runner` and `network_runner` are the
two that there are. To add one, write these two classes and put it into
`evaluate.EvalSettings.runners`, where the first one that does not refuse a network gets it.

Legend: `B` images of a batch, `K` classes.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ppuda_jax.evaluation.images import Batch, EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.ghn.loaded import LoadedGHN

_TOP = 5


class UnfitError(ValueError):
    """A runner finds while it prepares a network that it cannot run it; the message says why."""


class Prepared(Protocol):
    """A network that can be run: its programs are compiled, and stay while this lives.

    "Parameters" are what `predict` and `pack` return, in whatever form the runner likes.
    """

    @property
    def net(self) -> EvalNet:
        """The network."""

    @property
    def num_params(self) -> int:
        """Scalars that are predicted."""

    @property
    def batches_at_once(self) -> int:
        """Batches that are worth running at the same time, each in a thread of its own."""

    def predict(self, ghn: LoadedGHN) -> Any:
        """The parameters that a hypernetwork predicts."""

    def pack(self, params: Mapping[str, Any]) -> Any:
        """Parameters that are given as those of the network's Flax module."""

    def score(self, params: Any, batch: Batch) -> jax.Array:
        """Sums over a batch, see `count_hits`."""


class Runner(Protocol):
    """A way to run networks; for any number of threads."""

    name: str

    def refuses(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> str | None:
        """Why the runner cannot take a network; None if it can. Cheap."""

    def shares(self, net: EvalNet) -> Hashable:
        """Networks for which this is equal share their programs and are run one after another."""

    def prepare(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> Prepared:
        """Compiles what a network needs and the cache of programs has not.

        Args:
          net: a network that is not refused.
          images: of the shape, number per batch and calibration that will be scored.
          ghn: a hypernetwork of the configuration that will predict; None if none will.

        Raises:
          UnfitError: the runner cannot run the network after all; another one is tried.
          NoRoomError: the process has no room for its programs.
        """


def count_hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums over a batch: float32 [3] with hits, hits among the top 5, and cross-entropy.

    Logits that are not numbers hit nothing: they would all be the largest.

    Args:
      logits: [B, K].
      labels: int32 [B].
      weights: float32 [B].
    """
    best = lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    hit = ((best == labels[:, None]) & ~jnp.isnan(loss)[:, None]).astype(jnp.float32)
    rows = jnp.stack([hit[:, 0], hit.max(axis=1), loss])
    return jnp.sum(jnp.where(weights[None] > 0, rows, 0.0), axis=1)
