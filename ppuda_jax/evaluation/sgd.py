"""SGD from random initialisation, the baseline that predicted parameters are compared with.

Networks are trained through the executor, on their tables of parameters, so that all networks of
a variant share one compiled step. The settings are the paper's for CIFAR-10 (appendix C.1):
momentum 0.9, learning rate 0.025, weight decay 3e-4, gradients clipped at norm 5.

Legend: `b` images of a batch.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.evaluator import Evaluator
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.evaluation.runners import he_params
from ppuda_jax.executor import run
from ppuda_jax.executor.layout import Variant


@dataclasses.dataclass(frozen=True)
class SgdResult:
    """A network after training from scratch.

    Attributes:
      split: of the network.
      index: its number there.
      name: its name.
      top1: accuracy on the evaluator's images.
      steps: updates.
      train_s: seconds of training, compilation excluded.
    """

    split: str
    index: int
    name: str
    top1: float
    steps: int
    train_s: float


class SgdTrainer:
    """Compiled training steps, one per executor variant.

    Attributes:
      settings: of the optimiser.
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
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          images: training images; their batch size is the steps'.
          learning_rate: constant.
          momentum: of the heavy ball.
          weight_decay: L2 penalty, added to the gradient.
          grad_clip: global norm.
        """
        self.settings = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
        }
        self.batch_size = jax.tree.leaves(images.batch(0))[0].shape[0]
        self.epoch = -(-images.num_images // self.batch_size)
        self._images = images
        self._resident = jax.tree.map(jnp.asarray, images.resident)
        self._optimiser = optax.chain(
            optax.clip_by_global_norm(grad_clip),
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, momentum),
        )
        self._steps: dict[Variant, Any] = {}

    def train(self, evaluator: Evaluator, net: EvalNet, steps: int, seed: int = 0) -> SgdResult:
        """Trains a network from He's initialisation, and evaluates it.

        Args:
          evaluator: what it is evaluated on.
          net: a network that the executor can train.
          steps: updates.
          seed: of initialisation and augmentation.

        Raises:
          ValueError: the executor cannot train the network, or has no memory for it.
        """
        reason = evaluator.why_not_trained(net, self.batch_size)
        if reason is not None:
            raise ValueError(f"{net.name} cannot be trained through the executor: {reason}")
        runner, _ = evaluator.runner_of(net)
        arrays = runner.prepare(net)
        tables = runner.pack(net, he_params(net.plan, seed))
        state = self._optimiser.init(tables)
        key = jax.random.key(seed)
        batch = self._images.batch(0)
        args = (tables, state, arrays.programs, self._resident, batch, key)
        if net.variant not in self._steps:
            step = jax.jit(self._make_step(net.variant), donate_argnums=(0, 1))
            self._steps[net.variant] = step.lower(*args).compile()
        started = time.perf_counter()
        for number in range(steps):
            batch = self._images.batch(number)
            key, step_key = jax.random.split(key)
            tables, state = self._steps[net.variant](
                tables, state, arrays.programs, self._resident, batch, step_key
            )
        jax.block_until_ready(tables)
        seconds = time.perf_counter() - started
        top1, _, _ = evaluator.score(lambda batch: runner.score(tables, arrays, batch))
        return SgdResult(net.split, net.index, net.name, top1, steps, seconds)

    def _make_step(self, variant: Variant) -> Any:
        def step(tables, state, programs, resident, batch, key):
            image_key, head_key = jax.random.split(key)
            pixels, labels = self._images.load(resident, batch, image_key)

            def loss(tables):
                return run.mean_loss(variant, tables, programs, pixels, labels, head_key)

            grads, _ = jax.grad(loss, has_aux=True)(tables)
            updates, state = self._optimiser.update(grads, state, tables)
            return optax.apply_updates(tables, updates), state

        return step


def train_archs(
    trainer: SgdTrainer,
    evaluator: Evaluator,
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
      evaluator: what they are evaluated on.
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
            **evaluator.identity(),
        }
        kept = ResultFile(results_path, identity, SgdResult)
    results = []
    for net in nets:
        result = kept.get(net.split, net.index) if kept else None
        if result is None:
            result = trainer.train(evaluator, net, steps, seed)
            if kept:
                kept.add(result)
            if progress:
                progress(result)
        results.append(result)
    return tuple(results)
