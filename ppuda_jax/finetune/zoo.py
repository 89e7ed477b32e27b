"""Trains many networks, and keeps them as teachers."""

import concurrent.futures
import dataclasses
import math
import os
import pathlib
import threading
from collections.abc import Callable, Sequence

import jax

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import Init
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.teachers.record import SUFFIX, TeacherRecord, save_teacher

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


def train_zoo(
    folder: str | os.PathLike[str],
    nets: Sequence[EvalNet],
    init: Init,
    init_name: str,
    images: Callable[[int], TrainingImages],
    held_out: EvalImages,
    recipe: Recipe,
    *,
    steps: int,
    seeds: int = 1,
    at_once: int = 1,
    progress: Callable[[int, int, Ended], None] | None = None,
) -> tuple[Ended, ...]:
    """Trains networks of DeepNets-1M and stores each in a file of its own.

    What is in the folder already is not trained again; a network that diverges is noted in the
    index, has no file, and the others go on.

    Args:
      folder: see `teachers.store`.
      nets: the networks.
      init: where training starts.
      init_name: its name.
      images: training images by seed, in the recipe's batch size.
      held_out: what accuracies are of.
      recipe: how networks are trained.
      steps: updates of each.
      seeds: trainings of each network, from seed 0.
      at_once: networks trained side by side.
      progress: called after each training as (done, in all, newest).

    Returns:
      One result per network and seed.

    Raises:
      ValueError: nothing to train, hand-made models, or a folder of networks that were trained
        otherwise.
    """
    plain = [net.name for net in nets if net.plan is None]
    if plain or not nets or seeds < 1 or at_once < 1:
        raise ValueError(
            f"a zoo has networks of DeepNets-1M, at least one with one seed, received "
            f"{len(nets)} networks, seeds={seeds}, at_once={at_once}"
            + (f", among them {', '.join(plain)}, which are hand-made" if plain else "")
        )
    place = pathlib.Path(folder).expanduser()
    spec = images(0).spec
    identity = {
        "dataset": spec.to_metadata(),
        "init": init_name,
        "steps": steps,
        "recipe": dataclasses.asdict(recipe),
        "part": held_out.part,
        "num_images": held_out.num_images,
    }
    kept = ResultFile(place / INDEX, identity, Ended)
    total, lock, x64 = len(nets) * seeds, threading.Lock(), bool(jax.config.read("jax_enable_x64"))
    done: list[Ended] = []

    def one(net: EvalNet, seed: int) -> Ended:
        with jax.enable_x64(x64):
            ended = kept.get((*net.key, seed))
            if ended is None or not (
                ended.diverged_at is not None or (place / ended.file).exists()
            ):
                ended = train(net, seed)
        with lock:
            if kept.get(ended.key) != ended:
                kept.add(ended)
            done.append(ended)
            if progress is not None:
                progress(len(done), total, ended)
        return ended

    def train(net: EvalNet, seed: int) -> Ended:
        network = best_way(net, recipe)
        own = images(seed)
        curve = fit(network, init(network, seed), own, held_out, recipe, steps=steps, seed=seed)
        last, file = curve.points[-1], ""
        if curve.diverged_at is None and math.isfinite(last.loss):
            record = TeacherRecord(
                split=net.split,
                index=net.index,
                config=net.config.to_dict() if net.config is not None else {},
                dataset=spec.to_metadata(),
                seed=seed,
                steps=steps,
                epochs=steps * recipe.batch_size / own.num_images,
                accuracy=curve.final,
                part=held_out.part,
                init=init_name,
                recipe=dataclasses.asdict(recipe),
            )
            leaves = record.plan.in_order(network.unpack(curve.params))
            file = save_teacher(place, record, leaves).name
        return Ended(
            *(*net.key, seed),
            file,
            curve.points[0].accuracy,
            curve.final,
            None if file else curve.diverged_at or steps,
            last.seconds,
        )

    pairs = [(net, seed) for seed in range(seeds) for net in nets]
    with concurrent.futures.ThreadPoolExecutor(at_once, "zoo") as pool:
        jobs = [pool.submit(one, *pair) for pair in pairs]
        try:
            return tuple(job.result() for job in jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def forgotten(folder: str | os.PathLike[str], found: Sequence[Ended]) -> list[str]:
    """Names of networks in a folder that are not among the results: of other runs."""
    known = {ended.file for ended in found}
    paths = pathlib.Path(folder).expanduser().glob(f"*{SUFFIX}")
    return sorted(path.name for path in paths if path.name not in known)
