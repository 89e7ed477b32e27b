"""Evaluates a hypernetwork on many architectures, and continues where it was stopped.

Networks go by executor variant, so that each variant is compiled once; the next ones are compiled
in the background while one is evaluated.
"""

import concurrent.futures
import dataclasses
import functools
import os
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.data.spec import check_same_images, trained_spec
from ppuda_jax.evaluation.evaluator import EvalSettings, Evaluator, Timer
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import NetResult, ResultFile
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.ghn.loaded import LoadedGHN

Progress = Callable[[int, int, NetResult, float], None]
"""Called as (networks done, networks in all, newest result, seconds left)."""


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
            with Timer() as wait:
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
    """Raises ValueError if a hypernetwork was trained on other classes, sizes or scales."""
    trained = trained_spec(ghn.metadata)
    if trained is not None:
        check_same_images(trained, images.spec, ghn.name)


def identity_of(ghn: LoadedGHN, evaluator: Evaluator) -> dict[str, Any]:
    """What two evaluations must share to be continued as one; JSON-ready."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(dict(ghn.theta))]
    check = functools.reduce(lambda crc, leaf: zlib.crc32(leaf.tobytes(), crc), leaves, 0)
    return {
        "theta_crc32": check,
        "ghn": ghn.config.to_dict(),
        "params": evaluator.settings.params,
        **evaluator.identity(),
    }


def _by_variant(nets: Sequence[EvalNet]) -> list[EvalNet]:
    """Networks of one variant behind each other, variants by first appearance."""
    groups: dict[Variant | None, list[EvalNet]] = {}
    for net in nets:
        groups.setdefault(net.variant, []).append(net)
    return [net for group in groups.values() for net in group]


class _CompileAhead:
    """Compiles the executor variants that come next in the background."""

    def __init__(self, evaluator: Evaluator, ghn: LoadedGHN, nets: Sequence[EvalNet]) -> None:
        self._evaluator, self._ghn = evaluator, ghn
        first = {net.variant: net for net in reversed(nets) if evaluator.runs_in_executor(net)}
        order = dict.fromkeys(net.variant for net in nets if net.variant in first)
        self._coming = [first[variant] for variant in order]
        self._place = {variant: place for place, variant in enumerate(order)}
        self._jobs: list[concurrent.futures.Future] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(evaluator.compile_threads or 1)

    def __enter__(self) -> "_CompileAhead":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def wait_for(self, net: EvalNet) -> None:
        """Returns when the network's variant is compiled; raises what compilation raised."""
        threads, place = self._evaluator.compile_threads, self._place.get(net.variant)
        if place is None or not threads:
            return
        for coming in self._coming[len(self._jobs) : place + threads + 1]:
            self._jobs.append(self._pool.submit(_compile, self._evaluator, self._ghn, coming))
        self._jobs[place].result()


def _compile(evaluator: Evaluator, ghn: LoadedGHN, net: EvalNet) -> None:
    try:
        evaluator.compile(ghn, net)
    except CapacityError:
        return  # the variant's next network compiles it
