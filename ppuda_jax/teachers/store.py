"""A folder of trained networks, split by architecture.

A folder holds one file per trained network (`record.py`), which explains itself; other files are
ignored. All of them are of the same images.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.data.spec import DatasetSpec, check_same_images
from ppuda_jax.teachers.record import SUFFIX, TeacherError, TeacherRecord, read_leaves, read_record

_CACHED = 64  # networks in memory


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network that is in a file.

    Attributes:
      path: the file.
      record: what it is.
    """

    path: pathlib.Path
    record: TeacherRecord

    @property
    def leaves(self) -> list[np.ndarray]:
        """Parameters in the order of `plan.params`; not to be changed.

        Raises:
          TeacherError: the file is damaged.
        """
        return _leaves(self.path)


@functools.lru_cache(maxsize=_CACHED)
def _leaves(path: pathlib.Path) -> list[np.ndarray]:
    return read_leaves(path)


@dataclasses.dataclass(frozen=True)
class TeacherStore:
    """Trained networks by architecture.

    Attributes:
      name: the folder or file, for messages.
      teachers: by the fingerprint of their architecture; of several seeds the most accurate one.
      spec: the images of all of them.
    """

    name: str
    teachers: Mapping[str, Teacher]
    spec: DatasetSpec

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def configs(self) -> tuple[NetConfig, ...]:
        """The architectures."""
        return tuple(NetConfig.from_dict(t.record.config) for t in self.teachers.values())

    @property
    def digest(self) -> str:
        """Differs where the trained networks do."""
        hashed = hashlib.sha256()
        for key in sorted(self.teachers):
            teacher = self.teachers[key]
            hashed.update(f"{key} {dataclasses.asdict(teacher.record)}".encode())
            hashed.update(teacher.path.read_bytes())
        return hashed.hexdigest()[:16]

    def of(self, fingerprint: str) -> Teacher:
        """The trained network of an architecture.

        Raises:
          TeacherError: there is none.
        """
        if fingerprint not in self.teachers:
            raise TeacherError(
                f"{self.name} has no trained network of the architecture {fingerprint}; it has "
                f"{', '.join(t.record.name for t in self.teachers.values())}: train it by "
                "`python -m experiments.train_zoo`, or draw architectures from the teachers"
            )
        return self.teachers[fingerprint]

    def split(self, held_out: float) -> tuple["TeacherStore", "TeacherStore"]:
        """Parts the architectures into those for training and those that are held out.

        An architecture's side is drawn from itself: it stays there when others join.

        Args:
          held_out: share of architectures, in [0, 1).

        Raises:
          TeacherError: all of them would be held out.
        """
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be in [0, 1), received {held_out}")
        is_out = {key: int(key, 16) / 16 ** len(key) < held_out for key in self.teachers}
        sides = [
            dataclasses.replace(
                self, teachers={k: t for k, t in self.teachers.items() if is_out[k] == side}
            )
            for side in (False, True)
        ]
        if not sides[0].teachers:
            raise TeacherError(
                f"all {len(self)} architectures of {self.name} are held out with "
                f"teacher_held_out={held_out}: lower it, or train more networks"
            )
        return sides[0], sides[1]

    def check_images(self, images: DatasetSpec) -> None:
        """Raises TeacherError unless the networks were trained on such images."""
        try:
            check_same_images(self.spec, images, f"the zoo {self.name}")
        except ValueError as error:
            raise TeacherError(str(error)) from error


def open_store(path: str | os.PathLike[str]) -> TeacherStore:
    """Opens a folder of trained networks, or the file of one.

    Raises:
      FileNotFoundError: nothing is there.
      TeacherError: an empty folder, a damaged or foreign file, or networks of different images.
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(
            f"{place} is not there: make a folder of trained networks by "
            "`python -m experiments.train_zoo --output=DIR`"
        )
    files = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
    if not files:
        raise TeacherError(
            f"{place} has no trained networks (files {SUFFIX}): make some by "
            f"`python -m experiments.train_zoo --output={place}`"
        )
    found = [Teacher(file.resolve(), read_record(file)) for file in files]
    first = found[0].record.spec
    for teacher in found[1:]:
        if teacher.record.spec != first:
            raise TeacherError(
                f"{place} has networks of different images: {found[0].path.name} of "
                f"{_told(first)}, {teacher.path.name} of {_told(teacher.record.spec)}; keep them "
                "in folders of their own"
            )
    return TeacherStore(os.fspath(path), _best(found), first)


def _told(spec: DatasetSpec) -> str:
    return f"{spec.name} ({spec.num_classes} classes, {spec.image_size} pixels)"


def _best(teachers: Sequence[Teacher]) -> dict[str, Teacher]:
    """The most accurate of each architecture, in the order of names."""
    best: dict[str, Teacher] = {}
    for teacher in teachers:
        key = teacher.record.fingerprint
        if key not in best or best[key].record.accuracy < teacher.record.accuracy:
            best[key] = teacher
    return best
