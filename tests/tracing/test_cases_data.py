"""Data of unusual kinds: scalars beside arrays, operations with several results, random keys."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental.ode import odeint

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, gain, kernel, predecessors, s, same_leaves

KEY = jax.random.PRNGKey(0)
TWO = {"w": s(12, 8), "h": s(8, 10)}
TWO_LEAVES = {"w": kernel(8, 12), "h": kernel(10, 8)}


@pytest.fixture(autouse=True)
def _foreign_code():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


# --- scalars ----------------------------------------------------------------------------------

SCALARS = {
    "times": lambda y, t: t * jnp.tanh(y),
    "times on the right": lambda y, t: jnp.tanh(y) * t,
    "plus": lambda y, t: t + y,
    "minus": lambda y, t: t - y,
    "over": lambda y, t: y / t,
    "under": lambda y, t: t / (1 + y * y),
    "power": lambda y, t: jnp.abs(y) ** t,
    "maximum": lambda y, t: jnp.maximum(t, y),
    "where": lambda y, t: jnp.where(t > 0, y, t),
    "cond": lambda y, t: lax.cond(t > 0, jnp.tanh, lambda y: y, y),
    "cond on both": lambda y, t: lax.cond(t > 0, lambda y: y * t, lambda y: t - y, y),
    "clip": lambda y, t: jnp.clip(y, -t, t),
    "own mean": lambda y, t: y.mean() - y,
    "over own maximum": lambda y, t: y / y.max() + t,
    "own norm": lambda y, t: y / jnp.sqrt((y * y).sum()) * t,
    "loop": lambda y, t: lax.fori_loop(0, 3, lambda i, y: y + t * jnp.tanh(y), y),
    "while": lambda y, t: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + t, c[1] * t), (t, y)
    )[1],
    "stacked": lambda y, t: y + jnp.stack([t] * 8),
    "gated by a sigmoid": lambda y, t: jax.nn.sigmoid(t) * y + (1 - jax.nn.sigmoid(t)) * y,
}


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("where", ["middle", "end", "start"])
def test_a_scalar_beside_data(name, where):
    meet = SCALARS[name]

    def apply(p, x, t):
        if where == "start":
            x = meet(x[:, :8], t) @ p["w"][:8]
            return x @ p["h"]
        y = x @ p["w"]
        return meet(y, t) @ p["h"] if where == "middle" else meet(y @ p["h"][:, :8], t)

    def without(p, x):
        y = x[:, :8] @ p["w"][:8] if where == "start" else x @ p["w"]
        return y @ p["h"] if where != "end" else y @ p["h"][:, :8]

    graph = trace_graph(apply, TWO, (s(2, 12), s()))
    same_leaves(graph, trace_graph(without, TWO, s(2, 12)))


def test_a_neural_differential_equation():
    def apply(p, x):
        def field(y, t):
            return jnp.tanh(y @ p["w"] + t)

        return odeint(field, x, jnp.array([0.0, 1.0]))[-1] @ p["h"]

    check(
        trace_graph(apply, {"w": s(8, 8), "h": s(8, 10)}, s(2, 8)),
        {"w": kernel(8, 8), "h": kernel(10, 8)},
    )


def test_time_in_front_of_an_equinox_network():
    class Net(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x, t):
            return self.mlp(jnp.concatenate([jnp.atleast_1d(t), x]))

    net = eqx.filter_eval_shape(lambda key: Net(eqx.nn.MLP(5, 3, 8, 1, key=key)), KEY)
    arrays, static = eqx.partition(net, lambda leaf: hasattr(leaf, "shape"))
    check(
        trace_graph(lambda p, x, t: eqx.combine(p, static)(x, t), arrays, (s(4), s())),
        {
            "mlp/layers/0/weight": kernel(8, 5),
            "mlp/layers/0/bias": bias(8),
            "mlp/layers/1/weight": kernel(3, 8),
            "mlp/layers/1/bias": bias(3),
        },
    )


def test_a_learnt_embedding_of_a_scalar():
    def apply(p, x, t):
        time = jnp.sin(t * jnp.arange(6.0)) @ p["t"]
        return jnp.tanh(x @ p["w"] + time) @ p["h"]

    check(
        trace_graph(apply, TWO | {"t": s(6, 8)}, (s(2, 12), s())),
        TWO_LEAVES | {"t": kernel(8, 6)},
    )


def test_a_table_looked_up_by_a_scalar():
    def apply(p, x, t):
        return jnp.tanh(x @ p["w"] + p["table"][t]) @ p["h"]

    check(
        trace_graph(apply, TWO | {"table": s(50, 8)}, (s(2, 12), s(dtype=jnp.int32))),
        TWO_LEAVES | {"table": kernel(8, 50)},
    )


def test_a_scalar_position_in_a_cache():
    def apply(p, x, cache, t):
        cache = lax.dynamic_update_slice(cache, (x @ p["w"])[:, None], (0, t, 0))
        return cache.mean(1) @ p["h"]

    graph = trace_graph(apply, TWO, (s(2, 12), s(2, 5, 8), s(dtype=jnp.int32)))
    check(graph, TWO_LEAVES)


def test_linen_with_a_temperature_and_a_learnt_scalar():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, t):
            scale = self.param("scale", nn.initializers.ones, ())
            return nn.Dense(10)(nn.tanh(nn.Dense(8)(x)) * t * scale)

    net, inputs = Net(), (s(2, 12), s())
    graph = trace_graph(net.apply, jax.eval_shape(net.init, KEY, *inputs), inputs)
    check(
        graph,
        {
            "Dense_0/kernel": kernel(8, 12),
            "Dense_0/bias": bias(8),
            "Dense_1/kernel": kernel(10, 8),
            "Dense_1/bias": bias(10),
            "scale": [gain(1), Listed()],
        },
    )


def test_scalar_statistics_still_make_a_norm():
    def apply(p, x):
        y = x @ p["w"]
        y = (y - y.mean()) / jnp.sqrt(y.var() + 1e-5) * p["g"]
        return y @ p["h"]

    check(
        trace_graph(apply, TWO | {"g": s(8)}, s(2, 12)),
        TWO_LEAVES | {"g": [gain(8), gain(8, "bn")]},
    )


# --- operations with several results ------------------------------------------------------------


def spectrum(c):
    w, v = jnp.linalg.eigh(c)
    return (v * w[:, None, :]).reshape(2, -1)


def eigenvalues(c):
    return jnp.linalg.eigh(c)[0]


def eigenvectors(c):
    return jnp.linalg.eigh(c)[1][:, :, 0]


def triangular(c):
    q, r = jnp.linalg.qr(c)
    return jnp.concatenate([q[:, 0], r[:, 0]], -1)


def factors(c):
    lu, pivots, permutation = lax.linalg.lu(c)
    return lu[:, 0] + pivots + permutation


def singular(c):
    u, values, _ = jnp.linalg.svd(c)
    return u[:, 0] * values


def determinant(c):
    sign, log = jnp.linalg.slogdet(c)
    return jnp.stack([sign, log], -1)


def schur(c):
    return jax.scipy.linalg.schur(c[0])[0]


def best(c):
    values, places = lax.top_k(c[:, 0], 2)
    return values + places


def ordered(c):
    keys, values = lax.sort((c[:, 0], c[:, 1]), num_keys=1)
    return keys * values


def fraction(c):
    return jnp.concatenate([*jnp.frexp(c[:, 0])], -1).astype(jnp.float32)


def solved(c):
    return jnp.linalg.solve(c, c[:, 0, :, None])[..., 0]


def reduced_together(c):
    a, b = lax.reduce((c, c * c), (0.0, 0.0), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1,))
    return a * b


SEVERAL = (
    spectrum,
    eigenvalues,
    eigenvectors,
    triangular,
    factors,
    singular,
    determinant,
    schur,
    best,
    ordered,
    fraction,
    solved,
    reduced_together,
)


@pytest.mark.parametrize("operation", SEVERAL, ids=lambda f: f.__name__)
def test_operations_with_several_results_are_contracted(operation):
    def features(x):
        c = jnp.einsum("bni,bnj->bij", x, x)
        return operation(c)

    size = jax.eval_shape(features, s(2, 5, 4)).shape[-1]
    graph = trace_graph(
        lambda p, x: jnp.tanh(features(x @ p["w"]) @ p["h"]) @ p["o"],
        {"w": s(6, 4), "h": s(size, 8), "o": s(8, 10)},
        s(2, 5, 6),
    )
    check(graph, {"w": kernel(4, 6), "h": kernel(8, size), "o": kernel(10, 8)})
    assert "conv" in predecessors(graph, "h") or "msa" in predecessors(graph, "h")
    assert predecessors(graph, "o") == ["conv"]


# --- random keys --------------------------------------------------------------------------------

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
