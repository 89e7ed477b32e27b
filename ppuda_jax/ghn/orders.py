"""The order in which the nodes of a batch of graphs are visited, block by block.

`Steps` visits up to W independent nodes of each graph in a step, as a schedule says: few steps, at
the price of empty slots and of gathers. `OneByOne` visits nodes in the order in which they are
numbered, which is topological: nothing is gathered and no slot is empty, at the price of as many
steps as there are nodes. The first is for few graphs, the second for many at a time.

Legend: `B` graphs, `N` nodes, `S` steps, `W` nodes a step, `C` steps of a block, `R` = C * W slots
of a block, `Q` blocks, `T` senders of a tile, `F` values of a node. Slots without a node stand for
node N: they receive nothing, and nobody receives what they send. The `rank` of a node counts the
nodes visited before it.
"""

from typing import Any, Protocol

import chex
import flax
import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.ghn.embeddings import Integers

BLOCK_STEPS = 16
"""Steps of a block."""
TILE = 128
"""Senders whose messages to a block are summed by one product."""
_ALIGNED = 16  # numbers of nodes that `OneByOne` takes are multiples of it


class Order(Protocol):
    """What `triangular.solve` needs to know; satisfied by `Steps` and `OneByOne`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, N)."""

    @property
    def blocks(self) -> jax.Array:
        """Number of blocks that hold nodes, int32 []."""

    @property
    def size(self) -> int:
        """R."""

    @property
    def width(self) -> int:
        """W."""

    def empty(self, features: int, dtype: Any) -> jax.Array:
        """A table of values of all slots, zeros."""

    def own(self, table: jax.Array, block: jax.Array) -> jax.Array:
        """Rows of a block in a table of nodes, [B, N, F] -> [B, R, F]."""

    def near(self, block: jax.Array, descending: bool) -> jax.Array:
        """Shortest paths between the slots of a block, [B, R receivers, R senders]."""

    def tiles(self, block: jax.Array, descending: bool) -> tuple[Any, Any]:
        """First tile and last tile + 1 of those that hold nodes visited before a block."""

    def far(
        self, block: jax.Array, tile: jax.Array, descending: bool, sent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Shortest paths from a tile to a block, [B, R, T], and what the tile sent, [B, T, F].

        What nodes sent that have not been visited yet is zero.
        """

    def store(
        self, table: jax.Array, values: jax.Array, block: jax.Array, descending: bool
    ) -> jax.Array:
        """A table of slots with the values of a block, [B, R, F], in it."""

    def nodes(self, table: jax.Array) -> jax.Array:
        """A table of slots as one of nodes, [B, N, F]; zeros for those without a slot."""


@flax.struct.dataclass
class OneByOne:
    """Nodes in the order of their numbers; satisfies `Order`.

    Attributes:
      distance: shortest paths from the second to the third axis, uint8 [B, N, N].
      reverse: the same from the third to the second axis.
      blocks: see `Order`.
    """

    distance: jax.Array
    reverse: jax.Array
    blocks: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Order`."""
        return self.distance.shape[:2]

    @property
    def width(self) -> int:
        """W."""
        return 1

    @property
    def size(self) -> int:
        """R."""
        return min(_ALIGNED, self.distance.shape[1])

    @property
    def _tile(self) -> int:
        nodes = self.distance.shape[1]
        return 4 * _ALIGNED if nodes % (4 * _ALIGNED) == 0 else self.size

    def _paths(self, rows: Any, height: int, columns: Any, width: int, descending: bool) -> Any:
        paths = self.distance if descending else self.reverse
        return lax.dynamic_slice(paths, (0, rows, columns), (paths.shape[0], height, width))

    def empty(self, features: int, dtype: Any) -> jax.Array:
        """See `Order`."""
        return jnp.zeros((*self.distance.shape[:2], features), dtype)

    def own(self, table: jax.Array, block: jax.Array) -> jax.Array:
        """See `Order`."""
        return lax.dynamic_slice_in_dim(table, block * self.size, self.size, axis=1)

    def near(self, block: jax.Array, descending: bool) -> jax.Array:
        """See `Order`."""
        first = block * self.size
        return self._paths(first, self.size, first, self.size, descending)

    def tiles(self, block: jax.Array, descending: bool) -> tuple[Any, Any]:
        """See `Order`."""
        if descending:
            last = (self.blocks * self.size + self._tile - 1) // self._tile
            return (block + 1) * self.size // self._tile, last
        return jnp.zeros_like(block), (block * self.size + self._tile - 1) // self._tile

    def far(
        self, block: jax.Array, tile: jax.Array, descending: bool, sent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `Order`."""
        first = tile * self._tile
        paths = self._paths(block * self.size, self.size, first, self._tile, descending)
        return paths, lax.dynamic_slice_in_dim(sent, first, self._tile, axis=1)

    def store(
        self, table: jax.Array, values: jax.Array, block: jax.Array, descending: bool
    ) -> jax.Array:
        """See `Order`."""
        del descending
        return lax.dynamic_update_slice_in_dim(table, values, block * self.size, axis=1)

    def nodes(self, table: jax.Array) -> jax.Array:
        """See `Order`."""
        return table


def one_by_one(distance: Integers, num_nodes: Integers) -> OneByOne:
    """Has nodes visited as they are numbered.

    Args:
      distance: shortest paths from the second to the third axis, uint8 [B, N, N].
      num_nodes: nodes of each graph, int32 [B]. The time taken depends on the largest.

    Raises:
      ValueError: N is no multiple of the nodes of a block.
      AssertionError: the shapes do not fit (from chex).
    """
    batch, nodes, _ = distance.shape
    chex.assert_shape(distance, (batch, nodes, nodes))
    chex.assert_shape(num_nodes, (batch,))
    if nodes > _ALIGNED and nodes % _ALIGNED:
        raise ValueError(
            f"graphs whose nodes are visited one by one must be padded to a multiple of {_ALIGNED} "
            f"nodes, received {nodes}: choose another size, or give a schedule"
        )
    distance = jnp.asarray(distance)
    most = jnp.max(jnp.asarray(num_nodes, jnp.int32))
    size = min(_ALIGNED, nodes)
    return OneByOne(distance, jnp.swapaxes(distance, 1, 2), (most + size - 1) // size)


@flax.struct.dataclass
class Steps:
    """Nodes in steps of W; satisfies `Order`. `M` is N plus padding.

    Attributes:
      distance: shortest paths from the second to the third axis, 0 where there are none (also in
        the last row and column), uint8 [B, N+1, N+1].
      slots: node of each slot by blocks, N where there is none, int32 [B, Q, R].
      node_of_rank: int32 [B, M]; N from the number of nodes on.
      slot_of_rank: int32 [B, R+M], starting at rank -R; -1 where there is no such rank.
      rank_of_node: int32 [B, N]; M for nodes without a slot.
      start: rank of the first node of each block, int32 [B, Q+1].
      blocks: see `Order`.
      width: W.
    """

    distance: jax.Array
    slots: jax.Array
    node_of_rank: jax.Array
    slot_of_rank: jax.Array
    rank_of_node: jax.Array
    start: jax.Array
    blocks: jax.Array
    width: int = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Order`."""
        return self.rank_of_node.shape

    @property
    def size(self) -> int:
        """R."""
        return self.slots.shape[2]

    @property
    def _ranks(self) -> int:
        return self.node_of_rank.shape[1]

    @property
    def _tile(self) -> int:
        return min(TILE, self._ranks)

    def _slots(self, block: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(self.slots, block, axis=1, keepdims=False)

    def _start(self, block: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(self.start, block, axis=1, keepdims=False)

    def _paths(self, receivers: jax.Array, senders: jax.Array, descending: bool) -> jax.Array:
        def between(paths: jax.Array, receiver: jax.Array, sender: jax.Array) -> jax.Array:
            receiver, sender = receiver[:, None], sender[None, :]
            index = (receiver, sender) if descending else (sender, receiver)
            return paths.at[index].get(mode="promise_in_bounds")

        return jax.vmap(between)(self.distance, receivers, senders)

    def empty(self, features: int, dtype: Any) -> jax.Array:
        """See `Order`; by rank, starting at rank -R."""
        return jnp.zeros((*self.slot_of_rank.shape, features), dtype)

    def own(self, table: jax.Array, block: jax.Array) -> jax.Array:
        """See `Order`."""
        return _take(table, self._slots(block))

    def near(self, block: jax.Array, descending: bool) -> jax.Array:
        """See `Order`."""
        own = self._slots(block)
        return self._paths(own, own, descending)

    def tiles(self, block: jax.Array, descending: bool) -> tuple[Any, Any]:
        """See `Order`."""
        start, end = self._start(block), self._start(block + 1)
        if descending:
            first = jnp.min(jnp.where(end > start, end, self._ranks)) // self._tile
            return first, (jnp.max(self.start[:, -1]) + self._tile - 1) // self._tile
        last = (jnp.max(jnp.where(end > start, start, 0)) + self._tile - 1) // self._tile
        return jnp.zeros((), self.start.dtype), last

    def far(
        self, block: jax.Array, tile: jax.Array, descending: bool, sent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `Order`."""
        first = tile * self._tile
        senders = lax.dynamic_slice_in_dim(self.node_of_rank, first, self._tile, axis=1)
        rows = lax.dynamic_slice_in_dim(sent, self.size + first, self._tile, axis=1)
        return self._paths(self._slots(block), senders, descending), rows

    def store(
        self, table: jax.Array, values: jax.Array, block: jax.Array, descending: bool
    ) -> jax.Array:
        """See `Order`.

        R rows are written, with zeros where the block has fewer nodes; they lie on the side of the
        nodes that are still to be visited.
        """
        at = self._start(block + 1) if descending else self._start(block) + self.size

        def window(slots: jax.Array, at: jax.Array) -> jax.Array:
            own = lax.dynamic_slice_in_dim(slots, at, self.size) - block * self.size
            return jnp.where((own >= 0) & (own < self.size), own, self.size)

        def write(table: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(table, rows, at, axis=0)

        rows = jax.vmap(window)(self.slot_of_rank, at)
        return jax.vmap(write)(table, _take(values, rows), at)

    def nodes(self, table: jax.Array) -> jax.Array:
        """See `Order`."""
        return _take(table, self.rank_of_node + self.size)


def by_steps(distance: Integers, levels: Integers) -> Steps:
    """Has nodes visited as a schedule says.

    Args:
      distance: shortest paths from the second to the third axis, uint8 [B, N, N].
      levels: nodes to visit in each step, int32 [B, S, W]; N in empty slots. The time taken
        depends on the last step that has a node, in any graph, not on S.

    Raises:
      AssertionError: the shapes do not fit (from chex).
    """
    batch, steps, width = levels.shape
    nodes = distance.shape[1]
    chex.assert_shape(distance, (batch, nodes, nodes))
    block_steps = min(BLOCK_STEPS, steps)
    blocks = -(-steps // block_steps)
    size = block_steps * width
    padding = ((0, 0), (0, blocks * block_steps - steps), (0, 0))
    slots = jnp.pad(levels, padding, constant_values=nodes).reshape(batch, blocks, size)
    counts = jnp.sum(slots < nodes, axis=2, dtype=jnp.int32)
    start = jnp.pad(jnp.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    tile = min(TILE, nodes + size)
    ranks = -(-(nodes + size) // tile) * tile

    def enumerate_slots(node: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        filled = node < nodes
        rank = jnp.where(filled, jnp.cumsum(filled, dtype=jnp.int32) - 1, ranks)
        index = jnp.arange(node.size, dtype=jnp.int32)
        node_of_rank = jnp.full((ranks,), nodes, jnp.int32).at[rank].set(node, mode="drop")
        slot_of_rank = jnp.full((ranks,), -1, jnp.int32).at[rank].set(index, mode="drop")
        rank_of_node = jnp.full((nodes,), ranks, jnp.int32).at[node].set(rank, mode="drop")
        return node_of_rank, slot_of_rank, rank_of_node

    node_of_rank, slot_of_rank, rank_of_node = jax.vmap(enumerate_slots)(slots.reshape(batch, -1))
    return Steps(
        distance=jnp.pad(distance, ((0, 0), (0, 1), (0, 1))),
        slots=slots,
        node_of_rank=node_of_rank,
        slot_of_rank=jnp.pad(slot_of_rank, ((0, 0), (size, 0)), constant_values=-1),
        rank_of_node=rank_of_node,
        start=start,
        blocks=jnp.max(jnp.where(counts > 0, jnp.arange(1, blocks + 1, dtype=jnp.int32)[None], 0)),
        width=width,
    )


def _take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of table [B, M, F] at index [B, I], zeros where it is M or more: [B, I, F]."""
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="fill", fill_value=0))(table, index)
