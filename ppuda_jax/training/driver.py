"""What runs the networks of a training step: a small protocol, and which one is the default where.

On an accelerator, and on several devices, the executor runs a meta-batch as data of one compiled
program per variant: the device is never waited for. On one CPU device the host drives networks step
by step (`ppuda_jax.hostloop`): dispatching costs little there, compiling is what one waits for, and
the functions of steps are small and shared by all networks.

Legend: `K` steps of a dispatch.
"""

from collections.abc import Callable, Hashable
from typing import Any, Literal, Protocol

from ppuda_jax import parallel
from ppuda_jax.data.grouping import Survey, balanced_shares
from ppuda_jax.data.stream import ArchitectureStream, MetaBatches
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.state import TrainState
from ppuda_jax.training.step import Metrics

Placed = tuple[TrainState, Any, Any, Any]
"""State, resident images, batches [K, ...] and rates [K], on the devices."""

Found = tuple[Hashable, list[Survey]]
"""A variant and networks of it."""

Show = Callable[[int, int], None]
"""Is told how many programs are compiled, of how many that were asked for."""


def unseen(compiled: int, asked: int) -> None:
    """Shows nothing."""


class Driver(Protocol):
    """Compiles and runs the steps of a run; the loop knows nothing else about programs."""

    mixed: bool
    """Whether networks of several variants may be in a meta-batch."""

    ahead: int
    """Dispatches that are worth requesting before the one that runs is over."""

    @property
    def count(self) -> int:
        """Programs compiled so far."""

    def prepare(self, stream: ArchitectureStream, placed: Placed, show: Show = unseen) -> None:
        """Restricts the stream to what is trained on, and compiles what has to be before.

        Args:
            stream: nothing has been taken from it.
            placed: arguments like those of every later step.
            show: is called while programs are compiled.
        """

    def request(self, group: MetaBatches) -> None:
        """Says that a group will be run soon; returns at once."""

    def finish(self, show: Show = unseen) -> str:
        """Waits until what was requested is compiled; says what there is."""

    def run(self, group: MetaBatches, placed: Placed) -> tuple[TrainState, Metrics]:
        """K steps with the networks of a group; the state is donated, metrics are [K].

        Raises:
            ValueError: there is no room to compile what they need.
        """

    def close(self) -> None:
        """Stops compiling."""


def choose_driver(config: TrainConfig, topology: parallel.Topology) -> Literal["host", "executor"]:
    """What runs the networks of a run on these devices.

    Raises:
        ValueError: the host is asked to drive several devices, or the executor to run other terms
            of the objective than the task.
    """
    alone = topology.mesh is None
    if not config.terms.plain:
        if config.driver == "executor" or not alone:
            raise ValueError(
                f"the terms {', '.join(config.terms.names)} of the objective need the host's "
                "driver, on one device: set driver=host and num_devices=1; the executor has the "
                f"task alone, received driver={config.driver!r} on {topology.num_shards} devices"
            )
        return "host"
    if config.driver == "auto":
        return "host" if alone and topology.devices[0].platform == "cpu" else "executor"
    if config.driver == "host" and not alone:
        raise ValueError(
            f"driver='host' runs networks on one device, received {topology.num_shards}: set "
            "num_devices=1, or let the executor spread them over all (driver=executor)"
        )
    return config.driver


def restricts(config: TrainConfig) -> bool:
    """Whether a run leaves out networks by their variant."""
    return config.max_variants is not None or config.variant_balance > 0


def choose_variants(stream: ArchitectureStream, config: TrainConfig) -> list[Found]:
    """Finds the variants of a stream's networks, and leaves those in it that a run trains on.

    Networks of a variant have the same sizes, so that this decides what a hypernetwork sees,
    whatever runs them.

    Returns:
        Variants that were chosen, the most frequent first, with the networks that were looked at.
    """
    chosen = stream.probe(config.probe_archs)[: config.max_variants]
    if restricts(config):
        counts = {variant: len(surveys) for variant, surveys in chosen}
        stream.restrict(balanced_shares(counts, config.variant_balance))
    return chosen
