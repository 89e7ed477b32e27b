"""Which tables of matrices are decoded together, and how much room a meta-batch has.

All of it is static in a compiled program: it follows from the variant and the number of networks.
"""

import dataclasses
import functools

from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.tables import Capacity, CapacityError, spill
from ppuda_jax.graphs.batching import Bucket
from ppuda_jax.prediction.blocks import MAX_BLOCK

BUCKET = Bucket(704, 704)
"""The one bucket of graphs; the gated GNN's cost grows with the nodes in use, not with it."""


@dataclasses.dataclass(frozen=True)
class BlockClass:
    """Tables whose rows are decoded together, because their blocks have one shape.

    Attributes:
      block: (inputs, outputs) decoded per row, each at most 64.
      offsets: (first input, first output) modulo 64 of each output layer.
      tables: names of the tables of matrices.
    """

    block: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]
    tables: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def block_classes(variant: Variant) -> tuple[BlockClass, ...]:
    """Sorts a variant's tables of matrices by the shape of their blocks."""
    found: dict[tuple[int, int], tuple[list[str], dict[tuple[int, int], None]]] = {}
    for name, (width_in, width_out) in layout_of(variant).mats.items():
        block = min(width_in, MAX_BLOCK), min(width_out, MAX_BLOCK)
        tables, offsets = found.setdefault(block, ([], {}))
        tables.append(name)
        # A concatenated source and a third of a qkv kernel begin in the middle of a block.
        for k in range(max(variant.max_concat, variant.stem_slots)):
            offsets[k * width_in % MAX_BLOCK, 0] = None
        for j in range(1, 3 if variant.attention else 1):
            offsets[0, j * width_out % MAX_BLOCK] = None
    return tuple(
        BlockClass(block, tuple(offsets), tuple(tables))
        for block, (tables, offsets) in found.items()
    )


@functools.lru_cache(maxsize=256)
def capacity_of(variant: Variant, count: int) -> Capacity:
    """Rows per table for a meta-batch of `count` networks.

    One network of the published training rules always fits; the room per network shrinks with
    the meta-batch, where large and small ones even out.
    """
    mats, vecs = spill(variant)
    stages = 3 if variant.stages == 1 else 1
    scale = (2 if variant.large else 1) * stages

    def rows(name: str) -> int:
        if name.startswith("s"):
            return scale * (350 + 120 * count)
        return (2 if variant.large else 1) * (16 + 12 * count)

    return Capacity(
        tuple((name, mats[name] + rows(name)) for name in mats),
        tuple((name, vecs[name] + scale * (450 + 250 * count)) for name in vecs),
    )


def kernel_room(variant: Variant, count: int) -> int:
    """Kernels of several taps for which a meta-batch of `count` networks has room."""
    return (2 if variant.large else 1) * (96 + 64 * count)


def check_room(what: str, need: int, have: int) -> None:
    """Raises CapacityError if a meta-batch has no room for what it needs."""
    if need > have:
        raise CapacityError(
            f"a meta-batch has room for {have} {what}, this one needs {need}: skip it or draw "
            "smaller networks."
        )
