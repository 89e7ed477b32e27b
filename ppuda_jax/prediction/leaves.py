"""Decodes the parameters of one network and lays them out as its leaves.

All kernels that need the same channels are decoded together, a row per spatial tap; each leaf is
then written once, straight in its own layout: scaling, transposition and repetition of a block
happen while the leaf is written.

Legend: `N` nodes, `D` node embedding, `T` rows (a tap of a node), `O` and `I` channels.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.graphs.arch_graph import Binding
from ppuda_jax.graphs.placement import place
from ppuda_jax.prediction.blocks import VECTOR_ROWS, BlockDecoder, tile_to, weight_scale

Path = tuple[str, ...]
"""Keys from the root of a pytree to a leaf."""

_KERNEL_ROLES = ("kernel", "pos_enc")


class BlockKey(NamedTuple):
    """A block to decode: a node and the part of its largest kernel that is needed."""

    node: int
    out_size: int
    in_size: int
    height: int
    width: int


def unsupported_reason(binding: Binding, config: GHNConfig) -> str | None:
    """Why a hypernetwork cannot predict a binding; None if it can."""
    if binding.role in VECTOR_ROWS and len(binding.shape) == 1:
        if binding.is_classifier and binding.shape[0] != config.num_classes:
            return _wrong_classes(binding, config)
        return None
    if binding.role in _KERNEL_ROLES and len(binding.shape) in (2, 4):
        if binding.is_classifier and binding.shape[0] != config.num_classes:
            return _wrong_classes(binding, config)
        return None
    return f"there is no decoder for the role {binding.role!r} with shape {binding.shape}"


def _wrong_classes(binding: Binding, config: GHNConfig) -> str:
    return (
        f"it is the classifier of {binding.shape[0]} classes, and the hypernetwork was made for "
        f"{config.num_classes}"
    )


def assemble(
    config: GHNConfig,
    theta: Mapping[str, Any],
    h: jax.Array,
    bindings: Sequence[Binding],
) -> dict[Path, jax.Array]:
    """Predicts the leaves of one network.

    Args:
      config: the hypernetwork.
      theta: its parameters.
      h: node embeddings, [N, D].
      bindings: what to predict; static.

    Returns:
      One array per leaf path.
    """
    decoder = BlockDecoder(config, theta)
    kernels = [b for b in bindings if b.role in _KERNEL_ROLES]
    vectors = [b for b in bindings if b.role not in _KERNEL_ROLES]
    parts = itertools.chain(_kernel_parts(decoder, h, kernels), _vector_parts(decoder, h, vectors))
    leaves: dict[Path, jax.Array] = {}
    for binding, part in parts:
        leaf = leaves.get(binding.path)
        if leaf is None and binding.index is not None:
            leaf = jnp.zeros(binding.leaf_shape, part.dtype)
        leaves[binding.path] = place(binding, leaf, part)
    return leaves


def _kernel_parts(
    decoder: BlockDecoder, h: jax.Array, bindings: Sequence[Binding]
) -> Iterable[tuple[Binding, jax.Array]]:
    """Leaf parts of kernels and positional encodings."""
    config = decoder.config
    blocks = _decode_blocks(
        decoder, h, {_block_key(b, config) for b in bindings if not b.is_classifier}
    )
    for binding in bindings:
        if binding.is_classifier:
            in_size = min(binding.shape[1], config.max_shape[1])
            node = binding.node
            block = decoder.class_kernels(h[node : node + 1], np.arange(in_size))
            block = block.reshape(*block.shape[1:], 1, 1)
        else:
            block = blocks[_block_key(binding, config)].transpose(3, 2, 0, 1)
        block = block * weight_scale(binding.shape, binding.role, config.weight_norm)
        yield binding, _lay_out(block.reshape(block.shape[: len(binding.shape)]), binding)


def _vector_parts(
    decoder: BlockDecoder, h: jax.Array, bindings: Sequence[Binding]
) -> Iterable[tuple[Binding, jax.Array]]:
    """Leaf parts of norm scales and biases."""
    if not bindings:
        return
    nodes = sorted({b.node for b in bindings})
    row_of = {node: row for row, node in enumerate(nodes)}
    vectors = decoder.vectors(h[np.array(nodes)])
    for binding in bindings:
        node = binding.node
        if binding.is_classifier:
            vector = decoder.class_biases(h[node : node + 1])[0]
        else:
            vector = vectors[row_of[node], VECTOR_ROWS[binding.role]]
        yield binding, _lay_out(vector, binding)


def _block_key(binding: Binding, config: GHNConfig) -> BlockKey:
    shape = (*binding.shape, 1, 1)[:4]
    return BlockKey(binding.node, *map(min, shape, config.max_shape))


def _decode_blocks(
    decoder: BlockDecoder, h: jax.Array, keys: Iterable[BlockKey]
) -> dict[BlockKey, jax.Array]:
    """Decodes blocks [height, width, I, O], those with the same channels together."""
    by_taps = decoder.config.decoder == "mlp"  # whose cost per node grows with the taps

    def group_of(key: BlockKey) -> tuple[int, ...]:
        return key[1:] if by_taps else key[1:3]

    blocks = {}
    for _, members in itertools.groupby(sorted(keys, key=group_of), group_of):
        group = list(members)
        taps = [(i, y, x) for i, k in enumerate(group) for y, x in np.ndindex(*k[3:])]
        node, y, x = np.array(taps, np.int32).T
        decoded = decoder.kernels(
            h[np.array([key.node for key in group])],
            y,
            x,
            node=node,
            out_index=np.arange(group[0].out_size),
            in_index=np.arange(group[0].in_size),
            kernel_size=(max(k.height for k in group), max(k.width for k in group)),
        )
        start = 0
        for key in group:
            rows = decoded[start : start + key.height * key.width]
            blocks[key] = rows.reshape(key.height, key.width, *rows.shape[1:])
            start += key.height * key.width
    return blocks


def _lay_out(block: jax.Array, binding: Binding) -> jax.Array:
    """Tiles a canonical block to the binding's shape and transposes it to the leaf's part."""
    order = _axis_order(binding)
    if order is None:
        canonical = tile_to(block, binding.shape).reshape(binding.split)
        return canonical.transpose(binding.perm).reshape(binding.part_shape)
    shape = [binding.shape[axis] for axis in order]
    return tile_to(block.transpose(order), shape).reshape(binding.part_shape)


def _axis_order(binding: Binding) -> tuple[int, ...] | None:
    """Order of the canonical axes in the leaf; None if an axis does not stay in one piece."""
    owner, size, axis = [], 1, 0
    for digit in binding.split:
        while axis < len(binding.shape) and size == binding.shape[axis]:
            axis, size = axis + 1, 1
        if axis == len(binding.shape):
            axis, size = axis - 1, binding.shape[axis - 1]
            if digit != 1:
                return None
            owner.append(axis)
            continue
        size *= digit
        if binding.shape[axis] % size:
            return None
        owner.append(axis)
    pieces = [(owner[digit], digit) for digit in binding.perm if binding.split[digit] != 1]
    order = [axis for axis, _ in itertools.groupby(pieces, lambda piece: piece[0])]
    if len(set(order)) != len(order):
        return None
    for _, group in itertools.groupby(pieces, lambda piece: piece[0]):
        digits = [digit for _, digit in group]
        if digits != sorted(digits):
            return None
    rest = [axis for axis in range(len(binding.shape)) if axis not in order]
    return (*order, *rest)
