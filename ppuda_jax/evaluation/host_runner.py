"""Runs networks step by step from the host: nothing is compiled per network or per variant."""

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.archs.plan import Plan
from ppuda_jax.evaluation.images import Batch, EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.runners import UnfitError, count_hits
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.hostloop.functions import Batch as BatchShape
from ppuda_jax.hostloop.functions import Source, StepFunctions
from ppuda_jax.hostloop.network import Network, make_network
from ppuda_jax.hostloop.predictor import predictor_of
from ppuda_jax.hostloop.run import Call, calls_of_leaves, calls_of_pages, run
from ppuda_jax.hostloop.steps import Step, steps_of
from ppuda_jax.parallel import Topology
from ppuda_jax.prediction.blocks import MAX_BLOCK
from ppuda_jax.runtime.processors import processors

_BATCHES_AT_ONCE = 2  # one keeps less than two processors busy, and each has its maps in memory


@dataclasses.dataclass(frozen=True)
class HostRunner:
    """Runs networks of DeepNets-1M on one CPU device.

    Attributes:
      topology: where batches are run.
      dtype: of the activations.
    """

    topology: Topology
    dtype: str = "float32"
    name = "host"

    @property
    def fits(self) -> bool:
        """Whether the devices are those that it is for."""
        return self.topology.mesh is None and self.topology.devices[0].platform == "cpu"

    def refuses(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> str | None:
        """See `Runner`."""
        del images
        if net.plan is None:
            return "a hand-made model"
        if not self.fits:
            return "networks are driven from the host on one CPU device only"
        config = None if ghn is None else ghn.config
        if config and (config.decoder != "conv" or config.max_shape[:2] != (MAX_BLOCK, MAX_BLOCK)):
            return "pages need the published decoder"
        return None

    def shares(self, net: EvalNet) -> Hashable:
        """The network: what it shares is not held by a program, so the order does not matter."""
        return net

    def prepare(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> "FromHost":
        """See `Runner`."""
        if net.plan is None:
            raise UnfitError(f"{net.name} is a hand-made model")
        shape = BatchShape(
            images.batches[0].images.shape[0], self.dtype, calibration=images.calibration
        )
        functions = _functions(shape, bool(jax.config.read("jax_enable_x64")))
        if ghn is None:
            return FromHost(net, net.plan, functions, steps_of(net.plan), None)
        network = make_network(net.plan, ghn.config)
        return FromHost(net, net.plan, functions, network.steps, network)


class FromHost:
    """A network as steps; its parameters are bound to their functions (see `Prepared`).

    Attributes:
      steps: what it computes.
    """

    def __init__(
        self,
        net: EvalNet,
        plan: Plan,
        functions: StepFunctions,
        steps: tuple[Step, ...],
        network: Network | None,
    ) -> None:
        self.net, self._steps, self._plan = net, steps, plan
        self._functions, self._network = functions, network
        self.batches_at_once = min(_BATCHES_AT_ONCE, processors())
        source: Source = "leaves" if network is None else "pages"
        functions.request(source, (step.key for step in steps))

    @property
    def num_params(self) -> int:
        """See `Prepared`."""
        return self._plan.num_params

    def predict(self, ghn: LoadedGHN) -> tuple[Call, ...]:
        """See `Prepared`."""
        network = self._network or make_network(self._plan, ghn.config)
        pages = predictor_of(ghn.config).predict(ghn.theta, network)
        return calls_of_pages(self._functions, network.steps, network.places, pages)

    def pack(self, params: Mapping[str, Any]) -> tuple[Call, ...]:
        """See `Prepared`."""
        leaves = [jnp.asarray(leaf) for leaf in self._plan.in_order(params)]
        return calls_of_leaves(self._functions, self._steps, leaves)

    def score(self, params: tuple[Call, ...], batch: Batch) -> jax.Array:
        """See `Prepared`."""
        images = jnp.asarray(batch.images, self._functions.batch.dtype)
        return _count_hits(run(params, images), batch.labels, batch.weights)


_count_hits = jax.jit(count_hits)


@functools.lru_cache(maxsize=4)
def _functions(shape: BatchShape, x64: bool) -> StepFunctions:
    """The functions of all networks that see batches of one shape."""
    del x64  # decides what is compiled
    return StepFunctions(shape, processors())
