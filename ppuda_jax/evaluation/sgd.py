"""SGD from random initialisation, the baseline that predicted parameters are compared with.

Networks are trained by what evaluates them: through the executor, on their tables of parameters, so
that all networks of a variant share one compiled step, or driven from the host. The settings are
the paper's for CIFAR-10 (appendix C.1): momentum 0.9, learning rate 0.025, weight decay 3e-4,
gradients clipped at norm 5.

Legend: `b` images of a batch.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.data.batches import LoadFn, TrainingImages
from ppuda_jax.evaluation.evaluate import EvalSettings, images_identity, score_images
from ppuda_jax.evaluation.executor_runner import why_not_executor
from ppuda_jax.evaluation.host_runner import HostRunner
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import initial_params
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.evaluation.sgd_steps import ExecutorSteps, HostSteps, SgdSteps, host_functions
from ppuda_jax.hostloop.functions import StepFunctions


@dataclasses.dataclass(frozen=True)
class SgdResult:
    """A network after training from scratch.

    Attributes:
      split: of the network.
      index: its number there.
      name: its name.
      top1: accuracy on the evaluated images.
      steps: updates.
      train_s: seconds of training, compilation excluded.
      fingerprint: of the network (`EvalNet.fingerprint`).
    """

    split: str
    index: int
    name: str
    top1: float
    steps: int
    train_s: float
    fingerprint: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from others; another network of the same name has another fingerprint."""
        return self.split, self.index, self.fingerprint


class SgdTrainer:
    """Trains networks.

    Attributes:
      settings: of the optimiser.
      run_settings: how networks are run.
      batch_size: images of a step.
      epoch: steps that see every image once.
    """

    def __init__(
        self,
        images: TrainingImages,
        learning_rate: float = 0.025,
        momentum: float = 0.9,
        weight_decay: float = 3e-4,
        grad_clip: float = 5.0,
        run_settings: EvalSettings | None = None,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          images: training images; their batch size is the steps'.
          learning_rate: constant.
          momentum: of the heavy ball.
          weight_decay: L2 penalty, added to the gradient.
          grad_clip: global norm.
          run_settings: how networks are run.
        """
        self.run_settings = run_settings or EvalSettings()
        self.settings = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
        }
        self.batch_size = jax.tree.leaves(images.batch(0))[0].shape[0]
        self.epoch = -(-images.num_images // self.batch_size)
        self._images, self._key = images, object()
        self._resident = jax.tree.map(jnp.asarray, images.resident)
        self._optimiser = optax.chain(
            optax.clip_by_global_norm(grad_clip),
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, momentum),
        )

    @property
    def _host(self) -> HostRunner | None:
        first = self.run_settings.runners[0]
        return first if isinstance(first, HostRunner) else None

    @functools.cached_property
    def _host_parts(self) -> tuple[LoadFn, StepFunctions]:
        return jax.jit(self._images.load), host_functions(self.batch_size)

    def why_not(self, net: EvalNet) -> str | None:
        """Why a network cannot be trained; None if it can."""
        if self._host is not None:
            return "a hand-made model" if net.plan is None else None
        limit = self.run_settings.memory_limit_gib * 2**30
        return why_not_executor(net, self.batch_size, limit, training=True)

    def train(self, images: EvalImages, net: EvalNet, steps: int, seed: int = 0) -> SgdResult:
        """Trains a network, and evaluates it; see `train_to`."""
        return self.train_to(images, net, (steps,), seed)[0]

    def train_to(
        self, images: EvalImages, net: EvalNet, marks: Sequence[int], seed: int = 0
    ) -> list[SgdResult]:
        """Trains a network from He's initialisation, and evaluates it on the way.

        Args:
          images: what it is evaluated on.
          net: a network that `why_not` has nothing against.
          marks: numbers of updates after which it is evaluated, rising.
          seed: of initialisation and augmentation.

        Returns:
          A result for each mark.

        Raises:
          ValueError: the network cannot be trained, or there is no memory for it.
        """
        reason = self.why_not(net)
        if reason is not None:
            raise ValueError(f"{net.name} cannot be trained by SGD: {reason}")
        images = images.spread(self.run_settings.topology)
        network = self._steps(net, images)
        params, state = network.start(initial_params(net, seed))
        key = jax.random.key(seed)
        network.load(params, state, self._resident, self._images.batch(0), key)
        results, seconds, done = [], 0.0, 0
        for mark in marks:
            started = time.perf_counter()
            for number in range(done, mark):
                key, step_key = jax.random.split(key)
                batch = self._images.batch(number)
                params, state = network.step(params, state, self._resident, batch, step_key)
            jax.block_until_ready(params)
            seconds, done = seconds + time.perf_counter() - started, mark
            top1, _, _ = score_images(network.prepared, network.score_form(params), images)
            results.append(
                SgdResult(net.split, net.index, net.name, top1, mark, seconds, net.fingerprint)
            )
        return results

    def _steps(self, net: EvalNet, images: EvalImages) -> SgdSteps:
        host = self._host
        if host is not None:
            load, functions = self._host_parts
            return HostSteps(host.prepare(net, images, None), load, self._optimiser, functions)
        prepared = self.run_settings.executor.prepare(net, images, None)
        return ExecutorSteps(prepared, self._images.load, self._optimiser, self._key)


def train_archs(
    trainer: SgdTrainer,
    images: EvalImages,
    nets: Sequence[EvalNet],
    steps: int,
    *,
    seed: int = 0,
    results_path: str | os.PathLike[str] | None = None,
    progress: Callable[[SgdResult], None] | None = None,
) -> tuple[SgdResult, ...]:
    """Trains networks one after the other.

    Args:
      trainer: how.
      images: what they are evaluated on.
      nets: networks that `trainer.why_not` has nothing against.
      steps: updates of each.
      seed: of initialisation and augmentation.
      results_path: JSONL file of results; those that it has already are not computed again.
      progress: called after each network that is trained.

    Returns:
      One result per network, in the order of `nets`.

    Raises:
      ValueError: a network cannot be trained, or `results_path` holds other results.
    """
    kept = None
    if results_path is not None:
        identity = {
            **trainer.settings,
            "sgd_batch_size": trainer.batch_size,
            "steps": steps,
            "sgd_seed": seed,
            **images_identity(images, trainer.run_settings),
        }
        kept = ResultFile(results_path, identity, SgdResult)
    results = []
    for net in nets:
        result = kept.get(net.key) if kept else None
        if result is None:
            result = trainer.train(images, net, steps, seed)
            if kept:
                kept.add(result)
            if progress:
                progress(result)
        results.append(result)
    return tuple(results)
