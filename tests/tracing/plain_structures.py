"""Small plain-JAX networks: layers used again, loops, branches, text, mixtures of layers."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.tracing.plain_cases import (
    HEAD,
    TOKEN_HEAD,
    TOKENS,
    conv,
    head,
    layer_norm,
    registry,
    s,
)

CASES, case = registry()


@case(params={"w": s(12, 12), "b": s(12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=2, bias=2)
def shared_layer(p, x):
    for _ in range(3):
        x = jax.nn.relu(x @ p["w"] + p["b"])
    return head(x[:, 0], p["h"])


@case(
    params={"w": s(4, 12, 12), "b": s(4, 12), "s": s(4, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=5,
    bias=5,
    ln=4,
    sum=4,
)
def scan_over_layers(p, x):
    def body(x, layer):
        y = layer_norm(x, layer["s"], 0.0)
        return x + jax.nn.relu(y @ layer["w"] + layer["b"]), None

    x, _ = lax.scan(jax.checkpoint(body), x, {n: p[n] for n in "wbs"})
    return head(x[:, 0], p["h"])


@case(params={"w": s(3, 12, 12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=4, bias=1)
def loop_over_layers(p, x):
    x = lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["w"][i]), x)
    return head(x[:, 0], p["h"])


@case(params={"w": [s(12, 12) for _ in range(3)], "h": TOKEN_HEAD}, inputs=TOKENS, conv=4, bias=1)
def stacked_inside(p, x):
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.stack(p["w"]))
    return head(x[:, 0], p["h"])


@case(params={"w": s(12, 12), "v": s(12, 12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=3, bias=1)
def side_by_side(p, x):
    x = x @ jnp.concatenate([p["w"], p["v"]], 1)
    return head(jax.nn.relu(x[..., :12])[:, 0], p["h"])


@case(
    params={"a": s(12, 12), "b": s(12, 12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=3, bias=1, sum=1
)
def conditional(p, x):
    y = lax.cond(x.sum() > 0, lambda v: v @ p["a"], lambda v: v @ p["b"], x)
    return head((x + y)[:, 0], p["h"])


@case(params={"w": s(12, 12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=2, bias=1)
def while_loop(p, x):
    def body(state):
        return state[0] + 1, jnp.tanh(state[1] @ p["w"])

    _, x = lax.while_loop(lambda state: state[0] < 3, body, (0, x))
    return head(x[:, 0], p["h"])


@case(
    params={"t": s(50, 12), "pos": s(20, 12), "h": TOKEN_HEAD},
    inputs=jax.ShapeDtypeStruct((2, 9), jnp.int32),
    conv=2,
    pos_enc=1,
    sum=1,
    glob_avg=1,
    bias=1,
)
def text_embedding(p, ids):
    x = p["t"][ids] + p["pos"][:9]
    return head(x.mean(1), p["h"])


@case(
    params={"t": s(50, 12), "w": s(12, 12)}, inputs=jax.ShapeDtypeStruct((2, 9), jnp.int32), conv=2
)
def tied_embedding(p, ids):
    return jnp.tanh(p["t"][ids][:, -1] @ p["w"]) @ p["t"].T


@case(
    params={
        "tok1": s(9, 16),
        "tok2": s(16, 9),
        "ch1": s(12, 24),
        "ch2": s(24, 12),
        "s": s(12),
        "b": s(12),
        "h": TOKEN_HEAD,
    },
    inputs=TOKENS,
    conv=5,
    ln=1,
    sum=2,
    bias=1,
)
def mixer(p, x):
    y = layer_norm(x, p["s"], p["b"]).transpose(0, 2, 1)
    x = x + (jax.nn.gelu(y @ p["tok1"]) @ p["tok2"]).transpose(0, 2, 1)
    x = x + jax.nn.gelu(x @ p["ch1"]) @ p["ch2"]
    return head(x[:, 0], p["h"])


@case(
    params={
        "k": s(3, 3, 3, 8),
        "a": s(3, 3, 8, 4),
        "b": s(3, 3, 12, 4),
        "h": {"w": s(16, 10), "b": s(10)},
    },
    conv=4,
    concat=2,
    bias=1,
    glob_avg=1,
)
def dense_connections(p, x):
    x = conv(x, p["k"])
    x = jnp.concatenate([x, conv(x, p["a"])], -1)
    x = jnp.concatenate([x, conv(x, p["b"])], -1)
    return head(x.mean((1, 2)), p["h"])


@case("slope", params={"k": s(3, 3, 3, 8), "slope": s(8), "h": HEAD}, conv=2, bias=1, glob_avg=1)
def parametric_relu(p, x):
    x = conv(x, p["k"])
    return head(jnp.where(x > 0, x, p["slope"] * x).mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "d": s(3, 3, 1, 8), "h": HEAD},
    conv=2,
    sep_conv=1,
    bias=1,
    glob_avg=1,
)
def depthwise_by_shifts(p, x):
    x = conv(x, p["k"])
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(wide[:, i : i + 16, j : j + 16] * p["d"][i, j, 0] for i in range(3) for j in range(3))
    return head(x.mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "probe": s(1, 8), "q": s(8, 8), "kv": s(8, 16), "h": HEAD},
    conv=4,
    pos_enc=1,
    msa=1,
    bias=1,
)
def attention_pooling(p, x):
    x = conv(x, p["k"]).reshape(2, 256, 8)
    q = jnp.broadcast_to(p["probe"], (2, 1, 8)) @ p["q"]
    k, v = jnp.split(x @ p["kv"], 2, -1)
    a = jax.nn.softmax(jnp.einsum("bqc,bnc->bqn", q, k))
    return head(jnp.einsum("bqn,bnc->bqc", a, v)[:, 0], p["h"])
