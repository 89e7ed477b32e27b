"""Evaluation during training: unseen architectures on validation images choose the best theta."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppuda_jax.evaluation.evaluate import EvalSettings, evaluate_archs
from ppuda_jax.evaluation.images import load_eval_images
from ppuda_jax.evaluation.networks import EvalNet, choose_networks
from ppuda_jax.evaluation.parameters import predicted
from ppuda_jax.evaluation.results import summarise
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN


def validation_hook(
    config: GHNConfig,
    dataset: str,
    data_dir: str | None = None,
    *,
    num_nets: int = 16,
    max_images: int | None = 640,
    max_variants: int | None = 4,
    image_size: int | None = None,
    settings: EvalSettings | None = None,
) -> Callable[[Any, int], Mapping[str, float]]:
    """Makes what `training.task.Task.evaluate` takes: unseen networks on validation images.

    Images are loaded at once, so that what is wrong with them is said before a run starts; networks
    are compiled at the first call, and used again by later ones.

    Args:
      config: the hypernetwork.
      dataset: name of the dataset.
      data_dir: where it is.
      num_nets: networks of the val split.
      max_images: validation images; all of them if None.
      max_variants: executor variants that the networks may have (see `choose_networks`).
      image_size: see `load_eval_images`.
      settings: how networks are run.

    Returns:
      Function of (theta, step) that returns `val_accuracy`, its standard error, and others.
    """
    images = load_eval_images(
        dataset, "val", data_dir, image_size=image_size, max_images=max_images
    )

    settings = settings or EvalSettings()
    images = images.spread(settings.topology)

    @functools.cache
    def nets() -> tuple[EvalNet, ...]:
        return choose_networks(
            "val",
            num_nets,
            num_classes=images.spec.num_classes,
            image_size=images.spec.image_size,
            max_variants=max_variants,
        )

    def evaluate(theta: Any, step: int) -> Mapping[str, float]:
        del step
        started = time.monotonic()
        ghn = LoadedGHN(config, jax.device_get(theta), "validation")
        results = evaluate_archs(predicted(ghn), nets(), images, settings=settings)
        summary = summarise(results)
        return {
            "val_accuracy": summary.top1,
            "val_accuracy_se": summary.top1_se,
            "val_accuracy_max": summary.top1_max,
            "val_top5": summary.top5,
            "val_not_finite": summary.not_finite,
            "val_seconds": round(time.monotonic() - started, 3),
        }

    return evaluate
