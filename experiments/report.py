"""What a training run is worth: the table at the end of `experiments.train --report`."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ppuda_jax.archs.sampling import arch_rng, sample_arch
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.evaluation import (
    EvalImages,
    EvalNet,
    EvalSettings,
    NetResult,
    evaluate_archs,
    he,
    load_eval_images,
    predicted,
    summarise,
)
from ppuda_jax.evaluation.results import mean_and_error
from ppuda_jax.evaluation.sgd import SgdResult, SgdTrainer
from ppuda_jax.executor.layout import Variant
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.task import Task

_MAX_VARIANTS = 2
_CANDIDATES = 4000
_SGD_SECONDS = 30.0  # an epoch that would take longer is measured on its first steps


def trained_variants(settings: TrainConfig, task: Task) -> tuple[Variant, ...]:
    """The most frequent executor variants of the run, those that it was restricted to first."""
    surveys = [task.networks.survey(i) for i in range(settings.probe_archs)]
    counts = collections.Counter(survey.variant for survey in surveys)  # ties by first seen
    limit = min(settings.max_variants or _MAX_VARIANTS, _MAX_VARIANTS)
    return tuple(variant for variant, _ in counts.most_common(limit))


def unseen_networks(
    variants: Sequence[Variant], num: int, num_classes: int, image_size: int
) -> tuple[EvalNet, ...]:
    """Networks of the test split, at the widths of training, that have one of the variants."""
    split = dataclasses.replace(SPLITS["test"], width="training")
    found = []
    for index in range(_CANDIDATES):
        config = sample_arch(arch_rng(split, index), split, image_size)
        net = EvalNet("test", index, config, num_classes=num_classes, image_size=image_size)
        if net.variant in variants:
            found.append(net)
        if len(found) == num:
            break
    return tuple(found)


def training_report(
    settings: TrainConfig,
    task: Task,
    theta: Any,
    *,
    num_nets: int = 16,
    sgd_nets: int = 2,
    max_images: int = 320,
) -> str:
    """Compares predicted parameters with chance, random initialisation and an epoch of SGD.

    Args:
      settings: the run.
      task: what it trained; `task.theta` are the untrained parameters.
      theta: the trained parameters.
      num_nets: architectures of the test split, which training never sees.
      sgd_nets: how many of them are trained from scratch for comparison.
      max_images: test images.

    Returns:
      The table.
    """
    spec = task.images.spec
    config = GHNConfig.from_dict(task.record["ghn"])
    images = load_eval_images(
        spec.name, "test", settings.data_dir, image_size=spec.image_size, max_images=max_images
    )
    variants = trained_variants(settings, task)
    nets = unseen_networks(variants, num_nets, spec.num_classes, spec.image_size)
    run = EvalSettings(compute_dtype=settings.compute_dtype, num_devices=settings.num_devices)
    random, untrained, trained = (
        evaluate_archs(parameters, nets, images, settings=run)
        for parameters in (
            he(),
            predicted(LoadedGHN(config, task.theta)),
            predicted(LoadedGHN(config, theta)),
        )
    )
    epoch = math.ceil(task.images.num_images / settings.batch_size)
    trainer = SgdTrainer(task.images, run_settings=run)
    sgd, fraction = _train_some(trainer, images, nets[:sgd_nets], epoch)
    return _format(spec, images.num_images, nets, random, untrained, trained, sgd, fraction)


def _train_some(
    trainer: SgdTrainer, images: EvalImages, nets: Sequence[EvalNet], epoch: int
) -> tuple[list[SgdResult], float]:
    """Trains networks for an epoch, or for the part of it that fits; returns that part."""
    probe = trainer.train(images, nets[0], 4)
    per_step = probe.train_s / probe.steps
    steps = max(4, min(epoch, int(_SGD_SECONDS / per_step)))
    return [trainer.train(images, net, steps) for net in nets], steps / epoch


def _format(
    spec: Any,
    num_images: int,
    nets: Sequence[EvalNet],
    random: Sequence[NetResult],
    untrained: Sequence[NetResult],
    trained: Sequence[NetResult],
    sgd: Sequence[SgdResult],
    fraction: float,
) -> str:
    lines = [
        f"{len(nets)} architectures of the test split, never seen in training; {num_images} test "
        f"images of {spec.name}; top-1 in %",
        f"{'':<34}{'mean ± SE':>14}{'max':>8}",
        f"{'chance':<34}{100 / spec.num_classes:>14.1f}{'':>8}".rstrip(),
    ]
    rows = (
        ("random initialisation", random),
        ("predicted by the GHN it began with", untrained),
        ("predicted by the trained GHN", trained),
    )
    for label, results in rows:
        s = summarise(results)
        cell = f"{100 * s.top1:.1f} ± {100 * s.top1_se:.1f}"
        lines.append(f"{label:<34}{cell:>14}{100 * s.top1_max:>8.1f}")
    mean, error = mean_and_error([result.top1 for result in sgd])
    part = "1 epoch" if fraction >= 1 else f"{fraction:.2f} epoch"
    label = f"SGD, {part} ({len(sgd)} of them)"
    cell, best = f"{100 * mean:.1f} ± {100 * error:.1f}", max(result.top1 for result in sgd)
    lines.append(f"{label:<34}{cell:>14}{100 * best:>8.1f}")
    predict = summarise(trained).predict_s
    epoch = mean_and_error([result.train_s for result in sgd])[0] / min(1.0, fraction)
    lines.append(
        f"Predicting all parameters of a network takes {predict:.3f} s, one epoch of SGD "
        f"{epoch:.1f} s: {epoch / predict:.0f} times as long."
    )
    return "\n".join(lines)


def trained_theta(settings: TrainConfig, theta: Any) -> Any:
    """The best checkpoint's parameters if the run chose one by evaluation, else the last."""
    if settings.eval_every and settings.workdir is not None:
        return load_ghn(settings.workdir).theta
    return theta
