"""Runs networks as data in the executor, by two programs per variant: predict and score."""

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.evaluation.images import Batch, EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.runners import UnfitError, count_hits
from ppuda_jax.executor import run
from ppuda_jax.executor.arrays import Tables
from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.program import Program, make_program
from ppuda_jax.executor.tables import CapacityError, empty_tables, pack_params
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.nets.context import OpContext
from ppuda_jax.parallel import Topology, jit_sum
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.prediction.blocks import MAX_BLOCK
from ppuda_jax.prediction.meta_batch import MetaBatch, build_meta_batch
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.programs import CachedFunction


@dataclasses.dataclass(frozen=True)
class ExecutorRunner:
    """Runs networks that have an executor variant and fit into memory there.

    Attributes:
      topology: devices that batches are spread over.
      memory_limit: bytes that a network may take.
      dtype: of the activations.
    """

    topology: Topology
    memory_limit: float
    dtype: str = "float32"
    name = "executor"

    def refuses(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> str | None:
        """See `Runner`. Networks with too many rows or nodes are only found by `prepare`."""
        if ghn is not None and net.variant is not None:
            config = ghn.config
            if config.decoder != "conv" or config.max_shape[:2] != (MAX_BLOCK, MAX_BLOCK):
                return "the executor needs the published decoder"
        return why_not_executor(net, images.calibration + images.batch_size, self.memory_limit)

    def shares(self, net: EvalNet) -> Hashable:
        """The variant."""
        return net.variant

    def prepare(self, net: EvalNet, images: EvalImages, ghn: LoadedGHN | None) -> "InExecutor":
        """See `Runner`."""
        if net.plan is None or net.variant is None:
            raise UnfitError(f"{net.name} has no executor variant")
        try:
            arrays = build_meta_batch([net.plan], net.variant, not ghn or ghn.config.weight_norm)
        except CapacityError as error:
            raise UnfitError(f"no room in the executor: {error}") from error
        prepared = InExecutor(
            net,
            net.variant,
            make_program(net.plan, net.variant),
            jax.tree.map(jnp.asarray, arrays),
            self._score(net.variant, images.calibration),
            self._batches_at_once(net.variant, images, net.num_classes),
        )
        prepared.load(images, ghn)
        return prepared

    def _score(self, variant: Variant, calibration: int) -> CachedFunction:
        context = OpContext(norm_images=calibration)

        def score(tables, programs, images, labels, weights):
            logits = run.logits(variant, tables, programs, images.astype(self.dtype), context)
            return count_hits(logits[0], labels, weights)

        split_args = (False, False, True, True, True)
        return CachedFunction(
            score,
            (variant, calibration, self.dtype, self.topology),
            "executors",
            jit=functools.partial(jit_sum, topology=self.topology, split_args=split_args),
        )

    def _batches_at_once(self, variant: Variant, images: EvalImages, num_classes: int) -> int:
        """Two on a CPU with memory for them.

        One batch keeps 1.3 to 1.6 of two cores busy. Over several devices a batch's collectives
        would wait for those of another.
        """
        if self.topology.mesh is not None or self.topology.devices[0].platform != "cpu":
            return 1
        need = executor_bytes(variant, images.calibration + images.batch_size, num_classes)
        return 2 if 2 * need <= self.memory_limit else 1


class InExecutor:
    """A network in the executor; its parameters are tables (see `Prepared`)."""

    def __init__(
        self,
        net: EvalNet,
        variant: Variant,
        program: Program,
        arrays: MetaBatch,
        score: CachedFunction,
        batches_at_once: int,
    ) -> None:
        self.net, self.variant, self.batches_at_once = net, variant, batches_at_once
        self.arrays, self._program, self._score = arrays, program, score
        self._held: list[Any] = []

    @property
    def num_params(self) -> int:
        """See `Prepared`."""
        return self._program.plan.num_params

    def load(self, images: EvalImages, ghn: LoadedGHN | None) -> None:
        """Compiles what is not compiled yet, and holds it."""
        if ghn is not None:
            self._held.append(self._predict(ghn).load(ghn.theta, self.arrays))
        capacity, batch = capacity_of(self.variant, 1), images.batches[0]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            empty_tables(self.variant, 1, capacity, self.net.num_classes),
        )
        score_args = (shapes, self.arrays.programs, batch.images, batch.labels, batch.weights)
        self._held.append(self._score.load(*score_args))

    def predict(self, ghn: LoadedGHN) -> Tables:
        """See `Prepared`."""
        return self._predict(ghn)(ghn.theta, self.arrays)

    def pack(self, params: Mapping[str, Any]) -> Tables:
        """See `Prepared`."""
        tables = pack_params([self._program], [params], capacity_of(self.variant, 1))
        return jax.tree.map(jnp.asarray, tables)

    def score(self, params: Tables, batch: Batch) -> jax.Array:
        """See `Prepared`."""
        return self._score(params, self.arrays.programs, batch.images, batch.labels, batch.weights)

    def _predict(self, ghn: LoadedGHN) -> CachedFunction:
        function = functools.partial(predict_tables, ghn.config, self.variant)
        return CachedFunction(function, (ghn.config, self.variant), "predictors of tables")


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
    net: EvalNet, batch_size: int, memory_limit: float, training: bool = False
) -> str | None:
    """Why the executor cannot run (or train) a network; None if it can.

    Args:
      net: the network.
      batch_size: images at a time.
      memory_limit: bytes.
      training: whether it is to be trained.
    """
    if net.plan is None:
        return "a hand-made model"
    if net.variant is None:
        return "no executor variant"
    need = executor_bytes(net.variant, batch_size, net.num_classes, training)
    if need > memory_limit:
        return f"needs {need / 2**30:.1f} GiB in the executor" + " to be trained" * training
    return None
