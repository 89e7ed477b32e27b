"""Systems x = A f(x) on a graph whose nodes are visited one after another.

x is what the nodes receive, y = f(x) what they send, f the same function for every node, and A
holds the weight of every message. In the order of the visits A is triangular: who sends to a node
has been visited before it. The sweeps of the gated GNN are such systems and so are their
derivatives, with A transposed and the visits in the opposite order.

`solve` goes by blocks of steps, as many as the graphs have: the number is data, so one compiled
program costs what its graphs need. What a block receives from the blocks before is a few matrix
products; only the messages within the block take a (small) product for every step. The steps of
a block are a loop of known length, which needs no decision by the host between two steps.

Legend: `B` meta-batch, `N` nodes, `D` node features, `S` steps, `W` nodes a step, `K` messages a
node sends (2 with virtual edges, else 1), `C` steps of a block, `R` = C * W slots of a block, `Q`
blocks. Slots without a node stand for node N: they receive nothing, and nobody receives what they
send. The `rank` of a node counts the nodes visited before it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.ghn.embeddings import Integers

BLOCK_STEPS = 16  # steps of a block
TILE = 128  # senders whose messages to a block are summed by one product
UNROLL = 4  # steps of a block per iteration of the compiled loop

_Pair = tuple[jax.Array, jax.Array]
"""Values of the same slots: what they receive and what they send."""


@flax.struct.dataclass
class Order:
    """A batch of graphs in the order of their visits; `M` is N plus padding.

    Attributes:
      distance: shortest paths from the second to the third axis, 0 where there are none (also in
        the last row and column), uint8 [B, N+1, N+1].
      slots: node of each slot by blocks, N where there is none, int32 [B, Q, R].
      node_of_rank: int32 [B, M]; N from the number of nodes on.
      slot_of_rank: int32 [B, R+M], starting at rank -R; -1 where there is no such rank.
      rank_of_node: int32 [B, N]; M for nodes without a slot.
      start: rank of the first node of each block, int32 [B, Q+1].
      blocks: number of blocks that hold nodes, int32 [].
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


def make_order(distance: Integers, levels: Integers) -> Order:
    """Prepares graphs for `solve`.

    Args:
      distance: shortest paths, uint8 [B, N, N].
      levels: nodes to visit in each step, int32 [B, S, W]; N in empty slots.

    Returns:
      The order in which the nodes are visited, by blocks.
    """
    batch, steps, width = levels.shape
    nodes = distance.shape[1]
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
    return Order(
        distance=jnp.pad(distance, ((0, 0), (0, 1), (0, 1))),
        slots=slots,
        node_of_rank=node_of_rank,
        slot_of_rank=jnp.pad(slot_of_rank, ((0, 0), (size, 0)), constant_values=-1),
        rank_of_node=rank_of_node,
        start=start,
        blocks=jnp.max(jnp.where(counts > 0, jnp.arange(1, blocks + 1, dtype=jnp.int32)[None], 0)),
        width=width,
    )


def message_weights(
    distance: jax.Array, max_distance: int, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[jax.Array, ...]:
    """Weights of the K messages between two nodes.

    Args:
      distance: shortest path from sender to receiver, 0 where there is none; uint8 of any shape.
      max_distance: longest path that sends a message; 1 or less for real edges only.
      dtype: of the result.

    Returns:
      Arrays of that shape: 1 on real edges, then (with virtual edges) 1 / distance.
    """
    real = (distance == 1).astype(dtype)
    if max_distance <= 1:
        return (real,)
    linked = (distance > 0) & (distance <= max_distance)
    steps = jnp.maximum(distance, 1).astype(dtype)
    return real, jnp.where(linked, 1.0 / steps, 0.0)


class System(NamedTuple):
    """A system x = A f(x).

    Attributes:
      descending: whether the nodes are visited from the last to the first (receivers are then
        the rows of `Order.distance`, else its columns).
      fan_in, fan_out: number of vectors [D] in a node's x and in its y, K and 1 or 1 and K.
      max_distance: see `message_weights`.
      prepare: (what slots receive from other blocks [B, R, fan_in*D], the rows of each table
        [B, R, F]) -> pytree of arrays [B, R, F] for `node`.
      node: (what W slots receive from their own block [B, W, fan_in*D], the rows of the prepared
        arrays [B, W, F]) -> y [B, W, fan_out*D].
    """

    descending: bool
    fan_in: int
    fan_out: int
    max_distance: int
    prepare: Callable[..., Any]
    node: Callable[..., jax.Array]

    def links(
        self,
        distance: jax.Array,
        receivers: jax.Array,
        senders: jax.Array,
        dtype: jax.typing.DTypeLike,
    ) -> jax.Array:
        """The part of A between some nodes.

        Args:
          distance: see `Order`.
          receivers: int32 [B, I].
          senders: int32 [B, J].
          dtype: of the result.

        Returns:
          [B, I*fan_in, J*fan_out].
        """

        def between(paths: jax.Array, receiver: jax.Array, sender: jax.Array) -> jax.Array:
            receiver, sender = receiver[:, None], sender[None, :]
            index = (receiver, sender) if self.descending else (sender, receiver)
            return paths.at[index].get(mode="promise_in_bounds")

        paths = jax.vmap(between)(distance, receivers, senders)
        axis = 2 if self.fan_in > 1 else 3
        weights = jnp.stack(message_weights(paths, self.max_distance, dtype), axis=axis)
        batch, rows, columns = paths.shape
        return weights.reshape(batch, rows * self.fan_in, columns * self.fan_out)


def solve(system: System, order: Order, tables: tuple[jax.Array, ...]) -> jax.Array:
    """Solves a system block by block.

    Args:
      system: the system.
      order: the graphs.
      tables: what `system.prepare` needs to know about the nodes, [B, N, F] each; F = D for the
        first one.

    Returns:
      x of all nodes, [B, N, fan_in*D] of the first table's dtype; zeros for those without a slot.
    """
    batch, _, size = order.slots.shape
    rows = order.slot_of_rank.shape[1]
    features = tables[0].shape[-1]

    def solve_block(index: jax.Array, carry: _Pair) -> _Pair:
        block = order.blocks - 1 - index if system.descending else index
        own = lax.dynamic_index_in_dim(order.slots, block, axis=1, keepdims=False)
        far = _from_far(system, order, block, own, carry[1])
        links = system.links(order.distance, own, own, tables[0].dtype)
        prepared = system.prepare(far, *(_take(table, own) for table in tables))
        sent = _solve_steps(system, order.width, links, prepared, features)
        near = jnp.einsum("brp,bpd->brd", links, sent).reshape(batch, size, -1)
        return _store(system, order, block, carry, (far + near, sent.reshape(batch, size, -1)))

    received, sent = (
        jnp.zeros((batch, rows, fan * features), tables[0].dtype)
        for fan in (system.fan_in, system.fan_out)
    )
    received, _ = lax.fori_loop(0, order.blocks, solve_block, (received, sent))
    return _take(received, order.rank_of_node + size)


def _take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of table [B, M, F] at index [B, I], zeros where it is M or more: [B, I, F]."""
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="fill", fill_value=0))(table, index)


def _from_far(
    system: System, order: Order, block: jax.Array, own: jax.Array, sent: jax.Array
) -> jax.Array:
    """What the slots of a block receive from the blocks visited before: [B, R, fan_in*D].

    Args:
      system: as in `solve`.
      order: as in `solve`.
      block: index of the block.
      own: its nodes, int32 [B, R].
      sent: y of nodes by rank, starting at rank -R, [B, R+M, fan_out*D]; zeros for nodes not
        visited yet.
    """
    batch, size = own.shape
    ranks = order.node_of_rank.shape[1]
    tile = min(TILE, ranks)
    features = sent.shape[2] // system.fan_out

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        senders = lax.dynamic_slice_in_dim(order.node_of_rank, index * tile, tile, axis=1)
        rows = lax.dynamic_slice_in_dim(sent, size + index * tile, tile, axis=1)
        links = system.links(order.distance, own, senders, sent.dtype)
        rows = rows.reshape(batch, tile * system.fan_out, features)
        return total + jnp.einsum("brp,bpd->brd", links, rows)

    start = lax.dynamic_index_in_dim(order.start, block, axis=1, keepdims=False)
    end = lax.dynamic_index_in_dim(order.start, block + 1, axis=1, keepdims=False)
    if system.descending:
        first = jnp.min(jnp.where(end > start, end, ranks)) // tile
        last = (jnp.max(order.start[:, -1]) + tile - 1) // tile
    else:
        first = jnp.zeros((), order.start.dtype)
        last = (jnp.max(jnp.where(end > start, start, 0)) + tile - 1) // tile
    zeros = jnp.zeros((batch, size * system.fan_in, features), sent.dtype)
    return lax.fori_loop(first, last, add, zeros).reshape(batch, size, -1)


def _store(system: System, order: Order, block: jax.Array, carry: _Pair, values: _Pair) -> _Pair:
    """Writes values of a block's slots, [B, R, F] each, into tables by rank, [B, R+M, F].

    R rows are written, with zeros where the block has fewer nodes; they lie on the side of the
    nodes that are still to be visited.
    """
    size = order.slots.shape[2]
    at = lax.dynamic_index_in_dim(
        order.start, block + 1 if system.descending else block, axis=1, keepdims=False
    )
    at = at if system.descending else at + size

    def window(slots: jax.Array, at: jax.Array) -> jax.Array:
        own = lax.dynamic_slice_in_dim(slots, at, size) - block * size
        return jnp.where((own >= 0) & (own < size), own, size)

    def write(table: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(table, rows, at, axis=0)

    rows = jax.vmap(window)(order.slot_of_rank, at)
    first, second = (
        jax.vmap(write)(table, _take(value, rows), at)
        for table, value in zip(carry, values, strict=True)
    )
    return first, second


def _solve_steps(
    system: System, width: int, links: jax.Array, prepared: Any, features: int
) -> jax.Array:
    """Visits the slots of one block, W at a time.

    Args:
      system: the system.
      width: W.
      links: A within the block, [B, R*fan_in, R*fan_out].
      prepared: what `system.node` needs to know about the slots, pytree of [B, R, F].
      features: D.

    Returns:
      y of the slots, [B, R*fan_out, D].
    """
    batch = links.shape[0]
    steps = links.shape[1] // (width * system.fan_in)

    def by_step(rows: jax.Array) -> jax.Array:
        """[B, R*r, F] -> [C, B, W*r, F]."""
        return jnp.moveaxis(rows.reshape(batch, steps, -1, rows.shape[-1]), 1, 0)

    def step(sent: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        index, receive, rest = inputs
        near = jnp.einsum("bwp,bpd->bwd", receive, sent).reshape(batch, width, -1)
        rows = system.node(near, rest).reshape(batch, -1, features)
        return lax.dynamic_update_slice_in_dim(sent, rows, index * rows.shape[1], axis=1), None

    sent = jnp.zeros((batch, links.shape[2], features), links.dtype)
    inputs = (jnp.arange(steps, dtype=jnp.int32), by_step(links), jax.tree.map(by_step, prepared))
    return lax.scan(step, sent, inputs, reverse=system.descending, unroll=min(UNROLL, steps))[0]
