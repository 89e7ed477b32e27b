"""Training of one network in a folder: checkpoints, exact resume, metrics and a picture."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ppuda_jax import config
from ppuda_jax.checkpoints import CheckpointError, RunCheckpoints, read_record, read_tree
from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.finetune.curve import Curve
from ppuda_jax.finetune.fit import Snapshot, fit
from ppuda_jax.finetune.network import Params, Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.params_io import save_params
from ppuda_jax.runtime.progress import say
from ppuda_jax.training.metrics import MetricsLog
from ppuda_jax.visualization.comparisons import draw_comparison

PARAMS = "params"
"""Folder of the parameters at the end, for `params_io.load_params`."""


def train_in(
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any],
    network: Trainable,
    params: Params,
    images: TrainingImages,
    held_out: EvalImages,
    recipe: Recipe,
    *,
    steps: int,
    every: int,
    seed: int = 0,
) -> Curve:
    """Trains a network, and keeps in a folder what came of it.

    The folder gets `config.json`, checkpoints in `last/` of which the newest is gone on from,
    `metrics.jsonl` and `tensorboard/`, and at the end `curve.png` and the parameters with the
    other collections in `params/` (`params_io.load_params`).

    Args:
      folder: of this training alone.
      settings: what decides the result, JSON-ready; another session must have the same.
      network: what is trained.
      params: where it starts; not looked at if the folder has a checkpoint.
      images: training images.
      held_out: what the curve is measured on.
      recipe: how.
      steps: updates.
      every: steps between evaluations, each with a checkpoint.
      seed: of augmentation and dropout.

    Returns:
      The curve of all sessions.

    Raises:
      ValueError: the folder is of another training.
      CheckpointError: no checkpoint of it can be read, or one cannot be written.
    """
    root = pathlib.Path(folder).expanduser()
    saved = RunCheckpoints(root)
    settings = json.loads(json.dumps(dict(settings)))
    optimiser = recipe.make_optimiser()
    blank = Snapshot(params, jax.eval_shape(optimiser.init, params), network.state)
    start = saved.newest(functools.partial(_read, settings=settings, blank=blank), say)
    if start is None:
        _refuse_foreign(root, settings)
        config.write_atomic(root / "config.json", json.dumps(settings, indent=1) + "\n")
    log = MetricsLog(root, start.points[-1].step if start else 0)
    written = start.points[-1].step if start else -1

    def keep(now: Snapshot) -> None:
        nonlocal written
        newest = now.points[-1]
        log.advance(newest.step / steps, f"accuracy {newest.accuracy:.3f}")
        for point in now.points:
            if point.step > written:
                values = dataclasses.asdict(point)
                written = values.pop("step")
                known = {name: v for name, v in values.items() if np.isfinite(v)}
                log.write(written, {**known, "progress": written / steps})
        theta, run = _arrays(now)
        record = {"settings": settings, "curve": Curve(now.points).to_dict()}
        saved.save("last", written, theta, run, record)

    try:
        curve = fit(
            network,
            params,
            images,
            held_out,
            recipe,
            steps=steps,
            every=every,
            seed=seed,
            start=start,
            save=keep,
        )
        saved.wait()
    finally:
        log.close()
        saved.close()
    _write_end(root, network, curve, settings, 1 / held_out.spec.num_classes)
    return curve


def _read(folder: pathlib.Path, settings: Mapping[str, Any], blank: Snapshot) -> Snapshot:
    record = read_record(folder)
    if "curve" not in record:
        raise CheckpointError(f"{folder} is no checkpoint of the training of a network")
    _refuse_other(folder, record["settings"], settings)
    theta, run = _arrays(blank)
    found = _filled(blank.params, read_tree(folder / "theta", theta))
    optimiser, state = _filled((blank.optimiser, blank.state), read_tree(folder / "run", run))
    return Snapshot(found, optimiser, state, Curve.from_dict(record["curve"]).points)


def _arrays(now: Snapshot) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, the rest) as dicts of arrays by their place in the pytree."""
    parts = (now.params, (now.optimiser, now.state))
    params, rest = ({str(n): x for n, x in enumerate(jax.tree.leaves(part))} for part in parts)
    return params, rest


def _filled(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """The pytree with the leaves of `_arrays`."""
    count = len(jax.tree.leaves(tree))
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[str(n)] for n in range(count)])


def _refuse_other(
    folder: pathlib.Path, there: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    differing = config.differences(there, settings)
    if differing:
        raise ValueError(
            f"{folder} is of another training ({'; '.join(differing)}): choose another workdir, or "
            "remove it"
        )


def _refuse_foreign(root: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises ValueError if the folder was begun with other settings."""
    path = root / "config.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no configuration ({error})") from error
        _refuse_other(root, there, settings)


def _write_end(
    root: pathlib.Path,
    network: Trainable,
    curve: Curve,
    settings: Mapping[str, Any],
    chance: float,
) -> None:
    line = (curve.steps, curve.accuracy, np.zeros(len(curve.points)))
    label = f"{network.name}, {settings.get('init', 'given')}"
    draw_comparison(
        {str(settings.get("optimizer", "")): {label: line}}, chance, [root / "curve.png"]
    )
    if not (root / PARAMS).exists():
        new = root / f"new-{PARAMS}"
        shutil.rmtree(new, ignore_errors=True)  # of a killed session
        save_params(new, {"params": network.unpack(curve.params), **dict(curve.state)})
        new.rename(root / PARAMS)
