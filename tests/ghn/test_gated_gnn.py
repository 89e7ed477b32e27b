"""The sweeps by blocks against the same sweeps one node after the other, on random graphs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from ppuda_jax.ghn import orders, triangular
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.gated_gnn import GatedGNN
from ppuda_jax.ghn.orders import by_steps, one_by_one
from tests.close import assert_close

CONFIGS = {
    "virtual": GHNConfig(hid=8, virtual_edges=50),
    "short": GHNConfig(hid=8, virtual_edges=3),
    "real": GHNConfig(hid=8, virtual_edges=1),
}


def _random_distance(rng, nodes, density):
    """Shortest paths [N, N] of a random graph with edges from lower to higher nodes."""
    distance = np.triu(rng.random((nodes, nodes)) < density, 1).astype(np.uint8)
    for length in range(1, nodes):  # paths of length + 1 = path of length, then an edge
        longer = (distance == length).astype(int) @ (distance == 1).astype(int) > 0
        distance[longer & (distance == 0)] = length + 1
    return distance


def _random_levels(rng, distance, steps, width, padding):
    """A schedule of up to W nodes a step that no other waits for, at random places."""
    levels, left = np.full((steps, width), padding, np.int32), set(range(len(distance)))
    for row in levels:
        ready = [v for v in sorted(left) if not left & set(np.flatnonzero(distance[:, v]))]
        chosen = rng.permutation(ready)[: rng.integers(1, width + 1)]
        row[rng.permutation(width)[: len(chosen)]] = chosen
        left -= set(chosen.tolist())
    return levels


def _case(config, width, seed=0, sizes=(10, 6, 1), nodes=12, steps=14, density=0.25):
    """Padded graphs of several sizes, some with nodes without edges; states; weights."""
    rng = np.random.default_rng(seed)
    distance = np.zeros((len(sizes), nodes, nodes), np.uint8)
    levels = np.full((len(sizes), steps, width), nodes, np.int32)
    for index, size in enumerate(sizes):
        paths = _random_distance(rng, size, density)
        distance[index, :size, :size] = paths
        levels[index] = _random_levels(rng, paths, steps, width, nodes)
    state = jax.random.normal(jax.random.key(seed), (len(sizes), nodes, config.hid))
    return _theta(config), state, distance, levels


@functools.cache
def _theta(config):
    def init(key):
        order = by_steps(jnp.zeros((1, 1, 1), jnp.uint8), jnp.zeros((1, 1, 1), jnp.int32))
        return GatedGNN(config).init(key, jnp.zeros((1, 1, config.hid)), order)

    return jax.jit(init)(jax.random.key(1))


def _dense(weights, x):
    return x @ weights["kernel"] + weights["bias"][None]


def _mlp(weights, x):
    return jax.nn.relu(_dense(weights["dense_1"], jax.nn.relu(_dense(weights["dense_0"], x))))


@functools.partial(jax.jit, static_argnames="max_distance")
def _visit(weights, state, node, steps, max_distance):
    """States [N, D] after a visit to a node, from which others are `steps` [N] away."""
    message = (steps == 1).astype(jnp.float32)[None] @ _mlp(weights["mlp"], state)
    if max_distance > 1:
        linked = (steps > 0) & (steps <= max_distance)
        weight = jnp.where(linked, 1 / jnp.maximum(steps, 1.0), 0).astype(jnp.float32)
        message += weight[None] @ _mlp(weights["mlp_sp"], state)
    old = state[node][None]
    r_m, z_m, n_m = jnp.split(_dense(weights["gru_input"], message), 3, axis=1)
    r_h, z_h, n_h = jnp.split(_dense(weights["gru_hidden"], old), 3, axis=1)
    z = jax.nn.sigmoid(z_m + z_h)
    new = (1 - z) * jnp.tanh(n_m + jax.nn.sigmoid(r_m + r_h) * n_h) + z * old
    return state.at[node].set(new[0])


def _one_by_one(theta, state, distance, max_distance):
    """Both sweeps over one graph, [N, D], node by node as in the specification."""
    nodes = len(distance)
    for order, paths in ((range(nodes), distance), (range(nodes)[::-1], distance.T)):
        for node in order:
            steps = paths[:, node].astype(np.float32)
            state = _visit(theta["params"], state, node, steps, max_distance)
    return state


def _sweep(config, theta, state, distance, levels):
    return GatedGNN(config).apply(theta, state, by_steps(distance, levels))


def _assert_same_as_one_by_one(config, theta, state, distance, levels=None, sizes=None):
    if sizes is None:
        sizes = [len(set(rows.ravel()) - {state.shape[1]}) for rows in levels]
    weight = np.random.default_rng(0).normal(size=state.shape).astype(np.float32)

    def fast(theta, state):
        if levels is None:
            order = one_by_one(distance, np.array(sizes, np.int32))
        else:
            order = by_steps(distance, levels)
        h = GatedGNN(config).apply(theta, state, order)
        h = [h[b, :n] for b, n in enumerate(sizes)]
        return sum(jnp.sum(rows * weight[b, : len(rows)]) for b, rows in enumerate(h)), h

    def slow(theta, state):
        h = [
            _one_by_one(theta, state[b, :n], distance[b, :n, :n], config.virtual_edges)
            for b, n in enumerate(sizes)
        ]
        return sum(jnp.sum(rows * weight[b, : len(rows)]) for b, rows in enumerate(h)), h

    run = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    results = [jax.jit(run(fast))(theta, state), run(slow)(theta, state)]
    assert_close(*results, 2e-5)


@pytest.mark.parametrize("name, width", [("virtual", 1), ("virtual", 3), ("short", 2), ("real", 3)])
def test_blocks_equal_one_node_at_a_time_with_gradients(name, width, monkeypatch):
    monkeypatch.setattr(orders, "BLOCK_STEPS", 3)  # several blocks and tiles
    monkeypatch.setattr(orders, "TILE", 4)
    _assert_same_as_one_by_one(CONFIGS[name], *_case(CONFIGS[name], width, seed=width))


@pytest.mark.parametrize("name, nodes", [("virtual", 12), ("virtual", 64), ("real", 48)])
def test_nodes_visited_as_they_are_numbered(name, nodes):
    config, sizes = CONFIGS[name], (nodes - 1, 6, 1)
    theta, state, distance, _ = _case(config, 1, seed=3, sizes=sizes, nodes=nodes, steps=nodes)
    _assert_same_as_one_by_one(config, theta, state, distance, sizes=sizes)


def test_nodes_visited_as_they_are_numbered_come_in_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 16 nodes, received 20"):
        one_by_one(np.zeros((1, 20, 20), np.uint8), np.array([20], np.int32))


def test_block_sizes_do_not_matter(monkeypatch):
    monkeypatch.setattr(orders, "BLOCK_STEPS", 5)
    monkeypatch.setattr(orders, "TILE", 64)
    monkeypatch.setattr(triangular, "UNROLL", 4)  # as users have it
    config = CONFIGS["virtual"]
    _assert_same_as_one_by_one(config, *_case(config, 2, seed=5, sizes=(5, 8)))


def test_padding_has_no_influence():
    config = CONFIGS["virtual"]
    theta, state, distance, levels = _case(config, 2, seed=2)
    run = jax.jit(functools.partial(_sweep, config, theta))
    want = run(state, distance, levels)[1:2, :6]
    pad = ((0, 0), (0, 30), (0, 0))
    wide_levels = np.pad(np.where(levels == 12, 42, levels), pad, constant_values=42)
    wide_distance = np.pad(distance, (*pad[:2], (0, 30)))
    wide_state = jnp.pad(state, pad, constant_values=7.0)
    alone = run(wide_state[1:2], wide_distance[1:2], wide_levels[1:2])[:, :6]
    assert_close(alone, want, 1e-5)


def test_one_trace_serves_all_lengths_and_the_loop_is_as_long_as_the_schedule():
    config = CONFIGS["virtual"]
    traces = []

    @jax.jit
    def run(theta, state, distance, levels):
        traces.append(levels.shape)
        order = by_steps(distance, levels)
        return GatedGNN(config).apply(theta, state, order), order.blocks

    for seed, size in enumerate((1, 10, 20)):
        case = _case(config, 1, seed=seed, sizes=(size, 1), nodes=32, steps=64)
        _, blocks = run(*case)
        assert int(blocks) == -(-size // orders.BLOCK_STEPS)
    assert len(traces) == 1


def test_runs_in_shard_map_and_scan():
    config = CONFIGS["virtual"]
    theta, state, distance, levels = _case(config, 2, seed=4, sizes=(9, 6))

    def gradient(theta, state, distance, levels):
        def loss(theta):
            return jnp.sum(_sweep(config, theta, state, distance, levels)[:, :6] ** 2)

        _, grads = jax.lax.scan(lambda c, _: (c, jax.grad(loss)(theta)), 0, None, length=2)
        return jax.tree.map(lambda g: g[1], grads)

    def shard(*args):
        return jax.lax.psum(gradient(*args), "meta_batch")

    split = PartitionSpec("meta_batch")
    mapped = jax.shard_map(
        shard,
        mesh=Mesh(np.asarray(jax.devices()[:2]), ("meta_batch",)),
        in_specs=(PartitionSpec(), split, split, split),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    results = [jax.jit(f)(theta, state, distance, levels) for f in (gradient, mapped)]
    assert_close(*results, 2e-5)


def test_message_weights_follow_the_reference():
    distance = jnp.array([0, 1, 2, 5], jnp.uint8)
    real, virtual = triangular.message_weights(distance, 4)
    np.testing.assert_allclose(real, [0, 1, 0, 0])
    np.testing.assert_allclose(virtual, [0, 1, 0.5, 0])
    assert len(triangular.message_weights(distance, 1)) == 1


@pytest.mark.parametrize("make", [by_steps, one_by_one])
def test_shapes_that_do_not_fit_are_refused(make):
    _, _, distance, levels = _case(CONFIGS["virtual"], 2)
    given = levels if make is by_steps else np.ones(3, np.int32)
    for wrong in ((distance[:, 1:], given), (distance[:2], given)):
        with pytest.raises(AssertionError, match="shape"):
            make(*wrong)


def test_states_of_other_graphs_are_refused():
    theta, state, distance, levels = _case(CONFIGS["virtual"], 2)
    for wrong in (state[:2], state[:, :11]):
        with pytest.raises(AssertionError, match="shape"):
            _sweep(CONFIGS["virtual"], theta, wrong, distance, levels)
