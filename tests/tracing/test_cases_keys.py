"""Random keys among the inputs: they carry no data."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import check, kernel, predecessors, s, same_leaves

KEY = jax.random.PRNGKey(0)
TWO = {"w": s(12, 8), "h": s(8, 10)}


TYPED = jax.eval_shape(lambda: jax.random.key(0))
RAW = s(2, dtype=jnp.uint32)


def noise(p, key, x):
    y = x @ p["w"]
    return jnp.tanh(y + jax.random.normal(key, y.shape)) @ p["h"]


def dropout(p, key, x):
    y = x @ p["w"]
    return jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y * 2, 0.0) @ p["h"]


def sampled(p, key, x):
    y = x @ p["w"]
    mean, log = jnp.split(y, 2, -1)
    z = mean + jnp.exp(log) * jax.random.normal(key, mean.shape)
    return jnp.concatenate([z, z], -1) @ p["h"]


def several_keys(p, key, x):
    y = x @ p["w"]
    for k in jax.random.split(key, 3):
        y = jnp.tanh(y * jax.random.uniform(jax.random.fold_in(k, 1), y.shape))
    return y @ p["h"]


def key_in_a_loop(p, key, x):
    def body(carry, _):
        y, key = carry
        key, now = jax.random.split(key)
        return (y + jax.random.normal(now, y.shape), key), None

    (y, _), _ = lax.scan(body, (x @ p["w"], key), None, 3)
    return y @ p["h"]


def permuted(p, key, x):
    return jax.random.permutation(key, x @ p["w"], axis=1) @ p["h"]


def depth(p, key, x):
    y = x @ p["w"]
    return lax.cond(jax.random.bernoulli(key), lambda y: y, jnp.tanh, y) @ p["h"]


RANDOM = (noise, dropout, sampled, several_keys, key_in_a_loop, permuted, depth)


@pytest.mark.parametrize("kind", [TYPED, RAW], ids=["typed", "raw"])
@pytest.mark.parametrize("net", RANDOM, ids=lambda f: f.__name__)
def test_keys_carry_no_data(net, kind):
    def fixed(p, x):
        return net(p, jax.random.key(3) if kind is TYPED else jax.random.PRNGKey(3), x)

    same_graph(
        trace_graph(net, TWO, (kind, s(2, 12))),
        trace_graph(fixed, TWO, s(2, 12)),
    )


def same_graph(first, second):
    assert first.primitive_names == second.primitive_names
    assert first.edges.tolist() == second.edges.tolist()
    same_leaves(first, second)


@pytest.mark.parametrize("kind", [TYPED, RAW], ids=["typed", "raw"])
def test_haiku_with_a_key(kind):
    def net(x):
        x = jax.nn.relu(hk.Linear(8)(x))
        return hk.Linear(10)(hk.dropout(hk.next_rng_key(), 0.5, x))

    init, apply = hk.transform(net)
    params = jax.eval_shape(init, KEY, s(2, 12))
    same_graph(
        trace_graph(apply, params, (kind, s(2, 12))),
        trace_graph(lambda p, x: apply(p, KEY, x), params, s(2, 12)),
    )


def test_linen_with_a_key_among_the_inputs():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(8)(x))))

    net = Net()
    variables = jax.eval_shape(net.init, {"params": KEY, "dropout": KEY}, s(2, 12))

    def apply(v, x, key):
        return net.apply(v, x, rngs={"dropout": key})

    same_graph(
        trace_graph(apply, variables, (s(2, 12), TYPED)),
        trace_graph(lambda v, x: apply(v, x, KEY), variables, s(2, 12)),
    )


def test_equinox_with_keys_per_image():
    net = eqx.filter_eval_shape(
        lambda key: eqx.nn.Sequential(
            [eqx.nn.Linear(12, 8, key=key), eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 10, key=key)]
        ),
        KEY,
    )
    arrays, static = eqx.partition(net, lambda leaf: hasattr(leaf, "shape"))

    def apply(p, x, keys):
        return jax.vmap(lambda x, k: eqx.combine(p, static)(x, key=k))(x, keys)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    raw = s(2, 2, dtype=jnp.uint32)
    fixed = jax.random.split(jax.random.key(0), 2)
    want = trace_graph(lambda p, x: apply(p, x, fixed), arrays, s(2, 12))
    same_graph(trace_graph(apply, arrays, (s(2, 12), keys)), want)
    same_graph(trace_graph(apply, arrays, (s(2, 12), raw)), want)


def test_unsigned_words_that_are_no_keys_are_data():
    def apply(p, x):
        return p["table"][x].mean(0) @ p["h"]

    graph = trace_graph(apply, {"table": s(50, 8), "h": s(8, 10)}, s(2, dtype=jnp.uint32))
    check(graph, {"table": kernel(8, 50), "h": kernel(10, 8)})
    assert predecessors(graph, "table") == ["input"]


def test_a_key_beside_data_of_its_own_shape():
    def apply(p, key, x):
        return noise({"w": p["w"][:2], "h": p["h"]}, key, x.astype(jnp.float32)[None])

    graph = trace_graph(apply, TWO, (RAW, RAW))
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
