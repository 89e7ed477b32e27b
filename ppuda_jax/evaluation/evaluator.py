"""Predicts and runs networks, most of them by a few compiled functions.

The networks of one executor variant share their compiled functions; those of variants that were not
used for longest are dropped. A network that the executor cannot run is compiled by itself, and its
result says why.
"""

import collections
import concurrent.futures
import copy
import dataclasses
import functools
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from ppuda_jax import parallel
from ppuda_jax.config import check_types
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import NetResult
from ppuda_jax.evaluation.runners import (
    ExecutorRunner,
    NetworkRunner,
    executor_bytes,
    he_params,
    why_not_executor,
)
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.runtime.processors import processors

_KEPT_VARIANTS = 8  # a process has room for the functions of a few dozen (`memory.mappings`)

Params = Literal["ghn", "random"]


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """How networks are run.

    Attributes:
      params: "ghn" predicts parameters; "random" draws He's, a baseline.
      memory_limit_gib: networks that need more in the executor are compiled by themselves; on a
        CPU, two batches run at the same time where both fit.
      compute_dtype: type of the activations, "float32" or "bfloat16".
      num_devices: most devices of this host that batches are spread over; all of them if None.
      compile_threads: variants compiled ahead at the same time; the number of cores up to 8 if
        None, and 0 compiles when a network needs it.
      seed: of random parameters.
    """

    params: Params = "ghn"
    memory_limit_gib: float = 4.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    num_devices: int | None = None
    compile_threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.compile_threads is not None and self.compile_threads < 0:
            raise ValueError(
                f"compile_threads must not be negative, received {self.compile_threads}"
            )


class Evaluator:
    """Compiled functions of an evaluation, for any number of networks and hypernetworks.

    All hypernetworks must have one configuration. Not for use by several threads.
    """

    def __init__(
        self, config: GHNConfig, images: EvalImages, settings: EvalSettings | None = None
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          config: the hypernetworks' configuration.
          images: what networks are evaluated on.
          settings: how.

        Raises:
          ValueError: the images have another number of classes than the hypernetwork predicts.
        """
        _check_classes(config, images)
        self.config, self.settings = config, settings or EvalSettings()
        self._topology = parallel.make_local_topology(self.settings.num_devices)
        self.images = images.spread(self._topology)
        self._runners: collections.OrderedDict[Variant, ExecutorRunner] = collections.OrderedDict()
        self._past_programs: list[int] = []
        self._lock = threading.Lock()

    def identity(self) -> dict[str, Any]:
        """What results share that are of the same images, in the same precision; JSON-ready."""
        return {
            "dataset": self.images.spec.name,
            "fingerprint": self.images.spec.fingerprint,
            "images": self.images.part,
            "num_images": self.images.num_images,
            "batch_size": self.images.batch_size,
            "noise": self.images.noise,
            "calibration": self.images.calibration,
            "compute_dtype": self.settings.compute_dtype,
            "seed": self.settings.seed,
        }

    @property
    def programs(self) -> int:
        """Functions compiled so far."""
        return sum(self._past_programs) + sum(r.programs for r in self._runners.values())

    @property
    def compile_threads(self) -> int:
        """Variants compiled ahead at the same time."""
        threads = self.settings.compile_threads
        return min(8, processors()) if threads is None else threads

    def runner_of(self, net: EvalNet) -> tuple[ExecutorRunner | None, str]:
        """The executor's runner of a network, or None and the reason why there is none."""
        reason = self._why_not(net)
        if reason is not None:
            return None, reason
        with self._lock:
            if net.variant not in self._runners:
                self._runners[net.variant] = ExecutorRunner(
                    self.config,
                    net.variant,
                    self._topology,
                    self.settings.compute_dtype,
                    self.images.calibration,
                )
            self._runners.move_to_end(net.variant)
            while len(self._runners) > max(_KEPT_VARIANTS, self.compile_threads + 2):
                _, dropped = self._runners.popitem(last=False)
                self._past_programs.append(dropped.programs)
            return self._runners[net.variant], ""

    def runs_in_executor(self, net: EvalNet) -> bool:
        """Whether `runner_of` has a runner for a network; makes none."""
        return not self._why_not(net)

    def why_not_trained(self, net: EvalNet, batch_size: int) -> str | None:
        """Why a network cannot be trained in the executor; None if it can."""
        return why_not_executor(net, self.config, batch_size, self._memory_limit, training=True)

    def _why_not(self, net: EvalNet) -> str | None:
        return why_not_executor(net, self.config, self._images_per_call, self._memory_limit)

    def _batches_at_once(self, net: EvalNet) -> int:
        """Batches that the executor runs at the same time: two on a CPU with memory for them.

        One batch keeps 1.3 to 1.6 of two cores busy. Over several devices a batch's collectives
        would wait for those of another.
        """
        if self._topology.mesh is not None or self._topology.devices[0].platform != "cpu":
            return 1
        need = executor_bytes(net.variant, self._images_per_call, net.num_classes)
        return 2 if 2 * need <= self._memory_limit else 1

    @property
    def _memory_limit(self) -> float:
        """Bytes."""
        return self.settings.memory_limit_gib * 2**30

    @property
    def _images_per_call(self) -> int:
        return self.images.calibration + self.images.batch_size

    def compile(self, ghn: LoadedGHN, net: EvalNet) -> None:
        """Compiles the executor's functions for a network's variant, if it runs there."""
        runner, _ = self.runner_of(net)
        if runner is not None:
            arrays = runner.prepare(net)
            runner.compile(ghn.theta, arrays, self.images, self.settings.params == "ghn")

    def evaluate(self, ghn: LoadedGHN, net: EvalNet) -> NetResult:
        """Predicts and runs one network.

        Args:
          ghn: the hypernetwork; its theta may be NumPy or device arrays.
          net: the network.
        """
        runner, reason = self.runner_of(net)
        if runner is None:
            return self._by_itself(ghn, net, reason)
        try:
            arrays = runner.prepare(net)
        except CapacityError as error:
            return self._by_itself(ghn, net, f"no room in the executor: {error}")
        with Timer() as compile_timer:
            runner.compile(ghn.theta, arrays, self.images, self.settings.params == "ghn")
        with Timer() as predict_timer:
            if self.settings.params == "ghn":
                tables = runner.predict(ghn.theta, arrays)
            else:
                tables = runner.pack(net, he_params(net.plan, self._seed(net)))
            jax.block_until_ready(tables)
        score = functools.partial(runner.score, tables, arrays)
        return self._result(
            net,
            net.plan.num_params,
            score,
            compile_timer,
            predict_timer,
            runner.name,
            "",
            self._batches_at_once(net),
        )

    def _by_itself(self, ghn: LoadedGHN, net: EvalNet, reason: str) -> NetResult:
        predicted = self.settings.params == "ghn"
        with Timer() as compile_timer:
            runner = NetworkRunner(
                net, self._topology, self.settings.compute_dtype, self.images.calibration
            )
            runner.compile(ghn, self.images, predicted)
        with Timer() as predict_timer:
            params = runner.predict(ghn) if predicted else runner.init(self._seed(net))
            jax.block_until_ready(params)
        self._past_programs.append(runner.programs)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        return self._result(
            net,
            num_params,
            functools.partial(runner.score, params),
            compile_timer,
            predict_timer,
            runner.name,
            reason,
        )

    def _result(
        self,
        net: EvalNet,
        num_params: int,
        score: Callable[..., jax.Array],
        compile_timer: "Timer",
        predict_timer: "Timer",
        runner: str,
        reason: str,
        at_once: int = 1,
    ) -> NetResult:
        with Timer() as run_timer:
            top1, top5, loss = self.score(score, at_once)
        return NetResult(
            net.split,
            net.index,
            net.name,
            num_params,
            top1,
            top5,
            loss,
            self.images.num_images,
            predict_timer.seconds,
            run_timer.seconds,
            compile_timer.seconds,
            runner,
            reason,
        )

    def score(
        self, batch_sums: Callable[..., jax.Array], at_once: int = 1
    ) -> tuple[float, float, float]:
        """Top-1 and top-5 accuracy and loss over all images.

        Args:
          batch_sums: sums over a batch, see `runners.count_hits`.
          at_once: batches that run at the same time, each in a thread of its own.
        """
        if at_once == 1:
            sums = jax.device_get([batch_sums(batch) for batch in self.images.batches])
        else:
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                sums = list(
                    pool.map(lambda batch: jax.device_get(batch_sums(batch)), self.images.batches)
                )
        means = np.sum(np.asarray(sums, np.float64), axis=0) / self.images.num_images
        return float(means[0]), float(means[1]), float(means[2])

    def with_params(self, params: Params) -> "Evaluator":
        """The same compiled functions with another source of parameters."""
        twin = copy.copy(self)
        twin.settings = dataclasses.replace(self.settings, params=params)
        return twin

    def with_images(self, images: EvalImages) -> "Evaluator":
        """The same compiled functions with other images."""
        _check_classes(self.config, images)
        if images.calibration != self.images.calibration:
            raise ValueError(
                f"these functions are compiled for {self.images.calibration} calibration images, "
                f"received {images.calibration}: make another Evaluator"
            )
        twin = copy.copy(self)
        twin.images = images.spread(self._topology)
        return twin

    def _seed(self, net: EvalNet) -> int:
        return zlib.crc32(f"{self.settings.seed}/{net.split}/{net.index}".encode())


def _check_classes(config: GHNConfig, images: EvalImages) -> None:
    if config.num_classes != images.spec.num_classes:
        raise ValueError(
            f"the hypernetwork predicts classifiers of {config.num_classes} classes, "
            f"{images.spec.name} has {images.spec.num_classes}"
        )


class Timer:
    """Measures the wall time of a `with` block, in `seconds`."""

    seconds = 0.0

    def __enter__(self) -> "Timer":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._start
