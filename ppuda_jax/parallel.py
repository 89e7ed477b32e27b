"""Devices and hosts: the only file that knows how a step is spread over several of them.

The hypernetwork and its optimiser are replicated, the networks of a meta-batch are split: device
`s` of `S` predicts and runs its share, gradients are averaged. On one device nothing of this
exists (`axis_name` is None) and the step is plain `jit`. (`shard_map` is used where older code
says `pmap`: the same program per device, and it takes arrays of several hosts.)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "meta_batch"
"""Name of the mesh's axis over which networks are spread."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices of a run.

    Attributes:
        devices: all devices, over all hosts, in mesh order.
        mesh: one axis over them; None for a single device.
    """

    devices: tuple[Any, ...]
    mesh: Mesh | None

    @property
    def axis_name(self) -> str | None:
        """Name to average over, None on a single device."""
        return AXIS if self.mesh is not None else None

    @property
    def num_shards(self) -> int:
        """S: devices over all hosts."""
        return len(self.devices)

    @property
    def host_shards(self) -> range:
        """The shards whose device belongs to this host."""
        own = [i for i, d in enumerate(self.devices) if d.process_index == jax.process_index()]
        return range(own[0], own[-1] + 1)

    @property
    def is_primary(self) -> bool:
        """Whether this host writes metrics."""
        return jax.process_index() == 0


def make_topology(num_devices: int | None = None) -> Topology:
    """Returns the topology over the first `num_devices` devices, all of them if not given.

    Raises:
        ValueError: more devices than there are, or part of them on several hosts.
    """
    available = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    count = len(available) if num_devices is None else num_devices
    if count > len(available):
        raise ValueError(f"num_devices is {count}, but JAX sees {len(available)} devices")
    if jax.process_count() > 1 and count != len(available):
        raise ValueError(
            f"with several hosts all {len(available)} devices must be used, received "
            f"num_devices={count}"
        )
    devices = tuple(available[:count])
    mesh = Mesh(np.asarray(devices), (AXIS,)) if count > 1 else None
    return Topology(devices, mesh)


def make_local_topology(num_devices: int | None = None) -> Topology:
    """Returns the topology over at most `num_devices` devices of this host, for work of its own."""
    devices = tuple(jax.local_devices()[:num_devices])
    mesh = Mesh(np.asarray(devices), (AXIS,)) if len(devices) > 1 else None
    return Topology(devices, mesh)


def init_hosts(coordinator_address: str, num_hosts: int, host_id: int) -> None:
    """Joins a run of several hosts; call it before anything else touches JAX."""
    jax.distributed.initialize(coordinator_address, num_processes=num_hosts, process_id=host_id)


def replicate(tree: Any, topology: Topology) -> Any:
    """Copies a pytree of host arrays to every device."""
    if topology.mesh is None:
        return jax.device_put(tree, topology.devices[0])
    sharding = NamedSharding(topology.mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def split(tree: Any, topology: Topology) -> Any:
    """Puts leaves [K, S of this host, ...] on the devices, one slice of axis 1 on each."""
    if topology.mesh is None:
        return jax.device_put(tree, topology.devices[0])
    sharding = NamedSharding(topology.mesh, PartitionSpec(None, AXIS))

    def put(leaf: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def split_rows(tree: Any, topology: Topology) -> Any:
    """Puts leaves [S * n, ...] on the devices of one host, n rows on each."""
    if topology.mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(topology.mesh, PartitionSpec(AXIS)))


def to_host(tree: Any) -> Any:
    """NumPy copies of replicated arrays (never views: their buffers may be donated next)."""

    def get(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return np.array(leaf)

    return jax.tree.map(get, tree)


def jit_step(step: Callable[..., Any], topology: Topology, split_args: Sequence[bool]) -> Any:
    """Compiles `step(state, *args) -> (state, metrics)` for the devices; `state` is donated.

    Args:
        step: sees, for an argument that is split, leaves [K, 1, ...]; it must average gradients
            and metrics over `topology.axis_name` itself (`mean_over`), so that what it returns is
            the same on every device.
        topology: where it runs.
        split_args: for each argument after the state, whether it is split or replicated.
    """
    if topology.mesh is None:
        return jax.jit(step, donate_argnums=0)
    specs = tuple(PartitionSpec(None, AXIS) if s else PartitionSpec() for s in split_args)
    mapped = jax.shard_map(
        step,
        mesh=topology.mesh,
        in_specs=(PartitionSpec(), *specs),
        out_specs=PartitionSpec(),
        check_vma=False,  # gradients are averaged by hand, once
    )
    return jax.jit(mapped, donate_argnums=0)


def jit_sum(function: Callable[..., Any], topology: Topology, split_args: Sequence[bool]) -> Any:
    """Compiles `function(*args)` for the devices; what it returns is added up over them.

    Args:
        function: sees its device's slice of axis 0 of the arguments that are split.
        topology: where it runs.
        split_args: for each argument, whether it is split (`split_rows`) or replicated.
    """
    if topology.mesh is None:
        return jax.jit(function)
    mapped = jax.shard_map(
        lambda *args: lax.psum(function(*args), AXIS),
        mesh=topology.mesh,
        in_specs=tuple(PartitionSpec(AXIS) if s else PartitionSpec() for s in split_args),
        out_specs=PartitionSpec(),
        check_vma=False,  # the sum is replicated
    )
    return jax.jit(mapped)


def mean_over(tree: Any, axis_name: str | None) -> Any:
    """Mean of every leaf over the devices; the identity when `axis_name` is None."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def agree(values: np.ndarray) -> np.ndarray:
    """The first host's values, on every host: for what depends on clocks and signals."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.broadcast_one_to_all(values))
