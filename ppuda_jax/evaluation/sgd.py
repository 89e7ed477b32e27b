"""SGD from random initialisation, the baseline that predicted parameters are compared with.

Networks are trained through the executor, on their tables of parameters, so that all networks of
a variant share one compiled step. The settings are the paper's for CIFAR-10 (appendix C.1):
momentum 0.9, learning rate 0.025, weight decay 3e-4, gradients clipped at norm 5.

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

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.evaluate import EvalSettings, images_identity, score_images
from ppuda_jax.evaluation.executor_runner import why_not_executor
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import initial_params
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.executor import run
from ppuda_jax.executor.layout import Variant
from ppuda_jax.programs import CachedFunction


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


class SgdTrainer:
    """Trains networks through the executor, one compiled step per variant.

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

    def why_not(self, net: EvalNet) -> str | None:
        """Why a network cannot be trained in the executor; None if it can."""
        limit = self.run_settings.memory_limit_gib * 2**30
        return why_not_executor(net, self.batch_size, limit, training=True)

    def train(self, images: EvalImages, net: EvalNet, steps: int, seed: int = 0) -> SgdResult:
        """Trains a network from He's initialisation, and evaluates it.

        Args:
          images: what it is evaluated on.
          net: a network that the executor can train.
          steps: updates.
          seed: of initialisation and augmentation.

        Raises:
          ValueError: the executor cannot train the network, or has no memory for it.
        """
        reason = self.why_not(net)
        if reason is not None:
            raise ValueError(f"{net.name} cannot be trained through the executor: {reason}")
        images = images.spread(self.run_settings.topology)
        prepared = self.run_settings.executor.prepare(net, images, None)
        tables = prepared.pack(initial_params(net, seed))
        state = self._optimiser.init(tables)
        key = jax.random.key(seed)
        programs, batch = prepared.arrays.programs, self._images.batch(0)
        step = self._step(prepared.variant).load(
            tables, state, programs, self._resident, batch, key
        )
        started = time.perf_counter()
        for number in range(steps):
            batch = self._images.batch(number)
            key, step_key = jax.random.split(key)
            tables, state = step(tables, state, programs, self._resident, batch, step_key)
        jax.block_until_ready(tables)
        seconds = time.perf_counter() - started
        top1, _, _ = score_images(prepared, tables, images)
        return SgdResult(net.split, net.index, net.name, top1, steps, seconds, net.fingerprint)

    def _step(self, variant: Variant) -> CachedFunction:
        def step(tables, state, programs, resident, batch, key):
            image_key, head_key = jax.random.split(key)
            pixels, labels = self._images.load(resident, batch, image_key)

            def loss(tables):
                return run.mean_loss(variant, tables, programs, pixels, labels, head_key)

            grads, _ = jax.grad(loss, has_aux=True)(tables)
            updates, state = self._optimiser.update(grads, state, tables)
            return optax.apply_updates(tables, updates), state

        jit = functools.partial(jax.jit, donate_argnums=(0, 1))
        return CachedFunction(step, (self._key, variant), "steps of SGD", jit=jit)


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
      nets: networks that the executor can train.
      steps: updates of each.
      seed: of initialisation and augmentation.
      results_path: JSONL file of results; those that it has already are not computed again.
      progress: called after each network that is trained.

    Returns:
      One result per network, in the order of `nets`.

    Raises:
      ValueError: the executor cannot train a network, or `results_path` holds other results.
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
        result = kept.get(net) if kept else None
        if result is None:
            result = trainer.train(images, net, steps, seed)
            if kept:
                kept.add(result)
            if progress:
                progress(result)
        results.append(result)
    return tuple(results)
