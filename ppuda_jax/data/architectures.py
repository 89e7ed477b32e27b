"""DeepNets-1M as a stream: architecture `i` sampled on the fly, or read from an HDF5 file.

Everything here runs in the worker processes of `ppuda_jax.data.stream`: NumPy only.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.hdf5 import NetRecords, load_split
from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.archs.splits import get_split
from ppuda_jax.data.grouping import Survey
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.graphs.from_plan import graph_from_plan

_GOLDEN = (5**0.5 - 1) / 2  # its multiples fill [0, 1) evenly

VariantOf = Callable[[Plan], Hashable]
"""Plan -> executor variant of the network."""
Build = Callable[[Sequence[Plan], Any], Any]
"""(plans of a meta-batch, their variant) -> what the device takes."""


@dataclasses.dataclass(frozen=True)
class DeepNets:
    """Architectures of a split by index; satisfies `ppuda_jax.data.stream.Networks`.

    Attributes:
        variant_of: executor variant of a plan; a module-level function, it travels to workers.
        build_meta_batch: (plans, variant) -> arrays of a meta-batch, likewise; it raises
            CapacityError for networks that do not fit together.
        split: which rules architectures are sampled by, or which split of the file is read.
        image_size: 32 or 224.
        num_classes: classes of the data.
        seed: another stream for each.
        path: HDF5 file to read instead of sampling; its networks are gone through in endless
            passes, each in its own order.
        bnfree_share: share of the sampled networks that have no norm whatever the split says;
            they are spread evenly over the stream.
        given: records to go through instead of sampling, like those of a file.
    """

    variant_of: VariantOf
    build_meta_batch: Build
    split: str = "train"
    image_size: int = 32
    num_classes: int = 10
    seed: int = 0
    path: str | None = None
    bnfree_share: float = 0.0
    given: tuple[NetConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.path is not None and self.bnfree_share:
            raise ValueError(
                f"bnfree_share={self.bnfree_share} is for sampled networks, but they are read from "
                f"{self.path}; leave one of the two out"
            )

    def config(self, index: int) -> NetConfig:
        """Architecture `index` of the stream."""
        if self.given:
            epoch, position = divmod(index, len(self.given))
            return self.given[int(_order(len(self.given), self.seed, epoch)[position])]
        if self.path is None:
            spec = get_split(self.split)
            if index * _GOLDEN % 1.0 < self.bnfree_share:
                spec = dataclasses.replace(spec, norm="never")
            return arch_at(spec, index, self.image_size, self.seed)
        records = _records(self.path, self.split, self.image_size)
        epoch, position = divmod(index, len(records))
        return records[int(_order(len(records), self.seed, epoch)[position])].config

    def plan(self, index: int) -> Plan:
        """Its plan for this data."""
        return make_plan(self.config(index), self.num_classes, self.image_size)

    def survey(self, index: int) -> Survey:
        """Variant and size of architecture `index`."""
        plan = self.plan(index)
        return Survey(index, self.variant_of(plan), graph_from_plan(plan).num_nodes)

    def build(self, indices: Sequence[int], variant: Hashable) -> Any:
        """Arrays of a meta-batch of these architectures; None if they do not fit together."""
        try:
            return self.build_meta_batch([self.plan(index) for index in indices], variant)
        except CapacityError:
            return None

    def describe(self, index: int) -> dict[str, Any]:
        """The network's record, as `build_network` takes it."""
        return self.config(index).to_dict()


@functools.lru_cache(maxsize=1)
def _records(path: str, split: str, image_size: int) -> NetRecords:
    return load_split(path, split, image_size)


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, 0xA2C4)))
    return rng.permutation(count)
