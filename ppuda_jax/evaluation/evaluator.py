"""Evaluates a hypernetwork on many architectures, most of them by a few compiled functions.

The networks of one executor variant share their compiled functions; variants are compiled in the
background while others are evaluated. A network that the executor cannot run is compiled by
itself, and its result says why.
"""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import functools
import os
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax import parallel
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import NetResult, ResultFile
from ppuda_jax.evaluation.runners import (
    ExecutorRunner,
    NetworkRunner,
    he_params,
    why_not_executor,
)
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN

Params = Literal["ghn", "random"]
Progress = Callable[[int, int, NetResult, float], None]
"""Called as (networks done, networks in all, newest result, seconds left)."""


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """How networks are run.

    Attributes:
      params: "ghn" predicts parameters; "random" draws He's, a baseline.
      memory_limit_gib: networks that need more in the executor are compiled by themselves.
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
        if self.params not in ("ghn", "random"):
            raise ValueError(f"params must be ghn or random, got {self.params!r}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype must be float32 or bfloat16, got {self.compute_dtype!r}"
            )
        if self.compile_threads is not None and self.compile_threads < 0:
            raise ValueError(f"compile_threads must not be negative, got {self.compile_threads}")


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
        self._runners: dict[Variant, ExecutorRunner] = {}
        self._by_itself_programs: list[int] = []

    @property
    def programs(self) -> int:
        """Functions compiled so far."""
        return sum(self._by_itself_programs) + sum(r.programs for r in self._runners.values())

    def runner_of(self, net: EvalNet) -> tuple[ExecutorRunner | None, str]:
        """The executor's runner of a network, or None and the reason why there is none."""
        limit = self.settings.memory_limit_gib * 2**30
        size = self.images.calibration + self.images.batch_size
        reason = why_not_executor(net, self.config, size, limit)
        if reason is not None:
            return None, reason
        if net.variant not in self._runners:
            self._runners[net.variant] = ExecutorRunner(
                self.config, net.variant, self._topology, self.settings.compute_dtype,
                self.images.calibration,
            )  # fmt: skip
        return self._runners[net.variant], ""

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
        with _Timer() as compile_timer:
            runner.compile(ghn.theta, arrays, self.images, self.settings.params == "ghn")
        with _Timer() as predict_timer:
            if self.settings.params == "ghn":
                tables = runner.predict(ghn.theta, arrays)
            else:
                tables = runner.pack(net, he_params(net.plan, self._seed(net)))
            jax.block_until_ready(tables)
        score = functools.partial(runner.score, tables, arrays)
        return self._result(net, net.plan.num_params, score, compile_timer, predict_timer,
                            runner.name, "")  # fmt: skip

    def _by_itself(self, ghn: LoadedGHN, net: EvalNet, reason: str) -> NetResult:
        predicted = self.settings.params == "ghn"
        with _Timer() as compile_timer:
            runner = NetworkRunner(
                net, self._topology, self.settings.compute_dtype, self.images.calibration
            )
            runner.compile(ghn, self.images, predicted)
        with _Timer() as predict_timer:
            params = runner.predict(ghn) if predicted else runner.init(self._seed(net))
            jax.block_until_ready(params)
        self._by_itself_programs.append(runner.programs)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        return self._result(net, num_params, functools.partial(runner.score, params),
                            compile_timer, predict_timer, runner.name, reason)  # fmt: skip

    def _result(
        self, net: EvalNet, num_params: int, score: Callable[..., jax.Array],
        compile_timer: _Timer, predict_timer: _Timer, runner: str, reason: str,
    ) -> NetResult:  # fmt: skip
        with _Timer() as run_timer:
            top1, top5, loss = self.score(score)
        return NetResult(
            net.split, net.index, net.name, num_params, top1, top5, loss,
            self.images.num_images, predict_timer.seconds, run_timer.seconds,
            compile_timer.seconds, runner, reason,
        )  # fmt: skip

    def score(self, batch_sums: Callable[..., jax.Array]) -> tuple[float, float, float]:
        """Top-1 and top-5 accuracy and loss over all images, from a function of a batch."""
        sums = jax.device_get([batch_sums(batch) for batch in self.images.batches])
        means = np.sum(np.asarray(sums, np.float64), axis=0) / self.images.num_images
        return float(means[0]), float(means[1]), float(means[2])

    def with_params(self, params: Params) -> Evaluator:
        """The same compiled functions with another source of parameters."""
        twin = copy.copy(self)
        twin.settings = dataclasses.replace(self.settings, params=params)
        return twin

    def with_images(self, images: EvalImages) -> Evaluator:
        """The same compiled functions with other images."""
        _check_classes(self.config, images)
        if images.calibration != self.images.calibration:
            raise ValueError(
                f"these functions are compiled for {self.images.calibration} calibration images, "
                f"got {images.calibration}: make another Evaluator"
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


class _Timer:
    seconds = 0.0

    def __enter__(self) -> _Timer:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._start


def evaluate_archs(
    ghn: LoadedGHN,
    nets: Sequence[EvalNet],
    images: EvalImages,
    *,
    settings: EvalSettings | None = None,
    evaluator: Evaluator | None = None,
    results_path: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[NetResult, ...]:
    """Evaluates a hypernetwork on networks (paper, section 5.1).

    Args:
      ghn: the hypernetwork.
      nets: from `choose_networks`.
      images: from `load_eval_images`.
      settings: how networks are run.
      evaluator: compiled functions to use again, instead of `images` and `settings`.
      results_path: JSONL file of results; those that it has already are not computed again.
      progress: called after each network.

    Returns:
      One result per network, in the order of `nets`.

    Raises:
      ValueError: the hypernetwork is of another dataset or number of classes, or `results_path`
        holds another evaluation.
    """
    check_dataset(ghn, images)
    evaluator = evaluator or Evaluator(ghn.config, images, settings)
    theta = jax.tree.map(jnp.asarray, dict(ghn.theta))
    kept = None
    if results_path is not None:
        kept = ResultFile(results_path, identity_of(ghn, evaluator))
    done = {net: kept.get(net.split, net.index) for net in nets} if kept else {}
    done = {net: result for net, result in done.items() if result is not None}
    todo = _by_variant([net for net in nets if net not in done])
    on_device = dataclasses.replace(ghn, theta=theta)
    started = time.monotonic()
    with _CompileAhead(evaluator, on_device, todo) as ahead:
        for number, net in enumerate(todo, 1):
            with _Timer() as wait:
                ahead.wait_for(net)
            result = evaluator.evaluate(on_device, net)
            done[net] = dataclasses.replace(result, compile_s=result.compile_s + wait.seconds)
            if kept is not None:
                kept.add(done[net])
            left = (time.monotonic() - started) / number * (len(todo) - number)
            if progress is not None:
                progress(len(done), len(nets), done[net], left)
    return tuple(done[net] for net in nets)


def check_dataset(ghn: LoadedGHN, images: EvalImages) -> None:
    """Raises ValueError if a hypernetwork was trained on another dataset than the images'."""
    trained = ghn.metadata.get("dataset")
    if trained is not None and trained != images.spec.name:
        raise ValueError(
            f"{ghn.name} was trained on {trained}, the images are of {images.spec.name}: pass "
            f"--dataset={trained}, or another checkpoint"
        )


def identity_of(ghn: LoadedGHN, evaluator: Evaluator) -> dict[str, Any]:
    """What two evaluations must share to be continued as one; JSON-ready."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(dict(ghn.theta))]
    check = functools.reduce(lambda crc, leaf: zlib.crc32(leaf.tobytes(), crc), leaves, 0)
    images, settings = evaluator.images, evaluator.settings
    return {
        "theta_crc32": check,
        "ghn": ghn.config.to_dict(),
        "dataset": images.spec.name,
        "images": images.part,
        "num_images": images.num_images,
        "batch_size": images.batch_size,
        "noise": images.noise,
        "calibration": images.calibration,
        "params": settings.params,
        "compute_dtype": settings.compute_dtype,
        "seed": settings.seed,
    }


def _by_variant(nets: Sequence[EvalNet]) -> list[EvalNet]:
    """Networks of one variant behind each other, variants by first appearance."""
    groups: dict[Variant | None, list[EvalNet]] = {}
    for net in nets:
        groups.setdefault(net.variant, []).append(net)
    return [net for group in groups.values() for net in group]


class _CompileAhead:
    """Compiles the executor variants of networks in the background, in the order of use."""

    def __init__(self, evaluator: Evaluator, ghn: LoadedGHN, nets: Sequence[EvalNet]) -> None:
        threads = evaluator.settings.compile_threads
        threads = min(8, os.cpu_count() or 1) if threads is None else threads
        self._jobs: dict[Variant, concurrent.futures.Future] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(threads) if threads else None
        if self._pool is None:
            return
        for net in nets:
            if evaluator.runner_of(net)[0] is not None and net.variant not in self._jobs:
                self._jobs[net.variant] = self._pool.submit(_compile, evaluator, ghn, net)

    def __enter__(self) -> _CompileAhead:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def wait_for(self, net: EvalNet) -> None:
        """Returns when the network's variant is compiled; raises what compilation raised."""
        if net.variant in self._jobs:
            self._jobs[net.variant].result()


def _compile(evaluator: Evaluator, ghn: LoadedGHN, net: EvalNet) -> None:
    try:
        evaluator.compile(ghn, net)
    except CapacityError:
        return  # the variant's next network compiles it
