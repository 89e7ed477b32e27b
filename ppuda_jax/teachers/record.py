"""One trained network in one file: its record, and its parameters."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppuda_jax import config
from ppuda_jax.archs.fingerprint import fingerprint
from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.data.spec import DatasetSpec

FORMAT = 1
"""Version of the layout of a file."""
SUFFIX = ".npz"
"""Ending of a file's name."""
_RECORD = "record"
_MAGIC = b"PK"  # of any .npz file


class TeacherError(ValueError):
    """A file or folder of trained networks that cannot be used."""


@dataclasses.dataclass(frozen=True)
class TeacherRecord:
    """What is known of a trained network; JSON-ready.

    Attributes:
      split: of the network.
      index: its number there.
      config: its record, see `NetConfig.to_dict`.
      dataset: the images, see `DatasetSpec.to_metadata`.
      seed: of initialisation, order and augmentation.
      steps: updates.
      epochs: passes over the training images.
      accuracy: on the images of `part`.
      part: images that the accuracy is of, "val" or "test".
      init: where training started.
      recipe: how it was trained, the fields of `finetune.recipe.Recipe`.
    """

    split: str
    index: int
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    seed: int
    steps: int
    epochs: float
    accuracy: float
    part: str
    init: str
    recipe: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name in tables and of the file."""
        return f"{self.split}-{self.index}-seed{self.seed}"

    @property
    def fingerprint(self) -> str:
        """Of the architecture with its classes and image size."""
        size = self.dataset["num_classes"], self.dataset["image_size"]
        return fingerprint(NetConfig.from_dict(self.config), *size)

    @property
    def plan(self) -> Plan:
        """The network."""
        size = self.dataset["num_classes"], self.dataset["image_size"]
        return make_plan(NetConfig.from_dict(self.config), *size)

    @property
    def spec(self) -> DatasetSpec:
        """The images."""
        known = config.field_types(DatasetSpec)
        fields = {key: value for key, value in self.dataset.items() if key in known}
        return config.from_dict(DatasetSpec, {**fields, "name": self.dataset["dataset"]})


def save_teacher(
    folder: str | os.PathLike[str], record: TeacherRecord, leaves: Iterable[Any]
) -> pathlib.Path:
    """Writes a trained network; the file is there whole or not at all.

    Args:
      folder: is made if it is missing.
      record: what it is.
      leaves: its parameters in the order of `plan.params`.

    Returns:
      The file; one that was there is replaced.

    Raises:
      ValueError: parameters of another network.
    """
    target = pathlib.Path(folder).expanduser() / f"{record.name}{SUFFIX}"
    plan = record.plan
    arrays = [np.asarray(leaf) for leaf in leaves]
    _check_shapes(plan, [array.shape for array in arrays], record.name)
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(record)})
    named: dict[str, Any] = {_RECORD: np.frombuffer(text.encode(), np.uint8)}
    named |= {spec.torch_name: leaf for spec, leaf in zip(plan.params, arrays, strict=True)}
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is another one, so that nobody takes what a killed process left for a network.
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **named)
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return target


def read_record(path: str | os.PathLike[str]) -> TeacherRecord:
    """Reads the record of a trained network, without its parameters.

    Raises:
      TeacherError: a damaged or foreign file.
    """
    return _read(path, lambda file: None)[0]


def read_leaves(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Reads the parameters of a trained network, in the order of `plan.params`.

    Raises:
      TeacherError: a damaged or foreign file, or parameters that are not those of its network.
    """
    record, stored = _read(path, lambda file: {name: file[name] for name in file.files})
    plan = record.plan
    names = [spec.torch_name for spec in plan.params]
    missing = sorted(set(names) - stored.keys())
    extra = sorted(stored.keys() - {*names, _RECORD})
    if missing or extra:
        raise TeacherError(
            f"{path} has parameters of another network than its record says (missing: "
            f"{', '.join(missing[:8]) or 'none'}; unexpected: {', '.join(extra[:8]) or 'none'})"
        )
    leaves = [stored[name] for name in names]
    try:
        _check_shapes(plan, [leaf.shape for leaf in leaves], str(path))
    except ValueError as error:
        raise TeacherError(str(error)) from error
    return leaves


def _read(path: str | os.PathLike[str], read: Any) -> tuple[TeacherRecord, Any]:
    with open(path, "rb") as raw:
        if raw.read(len(_MAGIC)) != _MAGIC:
            raise TeacherError(_foreign(path, f"it is no {SUFFIX} file"))
        raw.seek(0)
        try:
            file = np.load(raw, allow_pickle=False)
            if _RECORD not in file.files:
                raise TeacherError(_foreign(path, "it has no record"))
            text, found = file[_RECORD].tobytes(), read(file)
        except TeacherError:
            raise
        except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise TeacherError(
                f"{path} is no trained network, or is damaged ({type(error).__name__}: {error}): "
                "remove it, and make it anew by `python -m experiments.train_zoo`"
            ) from error
    try:
        values = json.loads(text)
        version = values.pop("format", None)
        if version != FORMAT:
            raise TeacherError(f"{path} must say format {FORMAT}, received {version!r}")
        record = TeacherRecord(**values)
        record.plan, record.spec  # noqa: B018 (they are read to be checked)
    except TeacherError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TeacherError(f"{path} has a record that cannot be read ({error})") from error
    return record, found


def _foreign(path: str | os.PathLike[str], reason: str) -> str:
    return (
        f"{path} is no trained network: {reason}; files of trained networks are made by "
        "`python -m experiments.train_zoo`"
    )


def _check_shapes(plan: Plan, shapes: list[tuple[int, ...]], what: str) -> None:
    wrong = [
        f"{'/'.join(spec.path)} is {shape}, not {spec.shape}"
        for spec, shape in zip(plan.params, shapes, strict=False)
        if spec.shape != tuple(shape)
    ]
    if len(plan.params) != len(shapes):
        wrong.insert(0, f"there are {len(shapes)} of them, not {len(plan.params)}")
    if wrong:
        raise ValueError(f"parameters of {what} do not fit its network: {'; '.join(wrong[:8])}")
