"""Checkpoints: orbax folders with the parameters, the run's state and a record that explains them.

A checkpoint folder holds the items `theta` (parameters of the hypernetwork), `record` (JSON: the
hypernetwork's configuration, the data it was trained on, the run's configuration and position)
and, when it belongs to a run, `run` (optimiser, counters, keys). A run keeps `last/<step>` (two of
them) and `best/<step>` (one); they are written in the background and appear complete or not at
all.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from ppuda_jax import parallel
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.runtime.logs import quiet_libraries

FORMAT = 1
"""Version of the layout of a checkpoint."""
ASSETS = pathlib.Path(__file__).parent / "assets"
"""Where the shipped hypernetworks are."""
_ITEMS = ("theta", "run", "record")

T = TypeVar("T")


class CheckpointError(ValueError):
    """A folder that is no checkpoint of this project, is damaged, or does not fit."""


class DamagedError(CheckpointError):
    """A checkpoint of which files are missing, cut off or unreadable."""


class RunCheckpoints:
    """The checkpoints of one run: saves in the background, knows those that are there."""

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        self._root = root = pathlib.Path(workdir).expanduser().resolve()
        self._managers = {}
        for name, kept in (("last", 2), ("best", 1)):
            # Hosts wait for each other under the name of a step: two managers that save the same
            # step at the same time need names of their own.
            hosts = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=kept,
                create=True,
                multiprocessing_options=hosts,
                cleanup_tmp_directories=True,  # what a killed session was writing
            )
            self._managers[name] = ocp.CheckpointManager(
                root / name, options=options, item_names=_ITEMS
            )

    def save(self, name: str, step: int, theta: Any, run: Any, record: Mapping[str, Any]) -> None:
        """Starts saving host arrays as `name` (last or best); a step already saved is left.

        Args:
            name: `last` or `best`.
            step: number of the checkpoint.
            theta: nested dict of NumPy arrays.
            run: nested dict of NumPy arrays.
            record: JSON-ready; `FORMAT` is added.
        """
        manager = self._managers[name]
        if step in manager.all_steps():
            return
        args = ocp.args.Composite(
            theta=ocp.args.StandardSave(theta),
            run=ocp.args.StandardSave(run),
            record=ocp.args.JsonSave({"format": FORMAT, **record}),
        )
        with _writing(manager.directory):
            if name == "last":
                # A run that goes on from here knows the score of its best checkpoint, and would
                # not save that one again: it has to be complete first.
                self._managers["best"].wait_until_finished()
            manager.save(step, args=args, force=True)

    def folders(self, name: str) -> list[pathlib.Path]:
        """Folders of the checkpoints called `name`, last or best, newest first."""
        manager = self._managers[name]
        steps = sorted(manager.all_steps(), reverse=True)
        return [pathlib.Path(manager.directory) / str(step) for step in steps]

    def newest(
        self,
        read: Callable[[pathlib.Path], T],
        say: Callable[[str], None],
        is_primary: bool = True,
    ) -> T | None:
        """What `read` makes of the newest checkpoint called last that is whole.

        Damaged ones are moved aside (`damaged/`), which costs the steps in between.

        Args:
            read: called with a folder; raises DamagedError.
            say: shows a line to the user.
            is_primary: whether this host moves what is damaged; every host must call.

        Returns:
            None if there is no checkpoint.

        Raises:
            CheckpointError: there are checkpoints, and none can be read.
        """
        damaged: list[DamagedError] = []
        folders = self.folders("last")
        for folder in folders:
            try:
                found = read(folder)
            except DamagedError as error:
                damaged.append(error)
                continue
            self.set_aside(folders[: len(damaged)], say, is_primary)
            if damaged:
                say(f"resuming from {folder} instead: {'; '.join(map(str, damaged))}")
            return found
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self._root / 'last'} can be read: "
                f"{'; '.join(map(str, damaged))}; restore one from a copy, or choose another "
                f"workdir to start again"
            )
        return None

    def set_aside(
        self, folders: Sequence[pathlib.Path], say: Callable[[str], None], is_primary: bool = True
    ) -> None:
        """Moves damaged checkpoints out of the way of those that will have their numbers.

        Args:
            folders: of the checkpoints.
            say: shows a line to the user.
            is_primary: whether this host moves them; every host must call.
        """
        if not folders:
            return
        parallel.agree(np.zeros(1))  # every host has looked at them
        if is_primary:
            for folder in folders:
                target = _free_name(self._root / "damaged" / f"{folder.parent.name}-{folder.name}")
                target.parent.mkdir(exist_ok=True)
                folder.rename(target)
                say(f"moved the damaged checkpoint {folder} to {target}")
        parallel.agree(np.zeros(1))  # and sees that they are gone
        for manager in self._managers.values():
            manager.reload()

    def wait(self) -> None:
        """Returns once everything has been written; raises CheckpointError if it was not."""
        for manager in self._managers.values():
            with _writing(manager.directory):
                manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and frees the threads."""
        for manager in self._managers.values():
            manager.close()


@contextlib.contextmanager
def _writing(folder: os.PathLike[str]) -> Iterator[None]:
    """Says what to do when a checkpoint cannot be written, whatever orbax raises."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"a checkpoint cannot be written into {folder} ({_first_line(error)}); those before it "
            f"are complete: make room, then run the same command again to go on from there"
        ) from error


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}.{number + 1}")
    return free


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the record of a checkpoint folder.

    Raises:
        CheckpointError: no checkpoint of this project, or of another format.
    """
    path = pathlib.Path(folder) / "record"
    if not path.is_dir():
        found = sorted(p.name for p in pathlib.Path(folder).glob("*"))[:8]
        raise DamagedError(
            f"{folder} is no checkpoint of ppuda_jax: it has no 'record' (found {found}); pass a "
            f"run's workdir, one of its best/<step> or last/<step> folders, or one of save_ghn"
        )
    try:
        record = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path)
    except Exception as error:  # orbax raises many types for damaged files
        raise DamagedError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must say format {FORMAT}, received "
            f"{record.get('format') if isinstance(record, dict) else record!r}"
        )
    return record


def read_tree(folder: str | os.PathLike[str], template: Any) -> Any:
    """Reads one item of a checkpoint into the structure of `template`, strictly.

    Args:
        folder: the item's folder, e.g. `<checkpoint>/theta`.
        template: nested dict of arrays or ShapeDtypeStructs.

    Returns:
        The same structure with NumPy arrays.

    Raises:
        CheckpointError: missing or unexpected arrays (all of them are listed), or damaged files.
    """
    path = pathlib.Path(folder).resolve()
    if not path.is_dir():
        raise DamagedError(f"{path.parent} has no '{path.name}'; it is no complete checkpoint")
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    try:
        with quiet_libraries():
            stored = checkpointer.metadata(path).item_metadata.tree
    except Exception as error:
        raise DamagedError(f"{path} is damaged: {_first_line(error)}") from error
    _compare(path, _leaves(stored), _leaves(template))
    host = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    try:
        return checkpointer.restore(path, args=ocp.args.StandardRestore(host))
    except Exception as error:
        raise DamagedError(f"{path} is damaged: {_first_line(error)}") from error


def save_ghn(path: str | os.PathLike[str], ghn: LoadedGHN) -> None:
    """Saves a hypernetwork alone, for `load_ghn`.

    Raises:
        ValueError: the folder exists already.
    """
    target = pathlib.Path(path).expanduser().resolve()
    if target.exists():
        raise ValueError(f"{target} exists already; choose another folder or remove it")
    theta = jax.tree.map(np.asarray, dict(ghn.theta))
    record = {"format": FORMAT, **ghn_record(ghn.config, ghn.metadata)}
    args = ocp.args.Composite(theta=ocp.args.StandardSave(theta), record=ocp.args.JsonSave(record))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(target, args=args)
    for marker in target.rglob("commit_success.txt"):
        marker.unlink()  # names the folder of this machine; the rename at the end is the commit


def load_ghn(name_or_path: str | os.PathLike[str]) -> LoadedGHN:
    """Loads a hypernetwork.

    Args:
        name_or_path: a shipped name such as `ghn2-cifar10`, a folder of `save_ghn`, a run's
            workdir (its best checkpoint if there is one, else its last), one checkpoint of it,
            a `.pt` file of the reference implementation (needs PyTorch), or hf://OWNER/NAME on the
            Hugging Face hub (needs huggingface_hub).

    Raises:
        CheckpointError: nothing of that kind is there, or it does not fit its own configuration.

    Examples:
        >>> import ppuda_jax as pj
        >>> ghn = pj.load_ghn("ghn2-cifar10")
        >>> ghn.metadata["dataset"], ghn.config.virtual_edges
        ('cifar10', 50)
    """
    text = os.fspath(name_or_path)
    if text.startswith("hf://"):
        from ppuda_jax.hub import load_from_hub

        return load_from_hub(text)
    path = pathlib.Path(text).expanduser()
    if path.suffix in (".pt", ".pth"):
        from ppuda_jax.convert.files import load_torch_ghn

        return load_torch_ghn(path)
    if not path.exists():
        path = ASSETS / text
    if not path.is_dir():
        shipped = sorted(p.name for p in ASSETS.glob("*") if p.is_dir())
        raise CheckpointError(
            f"no hypernetwork {text!r}: neither a file or folder, nor a shipped name "
            f"(shipped: {', '.join(shipped) or 'none'})"
        )
    folder = checkpoint_in(path)
    record = read_record(folder)
    config = GHNConfig.from_dict(record["ghn"])
    template = jax.eval_shape(lambda key: init_theta(config, key), jax.random.key(0))
    theta = read_tree(folder / "theta", template)
    return LoadedGHN(config, theta, name=text, metadata=record["metadata"])


def ghn_record(config: GHNConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that `load_ghn` needs."""
    return {"ghn": config.to_dict(), "metadata": dict(metadata)}


def checkpoint_in(path: pathlib.Path) -> pathlib.Path:
    """The checkpoint folder that `path` names: itself, or the newest of its best/ or last/."""
    for parent in (path / "best", path / "last", path):
        steps = [p for p in parent.glob("*") if p.is_dir() and p.name.isdigit()]
        if steps:
            return max(steps, key=lambda p: int(p.name))
    return path


def _leaves(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            tuple(leaf.shape),
            np.dtype(leaf.dtype).name,
        )
        for path, leaf in found
    }


def _compare(path: pathlib.Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises CheckpointError that lists every difference between what is there and what fits."""
    missing = sorted(expected.keys() - stored.keys())
    extra = sorted(stored.keys() - expected.keys())
    other = [
        f"{name}: stored {stored[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & stored.keys())
        if stored[name] != expected[name]
    ]
    if missing or extra or other:
        raise CheckpointError(
            f"{path} does not fit the configuration.\n  missing: {missing}\n  unexpected: {extra}"
            f"\n  different: {other}"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
