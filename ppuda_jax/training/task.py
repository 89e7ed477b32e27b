"""What a run is given and what it returns, and when two sessions belong to the same run."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from ppuda_jax import config
from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.data.stream import Networks
from ppuda_jax.parallel import Topology
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.driver import Driver

MakeDriver = Callable[[TrainConfig, Topology], Driver]
"""Makes the driver of a run."""
EvaluateFn = Callable[[Any, int], Mapping[str, float]]
"""(theta, step) -> metrics by name."""

# What may change between the sessions of one run; anything else would make it another run.
_FREE_FIELDS = frozenset(
    {
        "data_dir",
        "steps",  # these three: see _refuse_other_length
        "epochs",
        "time_limit_s",
        "change_length",
        "session_limit_s",
        "arch_workers",
        "num_devices",
        "driver",
        "compile_threads",
        "compile_ahead",
        "compilation_cache",
        "workdir",
        "checkpoint_every",
        "log_every",
        "eval_every",
        "max_nonfinite",
        "max_variants",
        "variant_balance",
    }
)


class NonFiniteError(RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, on what; the loop knows nothing else about networks.

    Attributes:
        networks: stream of architectures.
        make_driver: makes what runs the networks of a run on its devices.
        images: training images.
        theta: initial parameters of the hypernetwork, host or device arrays.
        record: saved with every checkpoint (`checkpoints.ghn_record`).
        evaluate: (theta, step) -> metrics on validation data; `val_accuracy` chooses the best.
    """

    networks: Networks
    make_driver: MakeDriver
    images: TrainingImages
    theta: Any
    record: Mapping[str, Any]
    evaluate: EvaluateFn | None = None


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run, or a session of it, ended.

    Attributes:
        theta: parameters, NumPy arrays.
        step: updates tried.
        reason: "finished", "time limit", "session limit" or "signal"; after a signal during
            start-up nothing was trained.
        skipped: updates left out as not finite.
        programs: programs compiled for its steps.
        seconds: training time over all sessions, without start-up, validation and saving.
    """

    theta: Any
    step: int
    reason: str
    skipped: int
    programs: int
    seconds: float


def refuse_other_images(
    current: Mapping[str, Any], saved: Mapping[str, Any], where: str | os.PathLike[str]
) -> None:
    """Raises ValueError unless a run goes on with the images that it was trained on.

    Args:
        current: metadata of the images in hand.
        saved: metadata of the run's checkpoint; facts that it does not know are not compared.
        where: the checkpoint.
    """
    facts = [field.name for field in dataclasses.fields(DatasetSpec) if field.name != "name"]
    known = [fact for fact in facts if fact in saved and fact in current]
    differing = config.differences(saved, current, known)
    if differing:
        raise ValueError(
            f"{where} was trained on other images than {current.get('dataset')} has now; restore "
            f"them, or choose another workdir ({'; '.join(differing)})"
        )


def refuse_other_teachers(
    current: Mapping[str, Any], saved: Mapping[str, Any], where: str | os.PathLike[str]
) -> None:
    """Raises ValueError unless a run goes on with the trained networks that it was taught by."""
    if current.get("teachers") != saved.get("teachers"):
        raise ValueError(
            f"{where} was taught by other trained networks than are there now; restore them, or "
            "choose another workdir"
        )


def refuse_other_run(
    settings: TrainConfig, saved: Mapping[str, Any], where: str | os.PathLike[str]
) -> None:
    """Raises ValueError unless `saved` settings (a dict) may be continued with `settings`.

    Fields that did not exist when a run was saved had their default. The length of a run may
    change if that changes no learning rate, or if `settings.change_length` asks for it.
    """
    current = config.to_dict(settings)
    saved = {**config.to_dict(TrainConfig()), **saved}
    keys = sorted((current.keys() | saved.keys()) - _FREE_FIELDS)
    differing = config.differences(saved, current, keys)
    if differing:
        raise ValueError(
            f"{where} belongs to another run; choose another workdir, or the same settings "
            f"({'; '.join(differing)})"
        )
    _refuse_other_length(settings, saved, where)


def _refuse_other_length(
    settings: TrainConfig, saved: Mapping[str, Any], where: str | os.PathLike[str]
) -> None:
    """The rate follows the fraction of the run that is done, so that a longer run raises it."""
    constant = settings.lr_schedule == "constant" and not settings.lr_warmup
    now = config.to_dict(settings)
    if constant or settings.change_length or _length(now) == _length(saved):
        return
    raise ValueError(
        f"the learning rate of {where} follows the fraction of the run that is done, so that "
        f"another length changes it at once: received {_length(now)}, the run was started with "
        f"{_length(saved)}; resume with that, or set change_length to follow the new schedule from "
        f"here on"
    )


def _length(settings: Mapping[str, Any]) -> str:
    name = "epochs" if settings["steps"] is None else "steps"
    limit = settings["time_limit_s"]
    return f"{name}={settings[name]}" + ("" if limit is None else f", time_limit_s={limit:g}")
