"""How a hypernetwork was trained, in short: kept with a checkpoint that leaves its run's folder."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ppuda_jax import checkpoints, config
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.metrics import read_metrics

_POINTS = 60  # of a learning curve
_CURVE = ("step", "seconds", "loss", "accuracy")
# Places on a machine, which tell nothing about the training elsewhere.
_PLACES = frozenset(
    {"data_dir", "arch_file", "init_from", "teacher", "compilation_cache", "workdir"}
)


def with_history(ghn: LoadedGHN) -> LoadedGHN:
    """Adds to the metadata of a run's hypernetwork how it was trained.

    Args:
        ghn: as `checkpoints.load_ghn` returns it; its name says where it is.

    Returns:
        The same with `metadata["training"]`: a list of runs in their order, each with the settings
        that were not the defaults, `steps`, `networks` (architectures seen), `images` (per
        network, added up over steps), `seconds` and the learning `curve` (columns; medians of
        losses and means of accuracies between two points). Unchanged if it is not of a run.
    """
    folder = pathlib.Path(ghn.name).expanduser()
    if not (folder / "config.json").is_file():
        return ghn
    record = checkpoints.read_record(checkpoints.checkpoint_in(folder))
    settings = config.from_dict(TrainConfig, record["settings"])
    defaults = config.to_dict(TrainConfig())
    changed = {
        name: value
        for name, value in config.to_dict(settings).items()
        if value != defaults[name] and name not in _PLACES
    }
    steps = int(record["step"])
    run = {
        "settings": changed,
        "steps": steps,
        "networks": steps * settings.meta_batch_size,
        "images": steps * settings.batch_size,
        "seconds": round(float(record["elapsed_s"])),
        "curve": _curve(folder, steps),
    }
    earlier = ghn.metadata.get("training", [])  # of the hypernetwork that the run started from
    return dataclasses.replace(ghn, metadata={**ghn.metadata, "training": [*earlier, run]})


def _curve(workdir: pathlib.Path, steps: int) -> dict[str, list[float]]:
    """Columns of at most 60 points of the metrics up to a step; empty ones without metrics."""
    lines = read_metrics(workdir)
    rows = [row for row in lines if row["step"] <= steps and all(name in row for name in _CURVE)]
    if not rows:
        return {name: [] for name in _CURVE}
    parts = np.array_split(np.arange(len(rows)), min(_POINTS, len(rows)))
    columns: dict[str, list[Any]] = {
        name: [rows[part[-1]][name] for part in parts] for name in _CURVE[:2]
    }
    columns["seconds"] = [round(value) for value in columns["seconds"]]
    for name, mean in (("loss", np.median), ("accuracy", np.mean)):
        columns[name] = [round(float(mean([rows[i][name] for i in part])), 4) for part in parts]
    return columns
