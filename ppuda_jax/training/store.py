"""The folder of a run: what is saved of it, and where a session goes on."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from flax import serialization

from ppuda_jax import checkpoints, config, parallel
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.state import TrainState, best_theta
from ppuda_jax.training.task import (
    refuse_other_images,
    refuse_other_run,
    refuse_other_teachers,
)

Record = dict[str, Any]
"""What a checkpoint says about its run, as JSON."""


class RunStore:
    """The checkpoints of a run, if it has a folder; without one nothing is saved."""

    def __init__(
        self, settings: TrainConfig, topology: parallel.Topology, metadata: Mapping[str, Any]
    ) -> None:
        """Opens the folder.

        Args:
            settings: the run.
            topology: where it runs; the first host moves and writes what is common.
            metadata: what the hypernetwork is trained on; a session may not change it.
        """
        self._settings, self._is_primary = settings, topology.is_primary
        self._metadata = metadata
        self.folder: pathlib.Path | None = None
        self._saved: checkpoints.RunCheckpoints | None = None
        if settings.workdir is not None:
            self.folder = pathlib.Path(settings.workdir).expanduser()
            self._saved = checkpoints.RunCheckpoints(self.folder)

    def resume(self, fresh: TrainState, say: Callable[[str], None]) -> tuple[TrainState, Record]:
        """State and record that the session starts with; an empty record for a new run.

        A damaged checkpoint is moved aside (`damaged/`) and the one before it is taken, which
        costs the steps in between and changes no result. A damaged best checkpoint is moved aside
        too, and the next evaluation makes another one.

        Args:
            fresh: the state of a new run, host arrays.
            say: shows a line to the user.

        Raises:
            ValueError: the folder is of another run.
            CheckpointError: there are checkpoints, and none can be read.
        """
        if self._saved is None or self.folder is None:
            return fresh, {}
        found = self._saved.newest(lambda folder: self._read(folder, fresh), say, self._is_primary)
        if found is not None:
            self._check_best(found[1], fresh, say)
            return found
        if self._is_primary:
            config.save_json(self.folder / "config.json", self._settings)
        return fresh, {}

    def _read(self, folder: pathlib.Path, fresh: TrainState) -> tuple[TrainState, Record]:
        record = checkpoints.read_record(folder)
        if folder.parent.name == "last":  # the best one may be from before the length was changed
            refuse_other_run(self._settings, record["settings"], folder)
            refuse_other_images(self._metadata, record["metadata"], folder)
            refuse_other_teachers(self._metadata, record["metadata"], folder)
        best = checkpoints.read_tree(folder / "theta", best_theta(fresh))
        rest = checkpoints.read_tree(folder / "run", _run_arrays(fresh))
        name = "theta" if fresh.average is None else "average"
        state = serialization.from_state_dict(fresh, {"average": None, **rest, name: best})
        return state, record

    def _check_best(self, record: Record, fresh: TrainState, say: Callable[[str], None]) -> None:
        if self._saved is None:
            return
        for folder in self._saved.folders("best"):
            try:
                self._read(folder, fresh)
            except checkpoints.DamagedError as error:
                self._saved.set_aside([folder], say, self._is_primary)
                say(f"the best checkpoint is lost, the next evaluation makes another: {error}")
                record["best"] = None

    def save(self, name: str, state: TrainState, record: Mapping[str, Any]) -> None:
        """Starts saving host arrays as `last` or `best`; `record` must have the step.

        Raises:
            CheckpointError: this one or the one before could not be written.
        """
        if self._saved is not None and record["step"]:
            theta, rest = best_theta(state), _run_arrays(state)
            self._saved.save(name, record["step"], theta, rest, record)

    def wait(self) -> None:
        """Returns once everything has been written; raises CheckpointError if it was not."""
        if self._saved is not None:
            self._saved.wait()

    def close(self) -> None:
        """Finishes writing and frees the threads."""
        if self._saved is not None:
            self._saved.close()


def _run_arrays(state: TrainState) -> dict[str, Any]:
    """Everything of a state but `best_theta`, as nested dicts of arrays."""
    arrays: dict[str, Any] = serialization.to_state_dict(state)
    average = arrays.pop("average")
    if average is None:
        del arrays["theta"]
    return arrays
