"""Gated graph neural network: one forward and one backward sweep over the nodes of a network.

Section 2.2 and Eq. 3-4 of the paper, as the reference computes them: node `v` receives the sum
over its direct predecessors `u` of MLP(h_u) plus the sum over all predecessors (the direct ones
included, although Eq. 4 says only longer paths) of MLP_sp(h_u) / distance(u, v), and a GRU
updates it. The forward sweep visits the nodes in execution order, the backward sweep in reverse
with successors in place of predecessors.

In either sweep every node that sends to `v` has been updated before `v`, so a sweep is a
triangular system (`triangular.py`). Its derivative is one too; the gradient of the weights is
taken after it, for all nodes at once. Nothing is approximated.

Legend: `B` meta-batch, `N` nodes, `D` node features, `S` steps, `W` nodes a step, `K` messages a
node sends (2 with virtual edges, else 1), `H` hidden units of a message MLP.
"""

import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.dense import MLP, Dense, affine
from ppuda_jax.ghn.orders import Order
from ppuda_jax.ghn.triangular import System, solve


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


def gru_gates(
    message_gates: jax.Array, state_gates: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gates of a GRU cell.

    Args:
      message_gates: the side of the messages, [..., 3D].
      state_gates: the side of the old state, [..., 3D].

    Returns:
      Reset, update and new gate, [..., D] each.
    """
    reset_m, update_m, new_m = jnp.split(message_gates, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(state_gates, 3, axis=-1)
    reset = jax.nn.sigmoid(reset_m + reset_h)
    update = jax.nn.sigmoid(update_m + update_h)
    return reset, update, jnp.tanh(new_m + reset * new_h)


def gru(message_gates: jax.Array, state: jax.Array, state_gates: jax.Array) -> jax.Array:
    """A GRU cell.

    Args:
      message_gates: the side of the messages, [..., 3D].
      state: the old state, [..., D].
      state_gates: its side, [..., 3D].

    Returns:
      The new state, [..., D].
    """
    _, update, new = gru_gates(message_gates, state_gates)
    return new + update * (state - new)


def transform(weights: NodeFunction, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What nodes send: the message MLPs, side by side.

    Args:
      weights: the node function.
      state: states of the nodes, [..., D].

    Returns:
      Hidden layer [..., K*H] and output [..., K*D].
    """
    hidden = nn.relu(affine(state, weights.first_kernel, weights.first_bias))
    return hidden, nn.relu(affine(hidden, weights.second_kernel, weights.second_bias))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def solve_messages(
    backward: bool,
    max_distance: int,
    weights: NodeFunction,
    order: Order,
    state: jax.Array,
    state_gates: jax.Array,
) -> jax.Array:
    """Messages that all nodes receive in one sweep.

    Args:
      backward: whether this is the backward sweep.
      max_distance: longest path that sends a message.
      weights: the node function.
      order: the graphs; not differentiated.
      state: states before the sweep, [B, N, D].
      state_gates: the GRU's state side for them, [B, N, 3D].

    Returns:
      [B, N, D].
    """
    return _sweep_fwd(backward, max_distance, weights, order, state, state_gates)[0]


def _sweep_fwd(backward, max_distance, weights, order, state, state_gates):
    def prepare(far, old, old_gates):
        return affine(far, weights.gru_kernel, weights.gru_bias), old, old_gates

    def node(near, prepared):
        far_gates, old, old_gates = prepared
        new = gru(far_gates + near @ weights.gru_kernel, old, old_gates)
        return transform(weights, new)[1]

    fan_out = weights.second_bias.shape[0] // state.shape[-1]
    system = System(backward, 1, fan_out, max_distance, prepare, node)
    messages = solve(system, order, (state, state_gates))
    return messages, (weights, order, state, state_gates, messages)


def _sweep_bwd(backward, max_distance, residuals, cotangent):
    weights, order, state, state_gates, messages = residuals
    gates_slope, hidden_on, output_on = _node_slopes(weights, messages, state, state_gates)
    first = jnp.tile(weights.first_kernel.T, (1, 3))  # to the three gates at once

    def prepare(far, direct, *slopes):
        return far, direct, *slopes

    def node(near, prepared):
        far, direct, gates_slope, hidden_on, output_on = prepared
        d_hidden = ((far + near) * output_on) @ weights.second_kernel.T
        d_gates = ((d_hidden * hidden_on) @ first) * gates_slope
        return direct + d_gates @ weights.gru_kernel.T

    fan_in = weights.second_bias.shape[0] // state.shape[-1]
    system = System(not backward, fan_in, 1, max_distance, prepare, node)
    tables = (cotangent, gates_slope, hidden_on, output_on)
    d_outputs = solve(system, order, tables)

    def send(weights, state, state_gates):
        gates = affine(messages, weights.gru_kernel, weights.gru_bias)
        return transform(weights, gru(gates, state, state_gates))[1]

    d_weights, d_state, d_gates = jax.vjp(send, weights, state, state_gates)[1](d_outputs)
    return d_weights, None, d_state, d_gates


def _node_slopes(weights, messages, state, state_gates):
    """Derivative factors of the node function, for all nodes at once.

    Returns:
      Slope of the new state in each input gate, [B, N, 3D], and where the hidden and the output
      units of the MLPs are active, [B, N, K*H] and [B, N, K*D].
    """
    gates = affine(messages, weights.gru_kernel, weights.gru_bias)
    reset, update, new = gru_gates(gates, state_gates)
    hidden, output = transform(weights, new + update * (state - new))
    new_slope = (1.0 - update) * (1.0 - new * new)
    new_h = jnp.split(state_gates, 3, axis=-1)[2]
    reset_slope = new_slope * new_h * reset * (1.0 - reset)
    update_slope = (state - new) * update * (1.0 - update)
    gates_slope = jnp.concatenate([reset_slope, update_slope, new_slope], axis=-1)
    return gates_slope, (hidden > 0).astype(state.dtype), (output > 0).astype(state.dtype)


solve_messages.defvjp(_sweep_fwd, _sweep_bwd)


class GatedGNN(nn.Module):
    """One forward and one backward sweep (T = 1) with weights shared by all nodes.

    Attributes:
      config: the hypernetwork; with virtual edges there is a second message MLP, and both have
        half the width.
    """

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        width = self.config.hid
        if self.config.uses_virtual_edges:
            self.mlp = MLP(width, width // 2, width)
            self.mlp_sp = MLP(width, width // 2, width)
        else:
            self.mlp = MLP(width, width, width)
        self.gru_input = Dense(width, (3 * width,))
        self.gru_hidden = Dense(width, (3 * width,))

    def __call__(self, state: jax.Array, order: Order) -> jax.Array:
        """Updates node features.

        Args:
          state: node features, [B, N, D].
          order: the graphs, and the order in which their nodes are visited.

        Returns:
          Node features after both sweeps, [B, N, D]; of no meaning for nodes without a slot.

        Raises:
          AssertionError: the shapes do not fit (from chex).
        """
        chex.assert_shape(state, (*order.shape, None))
        weights = self.node_function()
        reach = self.config.virtual_edges
        for backward in (False, True):
            gates = self.gru_hidden(state)
            message = solve_messages(backward, reach, weights, order, state, gates)
            state = gru(affine(message, weights.gru_kernel, weights.gru_bias), state, gates)
        return state

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
