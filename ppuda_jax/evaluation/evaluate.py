"""Evaluates networks with predicted, drawn or given parameters, and continues where it was stopped.

Networks that share programs are run one after another; the programs of the next ones are compiled
in the background meanwhile. All programs are in the process's one cache (`ppuda_jax.programs`), so
that nothing is compiled again for other images of the same shape or for other parameters.
"""

import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from ppuda_jax import parallel
from ppuda_jax.config import check_types
from ppuda_jax.data.spec import check_same_images, trained_spec
from ppuda_jax.evaluation.executor_runner import ExecutorRunner
from ppuda_jax.evaluation.host_runner import HostRunner
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.network_runner import NetworkRunner
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import Parameters
from ppuda_jax.evaluation.prefetch import Prefetch
from ppuda_jax.evaluation.results import NetResult, ResultFile
from ppuda_jax.evaluation.runners import Prepared, Runner, UnfitError
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.runtime.processors import processors

_MOST_THREADS = 8

Progress = Callable[[int, int, NetResult, float], None]
"""Called as (networks done, networks in all, newest result, seconds left)."""


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """How networks are run.

    Attributes:
      memory_limit_gib: networks that need more in the executor are compiled by themselves; on a
        CPU, two batches run at the same time where both fit.
      compute_dtype: type of the activations, "float32" or "bfloat16".
      num_devices: most devices of this host that batches are spread over; all of them if None.
      compile_threads: programs compiled ahead at the same time; the number of processors up to 8 if
        None, and 0 compiles when a network needs it.
      driver: what runs networks of DeepNets-1M: "host" drives them step by step, so that nothing is
        compiled per network or variant, which is the default ("auto") on one CPU device; "executor"
        runs them as data of one compiled function, the default on accelerators and on several
        devices.
    """

    memory_limit_gib: float = 4.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    num_devices: int | None = None
    compile_threads: int | None = None
    driver: Literal["auto", "host", "executor"] = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.compile_threads is not None and self.compile_threads < 0:
            raise ValueError(
                f"compile_threads must not be negative, received {self.compile_threads}"
            )

    @property
    def threads(self) -> int:
        """Programs compiled ahead at the same time."""
        if self.compile_threads is None:
            return min(_MOST_THREADS, processors())
        return self.compile_threads

    @property
    def topology(self) -> parallel.Topology:
        """Devices that batches are spread over."""
        return parallel.make_local_topology(self.num_devices)

    @property
    def executor(self) -> ExecutorRunner:
        """The executor."""
        limit = self.memory_limit_gib * 2**30
        return ExecutorRunner(self.topology, limit, self.compute_dtype)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Ways to run a network, the preferred ones first."""
        rest = self.executor, NetworkRunner(self.topology, self.compute_dtype)
        if self.driver == "executor":
            return rest
        host = HostRunner(self.topology, self.compute_dtype)
        # On an accelerator the executor is no second choice, whose results would give a reason.
        first = self.driver == "host" or host.fits
        return (host, *rest) if first else rest


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A network and what runs it.

    Attributes:
      prepared: the network.
      runner: name of the runner.
      reason: why it is not the preferred one; empty if it is.
    """

    prepared: Prepared
    runner: str
    reason: str


def evaluate_archs(
    parameters: Parameters,
    nets: Sequence[EvalNet],
    images: EvalImages,
    *,
    settings: EvalSettings | None = None,
    results_path: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[NetResult, ...]:
    """Evaluates networks (paper, section 5.1).

    Args:
      parameters: where theirs come from: `predicted(ghn)`, `he(seed)` or `given(...)`.
      nets: from `choose_networks`.
      images: from `load_eval_images`.
      settings: how networks are run.
      results_path: JSONL file of results; those that it has already are not computed again.
      progress: called after each network.

    Returns:
      One result per network, in the order of `nets`.

    Raises:
      ValueError: the hypernetwork is of another dataset or number of classes, or `results_path`
        holds another evaluation.
    """
    check_images(parameters.ghn, images)
    settings = settings or EvalSettings()
    images = images.spread(settings.topology)
    kept = None
    if results_path is not None:
        identity = {**parameters.identity, **images_identity(images, settings)}
        kept = ResultFile(results_path, identity, NetResult)
    found = {net: kept.get(net.key) for net in nets} if kept else {}
    done = {net: result for net, result in found.items() if result is not None}
    choose = functools.partial(_choose, settings.runners, images, parameters.ghn)
    todo = _by_group([net for net in nets if net not in done], choose)
    prepare = functools.partial(_prepare, settings.runners, images, parameters.ghn)
    started = time.monotonic()
    with Prefetch(prepare, todo, choose, settings.threads) as ahead:
        for number, net in enumerate(todo, 1):
            done[net] = _evaluate(parameters, net, images, ahead.get)
            if kept is not None:
                kept.add(done[net])
            left = (time.monotonic() - started) / number * (len(todo) - number)
            if progress is not None:
                progress(len(done), len(nets), done[net], left)
    return tuple(done[net] for net in nets)


def _evaluate(
    parameters: Parameters,
    net: EvalNet,
    images: EvalImages,
    prepare: Callable[[EvalNet], _Ready],
) -> NetResult:
    """Prepares, fills and runs one network; holds nothing of it afterwards."""
    started = time.perf_counter()
    ready = prepare(net)
    compiled = time.perf_counter()
    params = jax.block_until_ready(parameters.of(ready.prepared))
    predicted = time.perf_counter()
    top1, top5, loss = score_images(ready.prepared, params, images)
    return NetResult(
        split=net.split,
        index=net.index,
        name=net.name,
        num_params=ready.prepared.num_params,
        top1=top1,
        top5=top5,
        loss=loss,
        num_images=images.num_images,
        predict_s=predicted - compiled,
        run_s=time.perf_counter() - predicted,
        compile_s=compiled - started,
        runner=ready.runner,
        reason=ready.reason,
        fingerprint=net.fingerprint,
    )


def score_images(prepared: Prepared, params: Any, images: EvalImages) -> tuple[float, float, float]:
    """Top-1 and top-5 accuracy and mean loss of a network over all images."""

    def sums(batch):
        return prepared.score(params, batch)

    if prepared.batches_at_once == 1:
        found = jax.device_get([sums(batch) for batch in images.batches])
    else:
        with concurrent.futures.ThreadPoolExecutor(prepared.batches_at_once) as pool:
            found = list(pool.map(lambda batch: jax.device_get(sums(batch)), images.batches))
    means = np.sum(np.asarray(found, np.float64), axis=0) / images.num_images
    return float(means[0]), float(means[1]), float(means[2])


def images_identity(images: EvalImages, settings: EvalSettings) -> dict[str, Any]:
    """What results share that are of the same images, in the same precision; JSON-ready."""
    return {
        "dataset": images.spec.name,
        "fingerprint": images.spec.fingerprint,
        "images": images.part,
        "num_images": images.num_images,
        "batch_size": images.batch_size,
        "noise": images.noise,
        "calibration": images.calibration,
        "compute_dtype": settings.compute_dtype,
        "seed": images.seed,
    }


def check_images(ghn: LoadedGHN | None, images: EvalImages) -> None:
    """Raises ValueError if a hypernetwork was trained on other classes, sizes or scales."""
    if ghn is None:
        return
    trained = trained_spec(ghn.metadata)
    if trained is not None:
        check_same_images(trained, images.spec, ghn.name)
    if ghn.config.num_classes != images.spec.num_classes:
        raise ValueError(
            f"the hypernetwork predicts classifiers of {ghn.config.num_classes} classes, "
            f"{images.spec.name} has {images.spec.num_classes}"
        )


def _choose(
    runners: Sequence[Runner], images: EvalImages, ghn: LoadedGHN | None, net: EvalNet
) -> Any:
    """What networks have in common that are run one after another."""
    for runner in runners:
        if runner.refuses(net, images, ghn) is None:
            return runner.name, runner.shares(net)
    return None


def _prepare(
    runners: Sequence[Runner], images: EvalImages, ghn: LoadedGHN | None, net: EvalNet
) -> _Ready:
    """Prepares a network by the first runner that takes it."""
    reasons: list[str] = []
    for runner in runners:
        reason = runner.refuses(net, images, ghn)
        if reason is None:
            try:
                prepared = runner.prepare(net, images, ghn)
                return _Ready(prepared, runner.name, reasons[0] if reasons else "")
            except UnfitError as error:
                reason = str(error)
        reasons.append(reason)
    raise ValueError(f"{net.name} cannot be run: {'; '.join(reasons)}")


def _by_group(nets: Sequence[EvalNet], group_of: Callable[[EvalNet], Any]) -> list[EvalNet]:
    """Networks of one group behind each other, groups by first appearance."""
    groups: dict[Any, list[EvalNet]] = {}
    for net in nets:
        groups.setdefault(group_of(net), []).append(net)
    return [net for group in groups.values() for net in group]
