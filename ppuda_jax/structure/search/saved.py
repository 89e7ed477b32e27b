"""A search on disk: the newest epochs, complete or absent, and what search they belong to."""

import json
import os
import pathlib
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

T = TypeVar("T")
_KEPT = 2


class SavedSearch:
    """The folder of one search."""

    def __init__(self, directory: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Opens or makes the folder.

        Args:
          directory: the folder.
          identity: what the search is, JSON-ready.

        Raises:
          ValueError: the folder holds another search.
        """
        self._root = pathlib.Path(directory).expanduser().resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(
            self._root, options=options, item_names=("state", "identity")
        )
        self._identity = identity

    def restore(self, start: T) -> tuple[int, T]:
        """The newest epoch and its state; 0 and `start` if there is none.

        Args:
          start: a state of the same structure, shapes and types.

        Raises:
          ValueError: the folder holds another search.
        """
        step = self._manager.latest_step()
        if step is None:
            return 0, start
        record = ocp.args.Composite(identity=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=record)["identity"]
        if found != json.loads(json.dumps(self._identity)):
            differ = sorted(k for k in self._identity if found.get(k) != self._identity[k])
            raise ValueError(
                f"{self._root} holds another search (its {', '.join(differ)} differ): give another "
                "folder, or the settings that it was begun with"
            )
        leaves, treedef = jax.tree.flatten(start)
        abstract = {
            str(i): np.zeros(np.shape(leaf), np.asarray(leaf).dtype)
            for i, leaf in enumerate(leaves)
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        arrays = self._manager.restore(step, args=args)["state"]
        return step, jax.tree.unflatten(
            treedef, [np.array(arrays[str(i)]) for i in range(len(leaves))]
        )

    def save(self, epoch: int, state: Any) -> None:
        """Saves the state after `epoch` epochs; returns when it is complete."""
        # By number: keys of edges are no names.
        arrays = {str(i): np.array(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), identity=ocp.args.JsonSave(self._identity)
        )
        self._manager.save(epoch, args=args)
        self._manager.wait_until_finished()
