"""What is static in the executor: variants, register files and groups of instructions.

A variant is the class of networks that one compiled program runs: the spatial size of the first
stage, the width and its multiplier, and a few flags. A *file* is an array of registers, one
feature map each; every value of a network gets its own register. A *group* is a loop over
instructions that read one file and write one.

Legend: `R` registers, `H` pixels per side, `C` channels, `K` concatenated states.
"""

import dataclasses
import functools
from collections.abc import Mapping

from ppuda_jax.executor import branches
from ppuda_jax.executor.branches import Branch


@dataclasses.dataclass(frozen=True, order=True)
class Variant:
    """The static class of a network; one program is compiled for each.

    Attributes:
      size: H of the first stage (32, 16 or 11 on CIFAR; 56, 28 or 14 on ImageNet).
      multiplier: factor of the channels at each reduction.
      width: C of the first stage.
      attention: whether the network is a visual transformer, which never strides.
      flat: whether the head flattens instead of pooling.
      large: room for the networks of the deep and dense splits.
      image_size: 32 or 224.
    """

    size: int
    multiplier: int
    width: int
    attention: bool = False
    flat: bool = False
    large: bool = False
    image_size: int = 32

    @property
    def stages(self) -> int:
        """Number of stages: register files of different shape."""
        return 1 if self.attention and self.multiplier == 1 else 3

    @property
    def max_concat(self) -> int:
        """Largest number of states a cell may concatenate."""
        return 10 if self.large else 4

    @property
    def stem_slots(self) -> int:
        """Registers the stem writes: a simple stem on CIFAR has 3C channels."""
        return 3 if self.image_size == 32 else 2

    @property
    def simple_slots(self) -> int:
        """Parts of C channels that a simple stem's map has."""
        return 3 if self.image_size == 32 else 1

    @property
    def hidden(self) -> int:
        """Largest hidden layer of a head."""
        return 256 if self.flat else 512

    def channels(self, stage: int) -> int:
        """C of a stage."""
        return self.width * self.multiplier**stage

    def pixels(self, stage: int) -> int:
        """H of a stage."""
        size = self.size
        for _ in range(0 if self.attention else stage):
            size = -(-size // 2)
        return size

    @property
    def features(self) -> int:
        """Inputs of the head, for `max_concat` states."""
        last = self.stages - 1
        pooled = self.max_concat * self.channels(last)
        return pooled * self.pixels(last) ** 2 if self.flat else pooled


@dataclasses.dataclass(frozen=True)
class File:
    """Shape of a register file: [registers, B, pixels, pixels, channels]."""

    registers: int
    pixels: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Group:
    """One loop over instructions.

    Attributes:
      name: unique in the variant.
      source: file that is read.
      target: file that is written.
      mats: table of matrices [T, I, O] read from.
      vecs: table of vectors [V, O] read from.
      branches: the instructions.
      cap: room for instructions.
      norms: room for maps before their norm; the first one is scratch.
    """

    name: str
    source: str
    target: str
    mats: str
    vecs: str
    branches: tuple[Branch, ...]
    cap: int
    norms: int

    @functools.cached_property
    def opcode(self) -> Mapping[str, int]:
        """Number of each instruction."""
        return {branch.name: i for i, branch in enumerate(self.branches)}

    @property
    def inner(self) -> bool:
        """Whether the group works inside one file, where gradients go to one source at a time."""
        return self.source == self.target

    @property
    def max_sources(self) -> int:
        """Sources of the widest instruction."""
        return max(branch.sources for branch in self.branches)

    @property
    def max_mats(self) -> int:
        """Matrices of the instruction with most of them."""
        return max(branch.mats for branch in self.branches)

    @property
    def max_vecs(self) -> int:
        """Vectors of the instruction with most of them."""
        return max(branch.vecs for branch in self.branches)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Everything static about a variant: files, groups in the order of execution, row shapes.

    Attributes:
      files: name -> shape.
      groups: in the order of execution.
      mats: name of a table of matrices -> (I, O).
      vecs: name of a table of vectors -> O.
    """

    files: Mapping[str, File]
    groups: tuple[Group, ...]
    mats: Mapping[str, tuple[int, int]]
    vecs: Mapping[str, int]


STEM_KERNELS = (3, 5, 7)
"""Sizes of the first convolution, in the order of a stem's kinds."""

NORMED = ("conv", "sep_conv", "dil_conv", "preprocess", "factorized_reduce", "stem_conv")
"""How the names of operations that end in a norm begin."""

STEM_MATS, STEM_VECS = 20, 8
"""Rows of the first stage's tables that a stem takes at most."""

_ROOM = {(3, False): 36, (3, True): 72, (1, False): 84, (1, True): 176}
# Registers per stage, by (stages, large): the longest networks of the published rules fit.
_NORMS = {(3, False): 40, (3, True): 72, (1, False): 88, (1, True): 208}
# Normalised results per stage, likewise.


@functools.lru_cache(maxsize=256)
def layout_of(variant: Variant) -> Layout:
    """Lays out the files and groups of a variant."""
    stages = range(variant.stages)
    widths = [variant.channels(s) for s in stages]
    mats = {f"s{s}": (widths[s], widths[s]) for s in stages}
    mats |= {f"x{s}": (widths[s - 1], widths[s]) for s in stages if s}
    if variant.stages == 3:
        mats["y2"] = (widths[0], widths[2])
    room = _ROOM[variant.stages, variant.large]
    norms = _NORMS[variant.stages, variant.large]
    files, groups = {}, []
    for s in stages:
        files[f"s{s}"] = File(room, variant.pixels(s), widths[s])
        if s:
            groups += _entry_groups(variant, s, files)
        inner = branches.cell_branches(1, variant.attention)
        inner += branches.preprocess_branches(2, variant.max_concat)
        groups.append(
            Group(f"cells{s}", f"s{s}", f"s{s}", f"s{s}", f"s{s}", inner, 2 * room, norms)
        )
    return Layout(files, tuple(groups), mats, {f"s{s}": widths[s] for s in stages})


def _entry_groups(variant: Variant, s: int, files: dict[str, File]) -> list[Group]:
    """How a stage takes over from the stages before it."""
    last = max(variant.max_concat, variant.stem_slots)
    this, before = f"s{s}", f"s{s - 1}"
    if variant.attention:
        take = branches.preprocess_branches(1, last)
        groups = [Group(f"enter{s}", before, this, f"x{s}", this, take, 3, 4)]
        if s == 2:
            groups.append(Group("skip2", "s0", this, "y2", this, take, 1, 2))
        return groups
    files[f"m{s}"] = File(2, variant.pixels(s - 1), variant.channels(s))
    # Cells without preprocessing take maps over as they are; they cannot change their width.
    same = variant.multiplier == 1
    mid = branches.preprocess_branches(1, last) + ((branches.COPY,) if same else ())
    reduce = branches.reduce_branches(last) + ((branches.SUBSAMPLE,) if same else ())
    groups = [Group(f"mid{s}", before, f"m{s}", f"x{s}", this, mid, 2, 3)]
    if s == 2:
        groups.append(Group("skip2", "s0", "m2", "y2", this, reduce, 1, 2))
    groups.append(Group(f"enter{s}", before, this, f"x{s}", this, reduce, 1, 2))
    strided = branches.cell_branches(2, False)
    edges = 2 * variant.max_concat + 2
    groups.append(Group(f"strided{s}", f"m{s}", this, this, this, strided, edges, edges + 1))
    return groups
