"""Systems x = A f(x) on a graph whose nodes are visited one after another.

x is what the nodes receive, y = f(x) what they send, f the same function for every node, and A
holds the weight of every message. In the order of the visits A is triangular: who sends to a node
has been visited before it. The sweeps of the gated GNN are such systems and so are their
derivatives, with A transposed and the visits in the opposite order.

`solve` goes by blocks of steps, as many as the graphs have: the number is data, so one compiled
program costs what its graphs need. What a block receives from the blocks before is a few matrix
products; only the messages within the block take a (small) product for every step. The steps of
a block are a loop of known length, which needs no decision by the host between two steps.

Legend: `B` meta-batch, `N` nodes, `D` node features, `W` nodes a step, `K` messages a node sends (2
with virtual edges, else 1), `C` steps of a block, `R` = C * W slots of a block (`orders`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.ghn.orders import Order

UNROLL = 4
"""Steps of a block per iteration of the compiled loop."""

_Pair = tuple[jax.Array, jax.Array]
"""Values of the same slots: what they receive and what they send."""


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
      descending: whether the nodes are visited from the last to the first; messages then go
        against the edges.
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

    def links(self, paths: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        """The part of A between some nodes.

        Args:
          paths: shortest paths, uint8 [B, I receivers, J senders].
          dtype: of the result.

        Returns:
          [B, I*fan_in, J*fan_out].
        """
        axis = 2 if self.fan_in > 1 else 3
        weights = jnp.stack(message_weights(paths, self.max_distance, dtype), axis=axis)
        batch, rows, columns = paths.shape
        return weights.reshape(batch, rows * self.fan_in, columns * self.fan_out)

    def receive(self, paths: jax.Array, rows: jax.Array) -> jax.Array:
        """What nodes receive from others, [B, I, fan_in*D].

        Args:
          paths: shortest paths, uint8 [B, I receivers, J senders].
          rows: what they sent, [B, J, fan_out*D].
        """
        weights = message_weights(paths, self.max_distance, rows.dtype)
        parts = jnp.split(rows, self.fan_out, axis=-1)
        parts = parts if self.fan_out > 1 else parts * self.fan_in
        products = [jnp.einsum("brp,bpd->brd", w, y) for w, y in zip(weights, parts, strict=True)]
        return sum(products[1:], products[0]) if self.fan_in == 1 else jnp.concatenate(products, -1)


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
    batch, features, dtype = tables[0].shape[0], tables[0].shape[-1], tables[0].dtype
    size = order.size

    def solve_block(index: jax.Array, carry: _Pair) -> _Pair:
        block = order.blocks - 1 - index if system.descending else index
        received, sent = carry
        far = _from_far(system, order, block, sent)
        links = system.links(order.near(block, system.descending), dtype)
        prepared = system.prepare(far, *(order.own(table, block) for table in tables))
        own = _solve_steps(system, order.width, links, prepared, features)
        near = jnp.einsum("brp,bpd->brd", links, own).reshape(batch, size, -1)
        own = own.reshape(batch, size, -1)
        return (
            order.store(received, far + near, block, system.descending),
            order.store(sent, own, block, system.descending),
        )

    start = tuple(order.empty(fan * features, dtype) for fan in (system.fan_in, system.fan_out))
    received, _ = lax.fori_loop(0, order.blocks, solve_block, start)
    return order.nodes(received)


def _from_far(system: System, order: Order, block: jax.Array, sent: jax.Array) -> jax.Array:
    """What the slots of a block receive from the blocks visited before: [B, R, fan_in*D]."""
    first, last = order.tiles(block, system.descending)
    features = sent.shape[2] // system.fan_out * system.fan_in
    zeros = jnp.zeros((sent.shape[0], order.size, features), sent.dtype)

    def add(tile: jax.Array, total: jax.Array) -> jax.Array:
        return total + system.receive(*order.far(block, tile, system.descending, sent))

    return lax.fori_loop(first, last, add, zeros)


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
