"""Runs a network as its own Flax module, compiled by itself."""

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ppuda_jax.evaluation.images import Batch, EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.runners import count_hits
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.parallel import Topology, jit_sum
from ppuda_jax.prediction.predict import load_predictor, predict_params
from ppuda_jax.programs import CachedFunction
from ppuda_jax.tracing.api import trace_graph


@dataclasses.dataclass(frozen=True)
class NetworkRunner:
    """Runs any network.

    Attributes:
      topology: devices that batches are spread over.
      dtype: of the activations.
    """

    topology: Topology
    dtype: str = "float32"
    name = "network"

    def refuses(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> str | None:
        """None."""
        del net, images, ghn
        return None

    def shares(self, net: EvalNet) -> Hashable:
        """The network: it shares nothing."""
        return net

    def prepare(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> "ByItself":
        """See `Runner`."""
        context = OpContext(norm_images=images.calibration)
        module: nn.Module = (
            Network(net.plan, context=context)
            if net.plan is not None
            else build_model(net.model or "", net.num_classes, net.image_size, context)
        )
        prepared = ByItself(net, module, self._score(net, module, images.calibration))
        prepared.load(images, ghn)
        return prepared

    def _score(self, net: EvalNet, module: nn.Module, calibration: int) -> CachedFunction:
        def score(params, images, labels, weights):
            logits = module.apply({"params": params}, images.astype(self.dtype))
            return count_hits(jnp.asarray(logits, jnp.float32), labels, weights)

        split_args = (False, True, True, True)
        return CachedFunction(
            score,
            (net.fingerprint, calibration, self.dtype, self.topology),
            "networks",
            jit=functools.partial(jit_sum, topology=self.topology, split_args=split_args),
        )


class ByItself:
    """A network as a Flax module; its parameters are the module's (see `Prepared`)."""

    batches_at_once = 1

    def __init__(self, net: EvalNet, module: nn.Module, score: CachedFunction) -> None:
        self.net, self._module, self._score = net, module, score
        size = net.image_size
        self._image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        self._held: list[Any] = []

    @functools.cached_property
    def _shapes(self) -> Mapping[str, Any]:
        return jax.eval_shape(self._module.init, jax.random.key(0), self._image)["params"]

    @functools.cached_property
    def _graph(self) -> ArchGraph:
        if self.net.plan is not None:
            return graph_from_plan(self.net.plan)
        return trace_graph(self._module.apply, {"params": self._shapes}, self._image)

    @property
    def num_params(self) -> int:
        """See `Prepared`."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._shapes))

    def load(self, images: EvalImages, ghn: LoadedGHN | None) -> None:
        """Compiles what is not compiled yet, and holds it."""
        if ghn is not None:
            self._held.append(load_predictor(self._graph, ghn))
        batch = images.batches[0]
        self._held.append(self._score.load(self._shapes, batch.images, batch.labels, batch.weights))

    def predict(self, ghn: LoadedGHN) -> Mapping[str, Any]:
        """See `Prepared`."""
        return predict_params(None, self._graph, ghn)

    def pack(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Prepared`."""
        return jax.tree.map(jnp.asarray, params)

    def score(self, params: Mapping[str, Any], batch: Batch) -> jax.Array:
        """See `Prepared`."""
        return self._score(params, batch.images, batch.labels, batch.weights)
