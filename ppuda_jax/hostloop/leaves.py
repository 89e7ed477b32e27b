"""All parameters of a network from its pages, and cotangents back, in NumPy.

What compares whole networks needs their hundreds of tensors, of as many shapes, at once: nothing is
compiled for that.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ppuda_jax.hostloop.network import Network
from ppuda_jax.hostloop.pages import Block, block_of, blocks_of, taps_of
from ppuda_jax.hostloop.predictor import Pages
from ppuda_jax.hostloop.steps import Leaf

NumpyPages = dict[Block, tuple[np.ndarray, ...]]
"""Of each kind of block, pages [R, I * O]."""


def leaves_of_pages(network: Network, pages: Pages) -> list[np.ndarray]:
    """Parameters of a network in the order of `plan.params`; see `pages.read_leaves`.

    Args:
      network: the network.
      pages: where its parameters are.
    """
    host = {block: [np.asarray(page) for page in group] for block, group in pages.items()}
    leaves: dict[int, np.ndarray] = {}
    for number, leaf, block, page, rows in _places(network):
        taps = host[block][page][rows].reshape(*taps_of(leaf), *block.tail)
        for axis, size in _tiled_axes(leaf, block):
            taps = np.take(taps, np.arange(size) % taps.shape[axis], axis)
        leaves[number] = taps
    return [leaves[number] for number in range(len(leaves))]


def pages_of_cotangents(
    network: Network, cotangents: Sequence[np.ndarray], pages: Pages
) -> NumpyPages:
    """Cotangents of pages from those of all parameters: the transpose of `leaves_of_pages`.

    Args:
      network: the network.
      cotangents: in the order of `plan.params`.
      pages: arrays of the shapes and dtypes of its pages.
    """
    found = {
        block: tuple(np.zeros(page.shape, page.dtype) for page in group)
        for block, group in pages.items()
    }
    for number, leaf, block, page, rows in _places(network):
        value = cotangents[number]
        for axis, size in _tiled_axes(leaf, block):
            value = _untiled(value, axis, size, block.tail[axis])
        found[block][page][rows] = value.reshape(-1, found[block][page].shape[1])
    return found


def _places(network: Network) -> Iterator[tuple[int, Leaf, Block, int, slice]]:
    """(number, what it is, kind of page, number of the page, rows) of each parameter."""
    for step, place in zip(network.steps, network.places, strict=True):
        page_of = dict(zip(blocks_of(step.key), place.pages, strict=True))
        for number, leaf, start in zip(step.params, step.key.leaves, place.starts, strict=True):
            block = block_of(leaf)
            rows = slice(int(start), int(start) + math.prod(taps_of(leaf)))
            yield number, leaf, block, page_of[block], rows


def _tiled_axes(leaf: Leaf, block: Block) -> list[tuple[int, int]]:
    """(axis from the end, size in the parameter) of the axes of a row that have another size."""
    tail = block.tail
    axes = [(axis - len(tail), size) for axis, size in enumerate(leaf.shape[-len(tail) :])]
    return [(axis, size) for axis, size in axes if size != tail[axis]]


def _untiled(value: np.ndarray, axis: int, size: int, block: int) -> np.ndarray:
    """Sums what repeats, or fills up with zeros what is cropped, along an axis."""
    repeats = -(-size // block)
    padding = [(0, 0)] * value.ndim
    padding[axis] = (0, repeats * block - size)
    value = np.moveaxis(np.pad(value, padding), axis, -1)
    value = value.reshape(*value.shape[:-1], repeats, block).sum(-2)
    return np.moveaxis(value, -1, axis)
