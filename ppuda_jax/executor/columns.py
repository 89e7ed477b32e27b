"""The integers of a program, column by column: instructions, parameter rows, stem, head.

Each class is one kind of record. A field holds one number of one record or, as a column, the
numbers of many; indexing picks records, iteration gives them one by one. Instructions travel to
the device and are read there as one array with the columns side by side (`packed`), because ten
groups times seven columns would be as many transfers, and as many reads per instruction.

Legend: `n` records, `M` networks of a meta-batch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np

Array = Any
"""An array of JAX, or of NumPy before it goes to a device."""

Column = Any
"""An int32 array, of NumPy or JAX, or one number: arithmetic and indexing are all that is used."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Records of integers, one field per column."""

    @classmethod
    def of(cls, records: Sequence[tuple[int, ...]]) -> Self:
        """Columns (int32 [n] of NumPy) of records given as tuples in the order of the fields."""
        count = len(dataclasses.fields(cls))
        return cls.unpack(np.array(records, np.int32).reshape(-1, count))

    @classmethod
    def unpack(cls, packed: np.ndarray | jax.Array) -> Self:
        """Columns [...] of an array [..., fields] that holds them side by side."""
        return cls(*(packed[..., i] for i in range(packed.shape[-1])))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        empty = np.zeros(0, np.int32)
        return cls(*(np.concatenate([empty, *column]) for column in cls._by_column(parts)))

    @classmethod
    def stack(cls, records: Sequence[Self]) -> Self:
        """Columns (int32 [M, ...] of NumPy) of records, along a new first axis."""
        return cls(*(np.array(column, np.int32) for column in cls._by_column(records)))

    @classmethod
    def _by_column(cls, parts: Sequence[Self]) -> list[list[Column]]:
        names = [field.name for field in dataclasses.fields(cls)]
        return [[getattr(part, name) for part in parts] for name in names]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The fields in order."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def packed(self) -> np.ndarray:
        """All columns side by side, int32 [..., fields]."""
        return np.stack(self.columns, axis=-1).astype(np.int32, copy=False)

    def map(self, function: Callable[[Column], Column]) -> Self:
        """Applies a function to every column."""
        return type(self)(*map(function, self.columns))

    def padded(self, count: int) -> Self:
        """With records of -1 up to `count`."""
        return self.map(
            lambda column: np.append(column, np.full(count - len(column), -1, np.int32))
        )

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda column: column[index])

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Instruction(Columns):
    """What one turn of a group's loop does.

    Attributes:
      opcode: index into the group's branches.
      source: first register that is read.
      target: register that is added to.
      slot: where the map before the norm is kept, 0 without a norm.
      norm: place of the norm's scale after the first vector, -1 without a norm.
      mat: first matrix.
      vec: first vector.
    """

    opcode: Column
    source: Column
    target: Column
    slot: Column
    norm: Column
    mat: Column
    vec: Column


@dataclasses.dataclass(frozen=True)
class MatRow(Columns):
    """Which block of which parameter a row of a table of matrices is.

    Attributes:
      param: index into `plan.params`, -1 for an unused row.
      tap_y: row of the kernel.
      tap_x: column of the kernel.
      first_in: first input channel.
      first_out: first output channel.
    """

    param: Column
    tap_y: Column
    tap_x: Column
    first_in: Column
    first_out: Column


@dataclasses.dataclass(frozen=True)
class VecRow(Columns):
    """Which part of which parameter a row of a table of vectors is.

    Attributes:
      param: index into `plan.params`, -1 for an unused row.
      tap_y: row of a depthwise kernel.
      tap_x: column of a depthwise kernel.
      first_out: first channel.
    """

    param: Column
    tap_y: Column
    tap_x: Column
    first_out: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StemCode(Columns):
    """The stem of a network.

    Attributes:
      kind: index of the first kernel's size in `layout.STEM_KERNELS`, + 3 for the ImageNet style.
      mat: first matrix.
      vec: first vector.
      preprocess: 1 if the first cell preprocesses its inputs, else 0.
    """

    kind: Column
    mat: Column
    vec: Column
    preprocess: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadCode(Columns):
    """The head of a network.

    Attributes:
      register: first register of the last cell's states.
      states: how many they are.
      layers: dense layers.
    """

    register: Column
    states: Column
    layers: Column
