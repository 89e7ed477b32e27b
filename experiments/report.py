"""What a training run is worth: table, picture and next commands at the end of `train --report`."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppuda_jax.archs.sampling import arch_rng, sample_arch
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation import (
    EvalImages,
    EvalNet,
    EvalSettings,
    Parameters,
    evaluate_archs,
    he,
    lecun,
    load_eval_images,
    predicted,
)
from ppuda_jax.evaluation.results import mean_and_error
from ppuda_jax.finetune.curve import Curve, Point
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import he as he_init
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import Progress
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.metrics import read_metrics
from ppuda_jax.training.task import Task, TrainResult
from ppuda_jax.visualization import draw_run

from . import flags

_MAX_VARIANTS = 4
_CANDIDATES = 4000
_SGD_SECONDS = 30.0  # an epoch that would take longer is measured on its first steps
_PROBE = 3  # steps that say how long one takes
_SGD_WEIGHT = 4  # of the bar: training a network and evaluating it twice


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was measured; accuracies are fractions.

    Attributes:
      nets: the networks.
      trained, before: predicted by the run's hypernetwork and by the one that it began with.
      he, lecun: random parameters of the first networks.
      at_once: those networks after SGD for as long as a prediction takes.
      epoch: and after the epoch, or the part of it that was measured.
      fraction: that part.
      predict_s: seconds to predict a network.
    """

    nets: tuple[EvalNet, ...]
    trained: list[float]
    before: list[float]
    he: list[float]
    lecun: list[float]
    at_once: list[Point]
    epoch: list[Point]
    fraction: float
    predict_s: float


def training_report(
    settings: TrainConfig,
    task: Task,
    result: TrainResult,
    *,
    num_nets: int = 16,
    sgd_nets: int = 3,
    max_images: int = 256,
) -> str:
    """Compares predicted parameters with chance, random initialisation and SGD.

    Args:
      settings: the run.
      task: what it trained; `task.theta` is what it began with.
      result: how it ended.
      num_nets: architectures of the test split, which training never sees.
      sgd_nets: how many of them are drawn at random and trained for comparison.
      max_images: test images.

    Returns:
      The table, where the picture is, and what to do next.
    """
    spec = task.images.spec
    images = load_eval_images(
        spec.name,
        "test",
        settings.data_dir,
        image_size=spec.image_size,
        max_images=max_images,
        batch_size=settings.batch_size,  # what training compiled is used again
    )
    nets = unseen_networks(settings, task, num_nets)
    with compilation_cache(settings.compilation_cache):
        found = _compare(
            settings, task, trained_theta(settings, result.theta), nets, images, sgd_nets
        )
    lines = [
        f"{len(nets)} architectures of the test split that training never saw, "
        f"{images.num_images} test images of {spec.name}:",
        "",
        _table(found, spec.num_classes),
        "",
        _times(found, result.seconds),
    ]
    if settings.workdir is not None:
        path = pathlib.Path(settings.workdir).expanduser() / "report.png"
        _draw(found, settings, spec.num_classes, path)
        lines += [f"Picture: {path}", "", *next_commands(settings)]
    return flags.report(*lines)


def unseen_networks(settings: TrainConfig, task: Task, num: int) -> tuple[EvalNet, ...]:
    """Networks of the test split, at the widths of training, of its most frequent variants."""
    surveys = [task.networks.survey(i) for i in range(settings.probe_archs)]
    counts = collections.Counter(survey.variant for survey in surveys)  # ties by first seen
    limit = min(settings.max_variants or _MAX_VARIANTS, _MAX_VARIANTS)
    variants = [variant for variant, _ in counts.most_common(limit)]
    split, spec = dataclasses.replace(SPLITS["test"], width="training"), task.images.spec
    found = []
    for index in range(_CANDIDATES):
        config = sample_arch(arch_rng(split, index), split, spec.image_size)
        net = EvalNet("test", index, config, None, spec.num_classes, spec.image_size)
        if net.variant in variants:
            found.append(net)
        if len(found) == num:
            break
    return tuple(found)


def _compare(
    settings: TrainConfig,
    task: Task,
    theta: Any,
    nets: tuple[EvalNet, ...],
    images: EvalImages,
    sgd_nets: int,
) -> Comparison:
    config = GHNConfig.from_dict(task.record["ghn"])
    run = EvalSettings(
        compute_dtype=settings.compute_dtype,
        num_devices=settings.num_devices,
        driver=settings.driver,
    )
    few = nets[:sgd_nets]
    total = 2 * len(nets) + (2 + _SGD_WEIGHT) * len(few)
    bar, done = Progress("evaluating"), 0

    def move(by: int = 1) -> None:
        nonlocal done
        done += by
        bar.move(done / total)

    def evaluate(parameters: Parameters, chosen: tuple[EvalNet, ...]):
        return evaluate_archs(parameters, chosen, images, settings=run, progress=lambda *_: move())

    try:
        trained = evaluate(predicted(LoadedGHN(config, theta)), nets)
        before = evaluate(predicted(LoadedGHN(config, task.theta)), nets)
        random = [evaluate(draw(), few) for draw in (he, lecun)]
        # The first predictions compile.
        predict_s = float(np.median([result.predict_s for result in (*trained, *before)]))
        at_once, epoch, fraction = _train_some(settings, task.images, images, few, predict_s, move)
    finally:
        bar.close()
    return Comparison(
        nets,
        [result.top1 for result in trained],
        [result.top1 for result in before],
        *([result.top1 for result in results] for results in random),
        at_once,
        epoch,
        fraction,
        predict_s,
    )


def _train_some(
    settings: TrainConfig,
    images: TrainingImages,
    held_out: EvalImages,
    nets: Sequence[EvalNet],
    predict_s: float,
    move: Callable[[int], None],
) -> tuple[list[Point], list[Point], float]:
    """Trains networks as long as a prediction takes, and for an epoch or what fits of it."""
    recipe = Recipe(schedule="constant", batch_size=settings.batch_size)

    def train(net: EvalNet, steps: int, stops: Sequence[int]) -> Curve:
        network = best_way(net, recipe, settings.driver)
        start = he_init()(network, 0)
        return fit(network, start, images, held_out, recipe, steps=steps, every=stops)

    per_step = train(nets[0], _PROBE, ()).points[-1].seconds / _PROBE
    whole = -(-images.num_images // recipe.batch_size)
    at_once = max(1, int(predict_s / per_step))
    steps = max(at_once + 1, min(whole, int(_SGD_SECONDS / per_step)))
    points = []
    for net in nets:
        points.append(train(net, steps, (at_once,)).points[1:])
        move(_SGD_WEIGHT)
    first, last = (list(column) for column in zip(*points, strict=True))
    return first, last, steps / whole


def _table(found: Comparison, num_classes: int) -> str:
    at_once, epoch = (
        [point.accuracy for point in points] for points in (found.at_once, found.epoch)
    )
    rows = (
        ("random, He's normal", found.he),
        ("random, LeCun's normal (Flax's default)", found.lecun),
        (f"SGD for as long as a prediction takes ({_steps(found.at_once)})", at_once),
        (f"SGD for {_part(found.fraction)} ({_steps(found.epoch)})", epoch),
        ("predicted by the GHN that the run began with", found.before),
        ("predicted by the GHN of this run", found.trained),
    )
    lines: list[tuple[object, ...]] = [("chance", f"{100 / num_classes:.1f}", None, None, None)]
    for label, values in rows:
        mean, error = mean_and_error([100 * value for value in values])
        worst, best = (f"{100 * value:.1f}" for value in (min(values), max(values)))
        lines.append((label, f"{mean:.1f} ± {error:.1f}", worst, best, len(values)))
    header = ("parameters", "top-1, % ± SE", "worst", "best", "networks")
    return flags.table(header, lines)


def _steps(points: Sequence[Point]) -> str:
    steps = points[0].step
    return f"{steps} step" + ("s" if steps > 1 else "")


def _part(fraction: float) -> str:
    return "one epoch" if fraction >= 1 else f"{fraction:.2f} epochs"


def _times(found: Comparison, trained_s: float) -> str:
    epoch = mean_and_error([point.seconds for point in found.epoch])[0] / min(1.0, found.fraction)
    return (
        f"Predicting all parameters of a network takes {found.predict_s:.2f} s, an epoch of SGD "
        f"{epoch:.1f} s ({epoch / found.predict_s:.0f} times as long). Training the GHN took "
        f"{trained_s:.0f} s, as long as {trained_s / epoch:.0f} epochs of SGD for one network."
    )


def _draw(found: Comparison, settings: TrainConfig, num_classes: int, path: pathlib.Path) -> None:
    sgd = np.full(len(found.nets), math.nan)
    sgd[: len(found.epoch)] = [point.accuracy for point in found.epoch]
    draw_run(
        read_metrics(settings.workdir or ""),
        {
            "predicted by the GHN of this run": found.trained,
            "predicted by the GHN that it began with": found.before,
            f"SGD for {_part(found.fraction)}, {len(found.epoch)} of them": sgd,
        },
        1 / num_classes,
        path,
        f"{len(found.nets)} architectures that training never saw",
    )


def next_commands(settings: TrainConfig) -> list[str]:
    """What to do with the run, as lines for a shell."""
    data = f" --data_dir={settings.data_dir}" if settings.data_dir else ""
    checkpoint = f"--checkpoint={settings.workdir}{data}"
    train = f"--dataset={settings.dataset}{data} --model={settings.model}"
    return [
        "Predict a network of your own (edit experiments/own_network.py), evaluate, train on:",
        f"python -m experiments.predict {checkpoint} --model=experiments.own_network:build "
        f"--evaluate",
        f"python -m experiments.evaluate {checkpoint} --split=test --num_nets=10 --max_images=320",
        f"python -m experiments.train {train} --init_from={settings.workdir} "
        f"--workdir={settings.workdir}-longer",
    ]


def trained_theta(settings: TrainConfig, theta: Any) -> Any:
    """The best checkpoint's parameters if the run chose one by evaluation, else the last."""
    if settings.eval_every and settings.workdir is not None:
        return load_ghn(settings.workdir).theta
    return theta
