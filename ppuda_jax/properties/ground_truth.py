"""What networks are truly worth: each is trained at one budget and measured (paper, section 5.4).

Accuracy on clean and on noisy images, the time of a pass over them, and how early in the run the
network has learned its training images. Published budgets are 50 epochs of CIFAR-10 and one of
ImageNet; any other one gives another truth.

Legend: `n` networks.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
import numpy as np

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.evaluation.runners import UnfitError
from ppuda_jax.finetune.curve import Curve
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.programs import NoRoomError

NEVER = 2.0
"""Convergence of a network that never reaches the target, as in the published results."""

NOISE: Mapping[int, float] = MappingProxyType({32: 0.08, 224: 0.18})
"""Published standard deviation of the noise by image size, on pixels in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Property:
    """How a property is told to regressors and readers.

    Attributes:
      unit: its unit in tables and for regressors.
      scale: units per 1 of what is measured.
      rounded: whether predictions are rounded to integers in that unit, as published.
      larger_is_better: of the property.
    """

    unit: str
    scale: float
    rounded: bool
    larger_is_better: bool


PROPERTIES: Mapping[str, Property] = MappingProxyType(
    {
        "clean_accuracy": Property("%", 100.0, True, True),
        "noisy_accuracy": Property("%", 100.0, True, True),
        "inference_time": Property("ms", 1000.0, True, False),
        "convergence": Property("share of the run", 1.0, False, False),
    }
)
"""The paper's four properties. Its times are of 5,000 images and in seconds."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A network after training; a line of the file.

    Attributes:
      split: of the network.
      index: its number there.
      fingerprint: see `EvalNet.fingerprint`.
      num_params: trainable scalars.
      clean_accuracy: share of the clean images that is right; None if training failed.
      noisy_accuracy: of the noisy ones, likewise.
      inference_time: seconds for a pass over the clean images, the faster of two.
      curve: accuracy on training images against steps, see `Curve.to_dict`.
      failure: why there is nothing, empty if there is.
    """

    split: str
    index: int
    fingerprint: str
    num_params: int
    clean_accuracy: float | None
    noisy_accuracy: float | None
    inference_time: float | None
    curve: Mapping[str, Any]
    failure: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from the others."""
        return self.split, self.index, self.fingerprint

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.split}-{self.index}"

    def convergence(self, target: float) -> float:
        """Share of the run after which training images are right that often; `NEVER` if not."""
        curve = Curve.from_dict(self.curve)
        steps = curve.steps_to(target)
        return steps / float(curve.steps[-1]) if math.isfinite(steps) else NEVER


@dataclasses.dataclass(frozen=True)
class Images:
    """What networks are trained and measured on.

    Attributes:
      train: training images, in batches of the recipe's size.
      learned: training images that the curve is measured on, as they are.
      clean: held-out images.
      noisy: the same with noise.
    """

    train: TrainingImages
    learned: EvalImages
    clean: EvalImages
    noisy: EvalImages

    def __post_init__(self) -> None:
        if self.noisy.noise <= 0 or self.clean.noise > 0:
            raise ValueError(
                "noisy images need noise and clean ones none, received standard deviations "
                f"{self.noisy.noise} and {self.clean.noise}"
            )


def ground_truth(
    nets: Sequence[EvalNet],
    images: Images,
    recipe: Recipe,
    *,
    steps: int,
    every: int | None = None,
    seed: int = 0,
    driver: Literal["auto", "host", "executor"] = "auto",
    results_path: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Measured], None] | None = None,
) -> tuple[Measured, ...]:
    """Trains networks from He's initialisation and measures them.

    Args:
      nets: n networks.
      images: what they are trained and measured on.
      recipe: how they are trained.
      steps: updates of each.
      every: steps between evaluations of the curve; a fifth of the steps by default.
      seed: of initialisation, augmentation and dropout.
      driver: see `best_way`.
      results_path: JSONL file; what it has is not measured again, except for networks that there
        was no room for.
      identity: what else decides the results, for the file; JSON-ready.
      progress: called after each network as (done, n, newest).

    Returns:
      One record per network, in order. A network whose loss was not finite, or that does not fit
      into memory, has the reason in `failure`.

    Raises:
      ValueError: fewer than one step, or a file of other results.
    """
    every = every or max(1, steps // 5)
    kept = None
    if results_path is not None:
        told = {
            **(identity or {}),
            "dataset": images.clean.spec.fingerprint,
            "images": [images.learned.num_images, images.clean.num_images],
            "eval_batch_size": images.clean.batch_size,
            "part": images.clean.part,
            "noise": images.noisy.noise,
            "recipe": dataclasses.asdict(recipe),
            "steps": steps,
            "every": every,
            "seed": seed,
        }
        kept = ResultFile(results_path, told, Measured)
    found: list[Measured] = []
    for net in nets:
        measured = kept.get(net.key) if kept else None
        if measured is None:
            measured, final = _measure(net, images, recipe, steps, every, seed, driver)
            if kept and final:
                kept.add(measured)
        found.append(measured)
        if progress:
            progress(len(found), len(nets), measured)
    return tuple(found)


def _measure(
    net: EvalNet,
    images: Images,
    recipe: Recipe,
    steps: int,
    every: int,
    seed: int,
    driver: Literal["auto", "host", "executor"],
) -> tuple[Measured, bool]:
    """The record, and whether measuring again would give the same."""
    num_params = 0 if net.plan is None else net.plan.num_params
    blank = Measured(
        net.split, net.index, net.fingerprint, num_params, None, None, None, {"points": []}
    )
    try:
        network = best_way(net, recipe, driver)
        start = network.pack(network.initial(seed))
        curve = fit(
            network,
            start,
            images.train,
            images.learned,
            recipe,
            steps=steps,
            every=every,
            seed=seed,
        )
        measured = dataclasses.replace(blank, curve=curve.to_dict())
        if curve.diverged_at is not None:
            reason = f"its loss was not finite at step {curve.diverged_at}"
            return dataclasses.replace(measured, failure=reason), True
        clean, _ = _accuracy(network, curve, images.clean)
        _, again = _accuracy(network, curve, images.clean)  # now everything is compiled
        noisy, seconds = _accuracy(network, curve, images.noisy)  # as many batches of one size
    except (UnfitError, NoRoomError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        return dataclasses.replace(blank, failure=reason or type(error).__name__), False
    if not math.isfinite(clean + noisy):
        return dataclasses.replace(measured, failure="its logits are not finite"), True
    return (
        dataclasses.replace(
            measured, clean_accuracy=clean, noisy_accuracy=noisy, inference_time=min(again, seconds)
        ),
        True,
    )


def _accuracy(network: Trainable, curve: Curve, images: EvalImages) -> tuple[float, float]:
    """Share of the images that is right, and the seconds that it took to find out."""
    started = time.perf_counter()
    sums = [
        network.score(curve.params, curve.state, b.images, b.labels, b.weights)
        for b in images.batches
    ]
    hits = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)[0]
    return float(hits / images.num_images), time.perf_counter() - started


def reached_by(measured: Sequence[Measured], share: float = 0.75) -> float:
    """The accuracy on training images that a share of the networks ends with or above.

    A target for convergence at a budget that is too small for the published one, 95 %.

    Raises:
      ValueError: no network was trained.
    """
    ends = [m.curve["points"][-1][1] for m in measured if not m.failure]
    if not ends:
        raise ValueError("no network was trained, so there is nothing that they reach")
    return float(np.quantile(ends, 1 - share, method="lower"))


def targets(name: str, measured: Sequence[Measured], target: float) -> np.ndarray:
    """A property of networks, in its unit.

    Args:
      name: one of `PROPERTIES`.
      measured: n networks without failures.
      target: accuracy on training images, for convergence.

    Returns:
      Float64 [n].

    Raises:
      ValueError: an unknown property, or a network that failed.
    """
    if name not in PROPERTIES:
        raise ValueError(f"property must be one of {', '.join(PROPERTIES)}, received {name!r}")
    failed = [m.name for m in measured if m.failure]
    if failed:
        raise ValueError(f"networks that failed have no properties: leave {failed} out")
    if name == "convergence":
        return np.array([m.convergence(target) for m in measured])
    return PROPERTIES[name].scale * np.array([getattr(m, name) for m in measured], np.float64)
