"""One network that is trained by SGD: through the executor, or driven from the host.

Legend: `b` images of a batch, `s` image side.
"""

import functools
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.data.batches import LoadFn
from ppuda_jax.evaluation.executor_runner import InExecutor
from ppuda_jax.evaluation.host_runner import FromHost
from ppuda_jax.evaluation.runners import Prepared
from ppuda_jax.executor import run
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.gradient import leaf_gradient, request_gradient
from ppuda_jax.programs import CachedFunction
from ppuda_jax.runtime.processors import processors


class SgdSteps(Protocol):
    """A network that takes steps; its own parameters are in whatever form it likes."""

    @property
    def prepared(self) -> Prepared:
        """The network, to be evaluated."""

    def start(self, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """(parameters, state of the optimiser) from those of the network's Flax module."""

    def load(self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array) -> None:
        """Compiles what a step needs; the arguments are those of every later one."""

    def step(
        self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[Any, Any]:
        """(parameters, state) after one step; those before are donated, the key is consumed."""

    def score_form(self, params: Any) -> Any:
        """Parameters as `prepared.score` takes them."""


class ExecutorSteps:
    """A network as data of the executor; all of a variant share one compiled step."""

    def __init__(
        self,
        prepared: InExecutor,
        load: LoadFn,
        optimiser: optax.GradientTransformation,
        run_key: Hashable,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          prepared: the network.
          load: what makes images of a batch.
          optimiser: of the tables.
          run_key: same for what may share programs: images and optimiser.
        """
        self.prepared, self._load, self._optimiser = prepared, load, optimiser
        jit = functools.partial(jax.jit, donate_argnums=(0, 1))
        key = (run_key, prepared.variant)
        self._step = CachedFunction(self._updated, key, "steps of SGD", jit=jit)

    def start(self, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """See `SgdSteps`."""
        tables = self.prepared.pack(params)
        return tables, self._optimiser.init(tables)

    def load(self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array) -> None:
        """See `SgdSteps`."""
        programs = self.prepared.arrays.programs
        self._loaded = self._step.load(params, state, programs, resident, batch, key)

    def step(
        self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[Any, Any]:
        """See `SgdSteps`."""
        return self._loaded(params, state, self.prepared.arrays.programs, resident, batch, key)

    def score_form(self, params: Any) -> Any:
        """See `SgdSteps`."""
        return params

    def _updated(self, tables, state, programs, resident, batch, key):
        image_key, head_key = jax.random.split(key)
        pixels, labels = self._load(resident, batch, image_key)

        def loss(tables):
            variant = self.prepared.variant
            return run.mean_loss(variant, tables, programs, pixels, labels, head_key)

        grads, _ = jax.grad(loss, has_aux=True)(tables)
        updates, state = self._optimiser.update(grads, state, tables)
        return optax.apply_updates(tables, updates), state


class HostSteps:
    """A network driven from the host; its parameters are a list in the order of `plan.params`."""

    def __init__(
        self,
        prepared: FromHost,
        load: LoadFn,
        optimiser: optax.GradientTransformation,
        functions: StepFunctions,
    ) -> None:
        """Starts to compile.

        Args:
          prepared: the network.
          load: what makes images of a batch; compiled.
          optimiser: of the parameters.
          functions: of `host_functions`.
        """
        self.prepared, self._load, self._optimiser = prepared, load, optimiser
        self._functions = functions
        self._update = jax.jit(self._updated, donate_argnums=(0, 1))
        request_gradient(functions, "leaves", prepared.steps)

    def start(self, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """See `SgdSteps`."""
        leaves = self.prepared.in_order(params)
        return leaves, self._optimiser.init(leaves)

    def load(self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array) -> None:
        """See `SgdSteps`."""
        copies, state = jax.tree.map(jnp.copy, (params, state))  # a step takes what it is given
        jax.block_until_ready(self.step(copies, state, resident, batch, key))

    def step(
        self, params: Any, state: Any, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[Any, Any]:
        """See `SgdSteps`."""
        image_key, head_key = jax.random.split(key)
        pixels, labels = self._load(resident, batch, image_key)
        _, grads = leaf_gradient(
            self._functions, self.prepared.steps, params, pixels, labels, head_key
        )
        return self._update(params, state, grads)

    def score_form(self, params: Any) -> Any:
        """See `SgdSteps`."""
        return self.prepared.bind(params)

    def _updated(self, leaves, state, grads):
        updates, state = self._optimiser.update(grads, state, leaves)
        return optax.apply_updates(leaves, updates), state


def host_functions(batch_size: int) -> StepFunctions:
    """The functions of all networks that are trained in batches of one size."""
    return StepFunctions(Batch(batch_size, dropout=True), processors())
