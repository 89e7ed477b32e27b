"""Trainings that are done once: each is a line of a file, from which interrupted work continues."""

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.finetune.curve import Curve, Point
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Params, Trainable
from ppuda_jax.finetune.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training; a line of a file.

    Attributes:
      split: of the network.
      index: its number there.
      fingerprint: see `EvalNet.fingerprint`.
      init: name of the initialisation.
      optimizer: of optax.
      learning_rate: at the start.
      seed: of initialisation, augmentation and order.
      curve: see `Curve.to_dict`.
    """

    split: str
    index: int
    fingerprint: str
    init: str
    optimizer: str
    learning_rate: float
    seed: int
    curve: Mapping[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the others."""
        network = (self.split, self.index, self.fingerprint)
        return (*network, self.init, self.optimizer, self.learning_rate, self.seed)

    @property
    def last(self) -> Point:
        """The last evaluation."""
        return Curve.from_dict(self.curve).points[-1]


class Trainings:
    """Trains networks at one budget; a training that its file has is not done again.

    For any number of threads.
    """

    def __init__(
        self,
        images: Callable[[int], TrainingImages],
        recipes: Mapping[str, Recipe],
        *,
        steps: int,
        every: int | Sequence[int] | None = None,
        path: str | os.PathLike[str] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the file; trains nothing.

        Args:
          images: training images by seed, in the recipes' batch size.
          recipes: by the name of the optimiser.
          steps: updates of each training.
          every: see `fit`.
          path: JSONL file of trainings.
          identity: what else decides the results, for the file; JSON-ready.

        Raises:
          ValueError: the file is of other trainings.
        """
        self._images, self._recipes, self._lock = images, recipes, threading.Lock()
        self._steps, self._every, self._file = steps, every, None
        if path is not None:
            told = {**(identity or {}), "steps": steps, "every": every}
            told |= {"recipes": {name: dataclasses.asdict(r) for name, r in recipes.items()}}
            self._file = ResultFile(path, told, Trained)

    def train(
        self,
        net: EvalNet,
        network: Trainable,
        init: str,
        start: Callable[[], Params],
        optimizer: str,
        held_out: EvalImages,
        *,
        rate: float | None = None,
        seed: int = 0,
    ) -> Trained:
        """Trains a network.

        Args:
          net: which one.
          network: what trains it.
          init: name of where it starts.
          start: makes the parameters that it starts from; called if it is trained.
          optimizer: name of a recipe.
          held_out: what the curve is measured on.
          rate: learning rate at the start, instead of the recipe's.
          seed: of augmentation and order.
        """
        recipe = self._recipes[optimizer]
        if rate is not None:
            recipe = dataclasses.replace(recipe, learning_rate=rate)
        network_key = net.split, net.index, net.fingerprint
        done = Trained(*network_key, init, optimizer, recipe.learning_rate, seed, {"points": []})
        known = self._file.get(done.key) if self._file else None
        if known is not None:
            return known
        with self._lock:  # threads that want the same images wait for one of them to load these
            images = self._images(seed)
        curve = fit(
            network,
            start(),
            images,
            held_out,
            recipe,
            steps=self._steps,
            every=self._every,
            seed=seed,
        )
        done = dataclasses.replace(done, curve=curve.to_dict())
        if self._file:
            with self._lock:
                self._file.add(done)
        return done
