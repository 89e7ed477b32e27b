"""Scalars beside arrays: they carry data, and change no leaf."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental.ode import odeint

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, gain, kernel, s, same_leaves

KEY = jax.random.PRNGKey(0)
TWO = {"w": s(12, 8), "h": s(8, 10)}
TWO_LEAVES = {"w": kernel(8, 12), "h": kernel(10, 8)}


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
            "Dense_1/kernel": kernel(8, 12),
            "Dense_1/bias": bias(8),
            "Dense_0/kernel": kernel(10, 8),  # made first: the outer call
            "Dense_0/bias": bias(10),
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
