"""Trains many networks, and keeps them as teachers."""

import dataclasses
import functools
import itertools
import math
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.in_executor import Rooms, rooms_of
from ppuda_jax.finetune.inits import Init
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.side_by_side import side_by_side
from ppuda_jax.teachers.record import TeacherRecord, save_teacher

INDEX = "networks.jsonl"
"""File of a folder that says how each training ended, those that diverged included."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the training of a network ended; a line of the index.

    Attributes:
      split: of the network.
      index: its number there.
      fingerprint: see `EvalNet.fingerprint`.
      seed: of initialisation, order and augmentation.
      file: name of the file; empty if training diverged.
      start: accuracy before training.
      accuracy: at the end.
      diverged_at: step whose loss was not finite; None if there was none.
      seconds: of training, without compilation.
    """

    split: str
    index: int
    fingerprint: str
    seed: int
    file: str
    start: float
    accuracy: float
    diverged_at: int | None
    seconds: float

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What tells it from the others."""
        return self.split, self.index, self.fingerprint, self.seed


@dataclasses.dataclass(frozen=True)
class Zoo:
    """How networks are trained, and the folder that they are stored in.

    Attributes:
      folder: see `teachers.store`.
      init: where training starts.
      init_name: its name.
      images: training images by seed, in the recipe's batch size.
      held_out: what accuracies are of.
      recipe: how networks are trained.
      steps: updates of each.
    """

    folder: pathlib.Path
    init: Init
    init_name: str
    images: Callable[[int], TrainingImages]
    held_out: EvalImages
    recipe: Recipe
    steps: int

    def train(
        self,
        nets: Sequence[EvalNet],
        *,
        seeds: int = 1,
        at_once: int = 1,
        progress: Callable[[int, int, Ended], None] | None = None,
    ) -> tuple[Ended, ...]:
        """Trains networks of DeepNets-1M and stores each in a file of its own.

        What is in the folder already is not trained again; a network that diverges is noted in the
        index, has no file, and the others go on.

        Args:
          nets: the networks.
          seeds: trainings of each network, from seed 0.
          at_once: networks trained side by side.
          progress: called after each training as (done, in all, newest).

        Returns:
          One result per network and seed.

        Raises:
          ValueError: nothing to train, hand-made models, or a folder of networks that were trained
            otherwise.
        """
        hand_made = [net.name for net in nets if net.plan is None]
        if hand_made or not nets or seeds < 1 or at_once < 1:
            raise ValueError(
                f"a zoo has networks of DeepNets-1M, at least one with one seed, received "
                f"{len(nets)} networks, seeds={seeds}, at_once={at_once}, hand-made: "
                f"{', '.join(hand_made) or 'none'}"
            )
        kept = ResultFile(self.folder / INDEX, self._identity, Ended)
        lock, done = threading.Lock(), itertools.count(1)
        rooms = rooms_of(nets)

        def one(net: EvalNet, seed: int) -> Ended:
            ended = kept.get((*net.key, seed))
            known = ended is not None and self._is_whole(ended)
            ended = ended if ended is not None and known else self._train(net, seed, rooms)
            with lock:
                if not known:
                    kept.add(ended)
                if progress is not None:
                    progress(next(done), len(nets) * seeds, ended)
            return ended

        jobs = [functools.partial(one, net, seed) for seed in range(seeds) for net in nets]
        return tuple(side_by_side(jobs, at_once))

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "dataset": self.held_out.spec.to_metadata(),
            "init": self.init_name,
            "steps": self.steps,
            "recipe": dataclasses.asdict(self.recipe),
            "part": self.held_out.part,
            "num_images": self.held_out.num_images,
        }

    def _is_whole(self, ended: Ended) -> bool:
        """Whether a network need not be trained again."""
        return ended.diverged_at is not None or (self.folder / ended.file).exists()

    def _train(self, net: EvalNet, seed: int, rooms: Rooms) -> Ended:
        network, images = best_way(net, self.recipe, rooms=rooms), self.images(seed)
        curve = fit(
            network,
            self.init(network, seed),
            images,
            self.held_out,
            self.recipe,
            steps=self.steps,
            seed=seed,
        )
        first, last = curve.points[0], curve.points[-1]
        diverged_at = curve.diverged_at
        if diverged_at is None and not math.isfinite(last.loss):
            diverged_at = self.steps
        file = ""
        if diverged_at is None and net.config is not None:
            record = TeacherRecord(
                split=net.split,
                index=net.index,
                config=net.config.to_dict(),
                dataset=images.spec.to_metadata(),
                seed=seed,
                steps=self.steps,
                epochs=self.steps * self.recipe.batch_size / images.num_images,
                accuracy=curve.final,
                part=self.held_out.part,
                init=self.init_name,
                recipe=dataclasses.asdict(self.recipe),
            )
            leaves = record.plan.in_order(network.unpack(curve.params))
            file = save_teacher(self.folder, record, leaves).name
        scores = first.accuracy, curve.final, diverged_at, last.seconds
        return Ended(net.split, net.index, net.fingerprint, seed, file, *scores)
