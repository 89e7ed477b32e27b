"""Two ways to run a network: as data in the executor, or compiled by itself.

Legend: `M` networks (always 1 here), `B` images of a batch, `S` image side, `K` classes.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ppuda_jax.archs.plan import Plan
from ppuda_jax.evaluation.images import Batch, EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.executor import run
from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import pack_params
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets import norms
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.parallel import Topology, jit_sum
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.prediction.blocks import MAX_BLOCK
from ppuda_jax.prediction.meta_batch import MetaBatch, build_meta_batch
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.tracing.api import trace_graph

_TOP = 5


def count_hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums over a batch: float32 [3] with hits, hits among the top 5, and cross-entropy.

    Args:
      logits: [B, K].
      labels: int32 [B].
      weights: float32 [B].
    """
    best = lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]
    hit = (best == labels[:, None]).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    rows = jnp.stack([hit[:, 0], hit.max(axis=1), loss])
    return jnp.sum(jnp.where(weights[None] > 0, rows, 0.0), axis=1)


class ExecutorRunner:
    """Runs every network of a variant by two compiled functions: predict and score."""

    name = "executor"

    def __init__(
        self,
        config: GHNConfig,
        variant: Variant,
        topology: Topology,
        dtype: str = "float32",
        calibration: int = 0,
    ) -> None:
        self._variant, self._config, self._dtype = variant, config, dtype
        self._calibration = calibration
        self._predict = _Compiled(functools.partial(predict_tables, config, variant))
        self._score = _Compiled(self._score_batch, topology, (False, False, True, True, True))
        self._ready: set[tuple[bool, tuple[int, ...]]] = set()

    @property
    def programs(self) -> int:
        """Compiled functions."""
        return self._predict.count + self._score.count

    def prepare(self, net: EvalNet) -> MetaBatch:
        """Arrays of a network.

        Raises:
          CapacityError: it needs more rows or nodes than the compiled functions have.
        """
        arrays = build_meta_batch([net.plan], self._variant, self._config.weight_norm)
        return jax.tree.map(jnp.asarray, arrays)

    def compile(self, theta: Any, arrays: MetaBatch, images: EvalImages, predict: bool) -> None:
        """Compiles what is not compiled yet."""
        batch = images.batches[0]
        if (predict, batch.images.shape) in self._ready:
            return
        if predict:
            self._predict.compile(theta, arrays)
        shapes = jax.eval_shape(self._predict.function, theta, arrays)
        self._score.compile(shapes, arrays.programs, batch.images, batch.labels, batch.weights)
        self._ready.add((predict, batch.images.shape))

    def predict(self, theta: Any, arrays: MetaBatch) -> run.Tables:
        """The hypernetwork's parameters as tables."""
        return self._predict(theta, arrays)

    def pack(self, net: EvalNet, params: Mapping[str, Any]) -> run.Tables:
        """Given parameters as tables."""
        capacity = capacity_of(self._variant, 1)
        tables = pack_params([make_program(net.plan, self._variant)], [params], capacity)
        return jax.tree.map(jnp.asarray, tables)

    def score(self, tables: run.Tables, arrays: MetaBatch, batch: Batch) -> jax.Array:
        """Sums over a batch, see `count_hits`."""
        return self._score(tables, arrays.programs, batch.images, batch.labels, batch.weights)

    def _score_batch(self, tables, programs, images, labels, weights):
        images = images.astype(self._dtype)
        with norms.statistics_of_first(self._calibration):
            logits = run.logits(self._variant, tables, programs, images)[0]
        return count_hits(logits, labels, weights)


class NetworkRunner:
    """Runs one network by its own compiled functions."""

    name = "network"

    def __init__(
        self, net: EvalNet, topology: Topology, dtype: str = "float32", calibration: int = 0
    ) -> None:
        self._module = (
            Network(net.plan)
            if net.plan
            else build_model(net.model, net.num_classes, net.image_size)
        )
        self._net, self._dtype, self._calibration = net, dtype, calibration
        self._graph = graph_from_plan(net.plan) if net.plan else self._trace()
        self._score = _Compiled(self._score_batch, topology, (False, True, True, True))
        self._predicts = 0

    @property
    def programs(self) -> int:
        """Compiled functions."""
        return self._predicts + self._score.count

    def compile(self, ghn: LoadedGHN, images: EvalImages, predict: bool) -> None:
        """Compiles what is not compiled yet."""
        if predict and not self._predicts:
            self.predict(ghn)
        batch, shapes = images.batches[0], self._shapes()["params"]
        self._score.compile(shapes, batch.images, batch.labels, batch.weights)

    def predict(self, ghn: LoadedGHN) -> Any:
        """The hypernetwork's parameters."""
        self._predicts = 1
        return predict_params(None, self._graph, ghn)

    def init(self, seed: int) -> Any:
        """Random parameters: He's for a plan, else the module's own."""
        if self._net.plan is not None:
            return jax.tree.map(jnp.asarray, he_params(self._net.plan, seed))
        size = self._net.image_size
        images = jnp.zeros((1, size, size, 3))
        return jax.jit(self._module.init)(jax.random.key(seed), images)["params"]

    def score(self, params: Any, batch: Batch) -> jax.Array:
        """Sums over a batch, see `count_hits`."""
        return self._score(params, batch.images, batch.labels, batch.weights)

    def _score_batch(self, params, images, labels, weights):
        with norms.statistics_of_first(self._calibration):
            logits = self._module.apply({"params": params}, images.astype(self._dtype))
        return count_hits(logits.astype(jnp.float32), labels, weights)

    def _shapes(self) -> Any:
        return jax.eval_shape(self._module.init, jax.random.key(0), self._image())

    def _image(self) -> jax.ShapeDtypeStruct:
        size = self._net.image_size
        return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def _trace(self) -> ArchGraph:
        return trace_graph(self._module.apply, {"params": self._shapes()["params"]}, self._image())


class _Compiled:
    """A function compiled once per shape of its arguments, and counted.

    With a topology, results are sums over its devices (`parallel.jit_sum`).
    """

    def __init__(
        self,
        function: Callable[..., Any],
        topology: Topology | None = None,
        split_args: tuple[bool, ...] = (),
    ) -> None:
        self.function = function
        self._jitted = jit_sum(function, topology, split_args) if topology else jax.jit(function)
        self._programs: dict[Any, Any] = {}

    @property
    def count(self) -> int:
        return len(self._programs)

    def compile(self, *args: Any) -> Any:
        key = (
            jax.tree.structure(args),
            tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in jax.tree.leaves(args)),
        )
        if key not in self._programs:
            self._programs[key] = self._jitted.lower(*args).compile()
        return self._programs[key]

    def __call__(self, *args: Any) -> Any:
        return self.compile(*args)(*args)


def he_params(plan: Plan, seed: int) -> dict[str, Any]:
    """Random parameters: He's normal kernels, unit norms, zero biases; nested NumPy arrays."""
    rng = np.random.default_rng(seed)
    tree: dict[str, Any] = {}
    for spec in plan.params:
        if spec.role == "kernel":
            deviation = math.sqrt(2 / math.prod(spec.shape[:-1]))
            leaf = deviation * rng.standard_normal(spec.shape, np.float32)
        elif spec.role == "pos_enc":
            leaf = rng.standard_normal(spec.shape, np.float32)
        else:
            leaf = np.full(spec.shape, float(spec.role == "norm_scale"), np.float32)
        branch = tree
        for key in spec.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[spec.path[-1]] = leaf
    return tree


def executor_bytes(
    variant: Variant, batch_size: int, num_classes: int, training: bool = False
) -> int:
    """Memory that the executor needs for one network: registers and tables, with working room.

    Training needs cotangents, the maps before norms, gradients and momentum besides.
    """
    layout, capacity = layout_of(variant), capacity_of(variant, 1)
    sizes = {name: batch_size * f.pixels**2 * f.channels for name, f in layout.files.items()}
    maps = sum(f.registers * sizes[name] for name, f in layout.files.items())
    rows = sum(count * math.prod(layout.mats[name]) for name, count in capacity.mats)
    rows += sum(count * layout.vecs[name] for name, count in capacity.vecs)
    rows += variant.features * variant.hidden
    rows += max(variant.features, variant.hidden) * num_classes
    if training:
        maps = 2 * maps + sum(group.norms * sizes[group.target] for group in layout.groups)
    return int(4 * (1.25 * maps + (5 if training else 1.5) * rows))


def why_not_executor(
    net: EvalNet,
    config: GHNConfig,
    batch_size: int,
    memory_limit: float,
    training: bool = False,
) -> str | None:
    """Why a network must be compiled by itself; None if the executor can run (or train) it.

    Networks with too many rows or nodes are only found by `ExecutorRunner.prepare`.
    """
    if net.plan is None:
        return "a hand-made model"
    if net.variant is None:
        return "no executor variant"
    if config.decoder != "conv" or config.max_shape[:2] != (MAX_BLOCK, MAX_BLOCK):
        return "the executor needs the published decoder"
    need = executor_bytes(net.variant, batch_size, net.num_classes, training)
    if need > memory_limit:
        return f"needs {need / 2**30:.1f} GiB in the executor" + " to be trained" * training
    return None
