"""Gated graph neural network: one forward and one backward sweep over the nodes of a network.

Section 2.2 and Eq. 3-4 of the paper, as the reference computes them: node `v` receives the sum
over its direct predecessors `u` of MLP(h_u) plus the sum over all predecessors (the direct ones
included, although Eq. 4 says only longer paths) of MLP_sp(h_u) / distance(u, v), and a GRU
updates it. The forward sweep visits the nodes in execution order, the backward sweep in reverse
with successors in place of predecessors.

In either sweep every node that sends to `v` has been updated before `v`, so a sweep solves a
triangular system m = A g(m), where g is the same small function for every node (GRU, then both
MLPs). `solve_messages` solves it by a scan over the levels of the schedule: a step makes up to W
independent nodes, with one product for the messages and a few small ones for g. Its derivative
is a triangular system with A transposed, solved by the same kind of scan, after which the
gradient of all weights is taken at once for all nodes. Nothing is approximated.

Legend: `B` meta-batch, `N` nodes, `D` node features, `S` steps, `W` nodes a step, `K` messages a
node sends (2 with virtual edges, else 1), `P` = S * W slots; slot s * W + w is node `w` of step
`s`. Slots without a node send nothing, receive nothing and are read by nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.dense import MLP, Dense, affine


class NodeFunction(NamedTuple):
    """Weights of the function that every node applies: the GRU's input side and the MLPs.

    Attributes:
      gru_kernel, gru_bias: [D, 3D], [3D]; gates in the order reset, update, new.
      first_kernel, first_bias: both MLPs' first layers side by side, [D, K*H], [K*H].
      second_kernel, second_bias: their second layers, block diagonal, [K*H, K*D], [K*D].
    """

    gru_kernel: jax.Array
    gru_bias: jax.Array
    first_kernel: jax.Array
    first_bias: jax.Array
    second_kernel: jax.Array
    second_bias: jax.Array


class Links(NamedTuple):
    """Message weights between slots for one sweep: the same matrix by receiver and by sender.

    Attributes:
      receive: [S, B, W, P*K]; what each slot of a step gets from message k of slot p.
      send: [S, B, W*K, P]; what message k of each slot of a step contributes to slot p.
    """

    receive: jax.Array
    send: jax.Array


def gru_gates(
    weights: NodeFunction, message: jax.Array, state_gates: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Reset, update and new gates [..., D], from a message [..., D] and state gates [..., 3D]."""
    message_gates = affine(message, weights.gru_kernel, weights.gru_bias)
    reset_m, update_m, new_m = jnp.split(message_gates, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(state_gates, 3, axis=-1)
    reset = jax.nn.sigmoid(reset_m + reset_h)
    update = jax.nn.sigmoid(update_m + update_h)
    return reset, update, jnp.tanh(new_m + reset * new_h)


def gru(
    weights: NodeFunction, message: jax.Array, state: jax.Array, state_gates: jax.Array
) -> jax.Array:
    """New state [..., D] of a GRU cell, from message and old state [..., D]."""
    _, update, new = gru_gates(weights, message, state_gates)
    return new + update * (state - new)


def transform(weights: NodeFunction, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hidden layer [..., K*H] and output [..., K*D] of the message MLPs for states [..., D]."""
    hidden = nn.relu(affine(state, weights.first_kernel, weights.first_bias))
    return hidden, nn.relu(affine(hidden, weights.second_kernel, weights.second_bias))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def solve_messages(
    backward: bool,
    weights: NodeFunction,
    links: Links,
    state: jax.Array,
    state_gates: jax.Array,
) -> jax.Array:
    """Messages that all nodes receive in one sweep.

    Args:
      backward: whether the steps are visited from the last to the first.
      weights: the node function.
      links: message weights of this sweep; not differentiated.
      state: states before the sweep, [S, B, W, D].
      state_gates: the GRU's state side for them, [S, B, W, 3D].

    Returns:
      [S, B, W, D].
    """
    return _solve_fwd(backward, weights, links, state, state_gates)[0]


def _solve_fwd(backward, weights, links, state, state_gates):
    steps, batch, width, features = state.shape
    fan_out = weights.second_bias.shape[0] // features

    def step(sent: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        index, receive, old, old_gates = inputs
        message = jnp.einsum("bwp,bpd->bwd", receive, sent)
        _, output = transform(weights, gru(weights, message, old, old_gates))
        output = output.reshape(batch, width * fan_out, features)
        sent = lax.dynamic_update_slice_in_dim(sent, output, index * width * fan_out, axis=1)
        return sent, message

    sent = jnp.zeros((batch, steps * width * fan_out, features), state.dtype)
    inputs = (jnp.arange(steps), links.receive, state, state_gates)
    _, messages = lax.scan(step, sent, inputs, reverse=backward)
    return messages, (weights, links, state, state_gates, messages)


def _solve_bwd(backward, residuals, cotangent):
    weights, links, state, state_gates, messages = residuals
    steps, batch, width, features = state.shape
    fan_out = weights.second_bias.shape[0] // features
    slopes = _node_slopes(weights, messages, state, state_gates)

    def step(grads: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        index, send, direct, (gates_slope, hidden_on, output_on) = inputs
        d_output = jnp.einsum("bqp,bpd->bqd", send, grads)
        d_output = d_output.reshape(batch, width, fan_out * features)
        d_hidden = (d_output * output_on) @ weights.second_kernel.T
        d_state = (d_hidden * hidden_on) @ weights.first_kernel.T
        d_gates = jnp.concatenate([d_state] * 3, axis=-1) * gates_slope
        d_message = direct + d_gates @ weights.gru_kernel.T
        grads = lax.dynamic_update_slice_in_dim(grads, d_message, index * width, axis=1)
        return grads, d_output

    grads = jnp.zeros((batch, steps * width, features), state.dtype)
    inputs = (jnp.arange(steps), links.send, cotangent, slopes)
    _, d_outputs = lax.scan(step, grads, inputs, reverse=not backward)

    def outputs(weights, state, state_gates):
        return transform(weights, gru(weights, messages, state, state_gates))[1]

    _, pull = jax.vjp(outputs, weights, state, state_gates)
    d_weights, d_old, d_old_gates = pull(d_outputs)
    return d_weights, None, d_old, d_old_gates


def _node_slopes(weights, messages, state, state_gates):
    """Derivative factors of the node function, for all nodes at once.

    Returns:
      Slope of the new state in each input gate, [S, B, W, 3D], and where the hidden and the
      output units of the MLPs are active, [S, B, W, K*H] and [S, B, W, K*D].
    """
    reset, update, new = gru_gates(weights, messages, state_gates)
    hidden, output = transform(weights, new + update * (state - new))
    new_slope = (1.0 - update) * (1.0 - new * new)
    new_h = jnp.split(state_gates, 3, axis=-1)[2]
    reset_slope = new_slope * new_h * reset * (1.0 - reset)
    update_slope = (state - new) * update * (1.0 - update)
    gates_slope = jnp.concatenate([reset_slope, update_slope, new_slope], axis=-1)
    return gates_slope, (hidden > 0).astype(state.dtype), (output > 0).astype(state.dtype)


solve_messages.defvjp(_solve_fwd, _solve_bwd)


def message_weights(distance: jax.Array, max_distance: int) -> jax.Array:
    """Weight of each kind of message between two nodes.

    Args:
      distance: uint8 [...]; shortest path from sender to receiver, 0 where there is none.
      max_distance: longest path that sends a message; 1 or less for real edges only.

    Returns:
      float32 [..., K]: 1 on real edges, then (with virtual edges) 1 / distance on all paths.
    """
    real = (distance == 1).astype(jnp.float32)
    if max_distance <= 1:
        return real[..., None]
    linked = (distance > 0) & (distance <= max_distance)
    steps = jnp.maximum(distance, 1).astype(jnp.float32)
    return jnp.stack([real, jnp.where(linked, 1.0 / steps, 0.0)], axis=-1)


def sweep_links(distance: jax.Array, levels: jax.Array, max_distance: int) -> tuple[Links, Links]:
    """Message weights between slots, for the forward and the backward sweep.

    Args:
      distance: shortest paths, uint8 [B, N, N], from the second to the third axis.
      levels: schedule, int32 [B, S, W]; N where a slot has no node.
      max_distance: see `message_weights`.
    """
    batch, steps, width = levels.shape
    slots = levels.reshape(batch, -1)
    size = slots.shape[1]
    padded = jnp.pad(distance, ((0, 0), (0, 1), (0, 1)))
    by_slot = jax.vmap(lambda paths, slot: paths[slot][:, slot])(padded, slots)  # [B, P, P]
    weights = message_weights(by_slot, max_distance)  # [B, from, to, K]
    fan_out = weights.shape[-1]

    def by_step(rows: jax.Array) -> jax.Array:
        """[B, P*r, c] -> [S, B, W*r, c]."""
        columns = rows.shape[-1]
        return jnp.moveaxis(rows.reshape(batch, steps, -1, columns), 1, 0)

    def links(sender: int, receiver: int) -> Links:
        receive = weights.transpose(0, receiver, sender, 3).reshape(batch, size, size * fan_out)
        send = weights.transpose(0, sender, 3, receiver).reshape(batch, size * fan_out, size)
        return Links(by_step(receive), by_step(send))

    return links(1, 2), links(2, 1)


Propagate = Callable[..., jax.Array]
"""(weights, hidden_gates, state [B, N, D], distance, levels, max_distance) -> [B, N, D]."""


def propagate_by_levels(
    weights: NodeFunction,
    hidden_gates: Callable[[jax.Array], jax.Array],
    state: jax.Array,
    distance: jax.Array,
    levels: jax.Array,
    max_distance: int,
) -> jax.Array:
    """Forward and backward sweep, the nodes of a level together.

    Args:
      weights: the node function.
      hidden_gates: the GRU's state side, [..., D] -> [..., 3D].
      state: node features, [B, N, D].
      distance: shortest paths, uint8 [B, N, N], from the second to the third axis.
      levels: schedule, int32 [B, S, W]; N where a slot has no node.
      max_distance: longest path that sends a message.

    Returns:
      Node features after both sweeps, [B, N, D]; zeros for nodes that have no slot.
    """
    batch, nodes, features = state.shape
    slots = levels.reshape(batch, -1)  # [B, P]
    padded = jnp.pad(state, ((0, 0), (0, 1), (0, 0)))
    by_slot = jax.vmap(lambda rows, slot: rows[slot])(padded, slots)
    current = jnp.moveaxis(by_slot.reshape(*levels.shape, features), 1, 0)  # [S, B, W, D]
    for backward, links in enumerate(sweep_links(distance, levels, max_distance)):
        gates = hidden_gates(current)
        message = solve_messages(bool(backward), weights, links, current, gates)
        current = gru(weights, message, current, gates)
    by_slot = jnp.moveaxis(current, 0, 1).reshape(batch, -1, features)
    slot_of_node = jax.vmap(lambda slot: _inverse(slot, nodes))(slots)  # [B, N]
    by_slot = jnp.pad(by_slot, ((0, 0), (0, 1), (0, 0)))
    return jax.vmap(lambda rows, slot: rows[slot])(by_slot, slot_of_node)


def _inverse(slots: jax.Array, nodes: int) -> jax.Array:
    """Slot of each node [N] from the node of each slot [P]; P where a node has no slot."""
    size = slots.shape[0]
    slot_of_node = jnp.full((nodes + 1,), size, jnp.int32)
    return slot_of_node.at[slots].set(jnp.arange(size, dtype=jnp.int32))[:nodes]


def propagate_by_nodes(
    weights: NodeFunction,
    hidden_gates: Callable[[jax.Array], jax.Array],
    state: jax.Array,
    distance: jax.Array,
    levels: jax.Array,
    max_distance: int,
) -> jax.Array:
    """Same as `propagate_by_levels`, one node after the other and word for word as in the paper.

    Slow; it takes the nodes in the order of their indices and ignores `levels`. For tests.
    """
    del levels
    nodes, features = state.shape[1:]
    links = message_weights(distance, max_distance)  # [B, from, to, K]
    for backward in (False, True):
        weight = links.swapaxes(1, 2) if backward else links
        for node in reversed(range(nodes)) if backward else range(nodes):
            sent = transform(weights, state)[1].reshape(*state.shape[:2], -1, features)
            message = jnp.einsum("bpk,bpkd->bd", weight[:, :, node], sent)
            old = state[:, node]
            state = state.at[:, node].set(gru(weights, message, old, hidden_gates(old)))
    return state


class GatedGNN(nn.Module):
    """One forward and one backward sweep (T = 1) with weights shared by all nodes.

    Attributes:
      config: the hypernetwork; with virtual edges there is a second message MLP, and both have
        half the width.
      propagate: how the sweeps are computed.
    """

    config: GHNConfig
    propagate: Propagate = propagate_by_levels

    def setup(self) -> None:
        width = self.config.hid
        if self.config.uses_virtual_edges:
            self.mlp = MLP(width, width // 2, width)
            self.mlp_sp = MLP(width, width // 2, width)
        else:
            self.mlp = MLP(width, width, width)
        self.gru_input = Dense(width, (3 * width,))
        self.gru_hidden = Dense(width, (3 * width,))

    def __call__(self, state: jax.Array, distance: jax.Array, levels: jax.Array) -> jax.Array:
        """Updates node features; arguments and result as in `propagate_by_levels`."""
        return self.propagate(
            self.node_function(),
            self.gru_hidden,
            state,
            distance,
            levels,
            self.config.virtual_edges,
        )

    def node_function(self) -> NodeFunction:
        """The weights as the sweeps use them, both message MLPs merged into one."""
        mlps = [self.mlp, self.mlp_sp] if self.config.uses_virtual_edges else [self.mlp]
        return NodeFunction(
            self.gru_input.kernel,
            self.gru_input.bias,
            jnp.concatenate([mlp.dense_0.kernel for mlp in mlps], axis=1),
            jnp.concatenate([mlp.dense_0.bias for mlp in mlps]),
            jax.scipy.linalg.block_diag(*[mlp.dense_1.kernel for mlp in mlps]),
            jnp.concatenate([mlp.dense_1.bias for mlp in mlps]),
        )
