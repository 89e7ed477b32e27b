"""Where the parameters of a network lie: rows of pages, whose shapes no network changes.

A decoder predicts a kernel as one block of at most 64 x 64 channels per tap; the target repeats or
crops it. A page holds a fixed number of such blocks as rows, so that a function that reads its
parameters from a page is compiled once, and a network has as many pages as it needs. A step finds
all its rows of one kind behind each other in one page.

Legend: `I` and `O` input and output channels, `R` rows of a page, `L` parameters of a step.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax

from ppuda_jax.hostloop.steps import Leaf, Shape, Step, StepKey
from ppuda_jax.prediction.blocks import MAX_BLOCK, tile_to

_PAGE_ROWS = 256  # the patches of ImageNet's transformers, 16 x 16, fill one


class Block(NamedTuple):
    """What the rows of a page are.

    Attributes:
      decoder: "kernel", "vector", or "class_kernel" and "class_bias" for the classifier.
      inputs: I; 1 for vectors and depthwise kernels.
      outputs: O; 1 for positional encodings.
    """

    decoder: str
    inputs: int
    outputs: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a page, [R, I * O]."""
        rows = 1 if self.decoder.startswith("class") else _PAGE_ROWS
        return rows, self.inputs * self.outputs

    @property
    def tail(self) -> Shape:
        """Shape of a row as the last axes of a parameter."""
        row = (self.inputs, self.outputs)
        return (max(row),) if 1 in row and self.decoder != "class_kernel" else row


def block_of(leaf: Leaf) -> Block:
    """The kind of rows that a parameter is made of."""
    if leaf.last:
        if len(leaf.shape) == 1:
            return Block("class_bias", 1, leaf.shape[0])
        return Block("class_kernel", MAX_BLOCK, leaf.shape[-1])
    if len(leaf.shape) == 1:
        return Block("vector", 1, MAX_BLOCK)
    if leaf.role == "pos_enc":
        return Block("kernel", MAX_BLOCK, 1)
    if leaf.shape[-2] == 1:
        return Block("kernel", 1, MAX_BLOCK)
    # Half blocks spare three quarters of the decoding of the most frequent networks, C = 32.
    inputs, outputs = (MAX_BLOCK // (1 if size > MAX_BLOCK // 2 else 2) for size in leaf.shape[-2:])
    return Block("kernel", inputs, outputs)


def blocks_of(key: StepKey) -> tuple[Block, ...]:
    """The kinds of pages that a step reads, in the order of its arguments."""
    return tuple(dict.fromkeys(block_of(leaf) for leaf in key.leaves))


def taps_of(leaf: Leaf) -> Shape:
    """The leading axes of a parameter, whose every entry is a row."""
    return leaf.shape[: -len(block_of(leaf).tail)]


class Place(NamedTuple):
    """Where a step finds its parameters.

    Attributes:
      pages: number of the page of each of `blocks_of(step.key)`.
      starts: int32 [L], first row of each parameter.
    """

    pages: tuple[int, ...]
    starts: np.ndarray


class Placement(NamedTuple):
    """Where all parameters of a network lie.

    Attributes:
      steps: of each step.
      rows: block -> of each page, the parameters in it as (number, first row).
    """

    steps: tuple[Place, ...]
    rows: dict[Block, list[list[tuple[int, int]]]]


def place_steps(steps: Sequence[Step]) -> Placement:
    """Fills pages with the parameters of a network, step by step."""
    rows: dict[Block, list[list[tuple[int, int]]]] = {}
    used: dict[Block, int] = {}
    places = []
    for step in steps:
        blocks, needs = blocks_of(step.key), dict.fromkeys(blocks_of(step.key), 0)
        for leaf in step.key.leaves:
            needs[block_of(leaf)] += math.prod(taps_of(leaf))
        for block, need in needs.items():
            if block not in used or used[block] + need > block.shape[0]:
                rows.setdefault(block, []).append([])
                used[block] = 0
        starts = []
        for leaf, param in zip(step.key.leaves, step.params, strict=True):
            block = block_of(leaf)
            rows[block][-1].append((param, used[block]))
            starts.append(used[block])
            used[block] += math.prod(taps_of(leaf))
        pages = tuple(len(rows[block]) - 1 for block in blocks)
        places.append(Place(pages, np.array(starts, np.int32)))
    return Placement(tuple(places), rows)


def read_leaves(key: StepKey, pages: Sequence[jax.Array], starts: jax.Array) -> list[jax.Array]:
    """The parameters of a step from its pages [R, I * O] and first rows int32 [L]."""
    page_of = dict(zip(blocks_of(key), pages, strict=True))
    leaves = []
    for number, leaf in enumerate(key.leaves):
        block, taps = block_of(leaf), taps_of(leaf)
        start = lax.index_in_dim(starts, number, keepdims=False)
        rows = lax.dynamic_slice_in_dim(page_of[block], start, math.prod(taps))
        leaves.append(tile_to(rows.reshape(*taps, *block.tail), leaf.shape))
    return leaves


def write_leaves(
    key: StepKey, pages: Sequence[jax.Array], starts: jax.Array, leaves: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """Pages with the cotangents of a step's parameters in their rows; see `read_leaves`."""
    blocks = blocks_of(key)
    page_of = dict(zip(blocks, pages, strict=True))
    for number, (leaf, value) in enumerate(zip(key.leaves, leaves, strict=True)):
        block, taps = block_of(leaf), taps_of(leaf)
        shape = jax.ShapeDtypeStruct((*taps, *block.tail), value.dtype)
        (rows,) = jax.linear_transpose(lambda rows, leaf=leaf: tile_to(rows, leaf.shape), shape)(
            value
        )
        start = lax.index_in_dim(starts, number, keepdims=False)
        rows = rows.reshape(math.prod(taps), -1)
        page_of[block] = lax.dynamic_update_slice_in_dim(page_of[block], rows, start, 0)
    return tuple(page_of[block] for block in blocks)
