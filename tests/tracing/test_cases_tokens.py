"""Parameters that are computed with before any data: queries, tokens, tables, global vectors."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, found, gain, kernel, offset, position, s

TOKENS = s(2, 9, 12)
KEY = jax.random.PRNGKey(0)
REASON = Listed(r"^(?!.*influence)")
"""It does influence the output."""
GAIN = [gain(12), REASON]
OFFSET = [bias(12), offset(12), REASON]


def attend(q, x):
    return jax.nn.softmax(jnp.einsum("nc,bmc->bnm", q, x)) @ x


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


QUERIES = {
    "gain": (lambda p, q: q * p["g"], {"g": GAIN}),
    "offset": (lambda p, q: q + p["b"], {"b": OFFSET}),
    "gain and offset": (lambda p, q: q * p["g"] + p["b"], {"g": GAIN, "b": OFFSET}),
    "offset and gain": (lambda p, q: (q + p["b"]) * p["g"], {"g": GAIN, "b": OFFSET}),
    "gain of one plus": (lambda p, q: q * (1 + p["g"]), {"g": GAIN}),
    "after a function": (lambda p, q: jnp.tanh(q) * p["g"] + p["b"], {"g": GAIN, "b": OFFSET}),
    "layer norm": (lambda p, q: layer_norm(q) * p["g"] + p["b"], {"g": GAIN, "b": OFFSET}),
    "dense": (lambda p, q: q @ p["w"] + p["b"], {"w": kernel(12, 12), "b": OFFSET}),
    "two dense": (
        lambda p, q: jnp.tanh(q @ p["w"] + p["b"]) @ p["v"],
        {"w": kernel(12, 12), "b": OFFSET, "v": kernel(12, 12)},
    ),
    "norm and dense": (
        lambda p, q: (layer_norm(q) * p["g"]) @ p["w"],
        {"g": GAIN, "w": kernel(12, 12)},
    ),
}
VECTORS = {"g": s(12), "b": s(12), "w": s(12, 12), "v": s(12, 12)}


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("name", QUERIES)
def test_a_learnt_query_that_is_computed_with(name, repeated):
    change, leaves = QUERIES[name]

    def apply(p, x):
        q = p["q"]
        if repeated:
            q = jnp.broadcast_to(q, (2, 4, 12))
            y = jax.nn.softmax(jnp.einsum("bnc,bmc->bnm", change(p, q), x)) @ x
        else:
            y = attend(change(p, q), x)
        return y.mean(1) @ p["h"]

    params = {n: VECTORS[n] for n in leaves} | {"q": s(4, 12), "h": s(12, 10)}
    # the product of a learnt query and the data is a dense layer on the data as well
    query = [position(1, 12, 2, 2), position(1, 12, 4), kernel(4, 12)]
    check(trace_graph(apply, params, TOKENS), leaves | {"q": query, "h": kernel(10, 12)})


def test_a_query_that_is_computed_with_after_it_met_data():
    def apply(p, x):
        y = attend(p["q"], x)
        return (attend_more(p["q"] * p["g"] + p["b"], x) + y).mean(1) @ p["h"]

    def attend_more(q, x):
        return jnp.tanh(attend(q, x))

    params = {"q": s(4, 12), "g": s(12), "b": s(12), "h": s(12, 10)}
    check(
        trace_graph(apply, params, TOKENS),
        {
            "q": [position(1, 12, 2, 2), kernel(4, 12)],
            "g": GAIN,
            "b": OFFSET,
            "h": kernel(10, 12),
        },
    )


@pytest.mark.parametrize("place", ["position", "token"])
def test_scale_and_offset_of_positions_and_tokens(place):
    def apply(p, x):
        t = p["t"] * p["g"] + p["b"]
        if place == "position":
            x = x + t
        else:
            x = jnp.concatenate([jnp.broadcast_to(t, (2, *t.shape)), x], 1)
        return jnp.tanh(x @ p["w"])[:, 0] @ p["h"]

    rows = 9 if place == "position" else 1
    params = {"t": s(rows, 12), "g": s(12), "b": s(12), "w": s(12, 8), "h": s(8, 10)}
    where = position(1, 12, 3, 3) if place == "position" else position(1, 12)
    check(
        trace_graph(apply, params, TOKENS),
        {"t": where, "g": GAIN, "b": OFFSET, "w": kernel(8, 12), "h": kernel(10, 8)},
    )


def test_positions_through_a_network_of_their_own():
    def apply(p, x):
        t = jnp.tanh(p["t"] @ p["a"] + p["b"]) @ p["c"]
        return jnp.tanh((x + t) @ p["w"]).mean(1) @ p["h"]

    params = {"t": s(9, 6), "a": s(6, 16), "b": s(16), "c": s(16, 12), "w": s(12, 8), "h": s(8, 10)}
    check(
        trace_graph(apply, params, TOKENS),
        {
            "t": position(1, 6, 3, 3),
            "a": kernel(16, 6),
            "b": [bias(16), REASON],
            "c": kernel(12, 16),
            "w": kernel(8, 12),
            "h": kernel(10, 8),
        },
    )


def talking_heads(p, x, with_bias):
    q, k, v = (jnp.einsum("bnc,chd->bnhd", x, p[n]) for n in "qkv")
    a = jnp.einsum("bnhd,bmhd->bhnm", q, k)
    a = jnp.einsum("bhnm,hg->bgnm", a, p["before"])
    if with_bias:
        a = a + p["bb"][:, None, None]
    a = jax.nn.softmax(a)
    a = jnp.einsum("bhnm,hg->bgnm", a, p["after"])
    if with_bias:
        a = a + p["ba"][:, None, None]
    return jnp.einsum("bhnm,bmhd,hdc->bnc", a, v, p["o"]).mean(1) @ p["h"]


@pytest.mark.parametrize("with_bias", [False, True])
def test_talking_heads(with_bias):
    params = {n: s(12, 4, 3) for n in "qkv"}
    params |= {"before": s(4, 4), "after": s(4, 4), "o": s(4, 3, 12), "h": s(12, 10)}
    leaves = {n: kernel(12, 12) for n in "qkvo"}
    leaves |= {"before": [kernel(4, 4), Listed()], "after": [kernel(4, 4), Listed()]}
    if with_bias:
        params |= {"bb": s(4), "ba": s(4)}
        leaves |= {"bb": [bias(4), REASON], "ba": [bias(4), REASON]}
    check(
        trace_graph(lambda p, x: talking_heads(p, x, with_bias), params, TOKENS),
        leaves | {"h": kernel(10, 12)},
    )


def test_a_relative_bias_with_a_gain_per_head():
    def apply(p, x):
        q = jnp.einsum("bnc,chd->bnhd", x, p["q"])
        a = jnp.einsum("bnhd,bmhd->bhnm", q, q) + p["table"] * p["g"][:, None, None]
        return (
            jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(a), q).reshape(2, 9, 12).mean(1) @ p["h"]
        )

    params = {"q": s(12, 4, 3), "table": s(4, 9, 9), "g": s(4), "h": s(12, 10)}
    leaves = found(trace_graph(apply, params, TOKENS))
    assert leaves["q"] == [kernel(12, 12)] and leaves["h"] == [kernel(10, 12)]
    assert [part.role for part in leaves["table"]] == ["pos_enc"]
    assert leaves["g"] == [gain(4)] or isinstance(leaves["g"], str)


def test_a_global_vector_of_a_graph_network():
    def apply(p, x):
        u = jnp.tanh(p["u"] @ p["wu"] + p["bu"])
        x = jnp.tanh(x @ p["w"] + u)
        return x.mean(1) @ p["h"]

    params = {"u": s(6), "wu": s(6, 8), "bu": s(8), "w": s(12, 8), "h": s(8, 10)}
    check(
        trace_graph(apply, params, TOKENS),
        {
            "u": position(1, 6),
            "wu": kernel(8, 6),
            "bu": [bias(8), REASON],
            "w": kernel(8, 12),
            "h": kernel(10, 8),
        },
    )


def test_two_learnt_vectors_that_are_added():
    def apply(p, x):
        return jnp.tanh(
            (x + p["row"][:, None] + p["column"][None]).reshape(2, 9, 12) @ p["w"]
        ).mean(1)

    params = {"row": s(3, 12), "column": s(3, 12), "w": s(12, 10)}
    leaves = found(trace_graph(apply, params, s(2, 3, 3, 12)))
    assert [p.role for p in leaves["row"]] == [p.role for p in leaves["column"]] == ["pos_enc"]


def test_factored_positions_that_are_added_first():
    def apply(p, x):
        grid = (p["row"][:, None] + p["column"][None]).reshape(9, 12)
        return jnp.tanh((x + grid) @ p["w"]).mean(1)

    graph = trace_graph(apply, {"row": s(3, 12), "column": s(3, 12), "w": s(12, 10)}, TOKENS)
    leaves = found(graph)
    assert leaves["w"] == [kernel(10, 12)]
    for name in ("row", "column"):
        assert isinstance(leaves[name], str) or leaves[name][0].role == "pos_enc"


def test_linen_queries_with_layers_of_their_own():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            q = self.param("q", nn.initializers.normal(), (4, 12))
            q = nn.LayerNorm(name="norm")(nn.Dense(12, name="project")(q))
            y = jax.nn.softmax(jnp.einsum("nc,bmc->bnm", q, x)) @ x
            return nn.Dense(10, name="h")(y.mean(1))

    net = Net()
    graph = trace_graph(net.apply, jax.eval_shape(net.init, KEY, TOKENS), TOKENS)
    check(
        graph,
        {
            "q": position(1, 12, 2, 2),
            "project/kernel": kernel(12, 12),
            "project/bias": [bias(12), REASON],
            "norm/scale": GAIN,
            "norm/bias": OFFSET,
            "h/kernel": kernel(10, 12),
            "h/bias": bias(10),
        },
    )


def test_equinox_latents_with_a_norm():
    class Net(eqx.Module):
        latents: jax.Array
        norm: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        out: eqx.nn.Linear

        def __call__(self, x):
            q = jax.vmap(self.norm)(self.latents)
            return self.out(self.attention(q, x, x).mean(0))

    def make(key):
        return Net(
            jax.random.normal(key, (4, 12)),
            eqx.nn.LayerNorm(12),
            eqx.nn.MultiheadAttention(3, 12, key=key),
            eqx.nn.Linear(12, 10, key=key),
        )

    net = eqx.filter_eval_shape(make, KEY)
    arrays, static = eqx.partition(net, lambda leaf: hasattr(leaf, "shape"))
    leaves = found(trace_graph(lambda p, x: eqx.combine(p, static)(x), arrays, s(9, 12)))
    assert leaves["latents"] in ([position(1, 12, 2, 2)], [kernel(4, 12)])
    assert leaves["norm/weight"] == [gain(12)] or isinstance(leaves["norm/weight"], str)
    kernels = [leaves[n] for n in leaves if n.startswith("attention/")]
    assert kernels.count([kernel(12, 12)]) >= len(kernels) - 1 > 2
