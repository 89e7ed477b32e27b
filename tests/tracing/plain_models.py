"""Small plain-JAX networks, one for each construct that the tracer must recognise.

`CASES[name]` is (build, kinds, unbound): `build()` gives (apply_fn, params, inputs), `kinds` the
expected number of nodes by kind (besides the input), `unbound` the leaves listed as unbound.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CASES = {}

IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((2, 9, 12), jnp.float32)


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def case(*unbound, params, inputs=IMAGE, **kinds):
    def register(function):
        CASES[function.__name__] = (lambda: (function, params, inputs), kinds, set(unbound))
        return function

    return register


def conv(x, w, stride=1, groups=1, dilation=1, padding="SAME", dims=("NHWC", "HWIO", "NHWC")):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=dims,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
    )


def head(x, p):
    return x @ p["w"] + p["b"]


HEAD = {"w": s(8, 10), "b": s(10)}
TOKEN_HEAD = {"w": s(12, 10), "b": s(10)}


@case(params={"k": s(3, 3, 3, 8), "h": HEAD}, conv=2, bias=1, glob_avg=1)
def plain_conv(p, x):
    return head(jax.nn.relu(conv(x, p["k"])).mean((1, 2)), p["h"])


@case(params={"k": s(8, 3, 3, 3), "b": s(8), "h": HEAD}, conv=2, bias=2, glob_avg=1)
def channels_first(p, x):
    x = conv(x.transpose(0, 3, 1, 2), p["k"], dims=("NCHW", "OIHW", "NCHW"))
    return head((x + p["b"][:, None, None]).mean((2, 3)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "g": s(3, 3, 2, 8), "d": s(3, 3, 1, 8), "h": HEAD},
    conv=2,
    sep_conv=1,
    dil_conv=1,
    bias=1,
    glob_avg=1,
)
def grouped_and_dilated(p, x):
    x = conv(conv(x, p["k"]), p["g"], groups=4)
    return head(conv(x, p["d"], groups=8, dilation=2).mean((1, 2)), p["h"])


@case(params={"k": s(3, 3, 3, 8), "t": s(4, 4, 8, 8), "h": HEAD}, conv=3, bias=1, glob_avg=1)
def transposed_conv(p, x):
    x = lax.conv_transpose(conv(x, p["k"]), p["t"], (2, 2), "SAME", transpose_kernel=True)
    return head(x.mean((1, 2)), p["h"])


@case(params={"k": s(3, 3, 3, 8), "h": HEAD}, conv=2, bias=1, glob_avg=1)
def vmapped_conv(p, x):
    y = jax.vmap(lambda v: conv(v[None], p["k"])[0])(x)
    return jax.vmap(lambda v: head(v.mean((0, 1)), p["h"]))(y)


@case(params={"k": s(5, 3, 8), "h": HEAD}, inputs=s(2, 32, 3), conv=2, bias=1, glob_avg=1)
def conv_1d(p, x):
    y = lax.conv_general_dilated(x, p["k"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return head(y.mean(1), p["h"])


@case(
    params={"k": s(3, 3, 3, 3, 8), "h": HEAD}, inputs=s(2, 8, 8, 8, 3), conv=2, bias=1, glob_avg=1
)
def conv_3d(p, x):
    y = lax.conv_general_dilated(
        x, p["k"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    return head(y.mean((1, 2, 3)), p["h"])


def layer_norm(x, scale, bias):
    m = x.mean(-1, keepdims=True)
    return (x - m) * lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def softmax_attention(q, k, v):
    a = jax.nn.softmax(jnp.einsum("bnhk,bmhk->bhnm", q, k) * 0.3)
    return jnp.einsum("bhnm,bmhk->bnhk", a, v)


@case(
    params={"s": s(12), "b": s(12), "qkv": s(3, 12, 4, 3), "o": s(4, 3, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    ln=1,
    conv=3,
    msa=1,
    sum=1,
    bias=1,
)
def fused_qkv_first(p, x):
    q, k, v = jnp.einsum("bnd,cdhk->cbnhk", layer_norm(x, p["s"], p["b"]), p["qkv"])
    x = x + jnp.einsum("bnhk,hkd->bnd", softmax_attention(q, k, v), p["o"])
    return head(x[:, 0], p["h"])


@case(
    params={"qkv": s(12, 36), "qb": s(36), "o": s(12, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=3,
    msa=1,
    bias=2,
    max_pool=1,
)
def fused_qkv_split(p, x):
    q, k, v = (t.reshape(2, 9, 4, 3) for t in jnp.split(x @ p["qkv"] + p["qb"], 3, -1))
    return head(softmax_attention(q, k, v).reshape(2, 9, 12).max(1) @ p["o"], p["h"])


@case(
    params={"qkv": s(36, 12), "o": s(12, 12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=5, msa=1, bias=1
)
def sliced_in_proj(p, x):
    q, k, v = ((x @ p["qkv"][i * 12 : (i + 1) * 12].T).reshape(2, 9, 4, 3) for i in range(3))
    return head((softmax_attention(q, k, v).reshape(2, 9, 12) @ p["o"])[:, -1], p["h"])


@case(
    params={
        "q": s(4, 12, 3),
        "k": s(4, 12, 3),
        "v": s(4, 12, 3),
        "o": s(4, 3, 12),
        "h": TOKEN_HEAD,
    },
    inputs=TOKENS,
    conv=5,
    msa=1,
    bias=1,
)
def per_head_kernels(p, x):
    q, k, v = (jnp.einsum("bnd,hdk->bnhk", x, p[n]) for n in "qkv")
    y = jax.nn.dot_product_attention(q, k, v)
    return head(jnp.einsum("bnhk,hkd->bnd", y, p["o"])[:, 0], p["h"])


@case(
    params={"w": s(12, 24), "s": s(24), "h": {"w": s(24, 10), "b": s(10)}},
    inputs=TOKENS,
    conv=2,
    ln=1,
    bias=1,
)
def rms_norm(p, x):
    y = x @ p["w"]
    y = y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * (1 + p["s"])
    return head(y[:, 0], p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "s": s(8), "b": s(8), "h": HEAD}, conv=2, bn=1, bias=1, glob_avg=1
)
def instance_norm(p, x):
    x = conv(x, p["k"])
    x = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    return head((x * p["s"] + p["b"]).mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "s": s(8), "b": s(8), "h": HEAD}, conv=2, ln=1, bias=1, glob_avg=1
)
def group_norm(p, x):
    x = conv(x, p["k"])
    g = x.reshape(2, 16, 16, 4, 2)
    m, v = g.mean((1, 2, 4), keepdims=True), g.var((1, 2, 4), keepdims=True)
    x = ((g - m) / jnp.sqrt(v + 1e-5)).reshape(x.shape)
    return head((x * p["s"] + p["b"]).mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "s": s(8), "b": s(8), "h": HEAD}, conv=2, bn=1, bias=1, glob_avg=1
)
def batch_norm_folded(p, x):
    x = conv(x, p["k"])
    m, v = x.mean((0, 1, 2)), (x**2).mean((0, 1, 2)) - x.mean((0, 1, 2)) ** 2
    gain = p["s"] * lax.rsqrt(v + 1e-5)
    return head((x * gain + (p["b"] - m * gain)).mean((1, 2)), p["h"])


@case(
    "mean",
    "var",
    params={"k": s(3, 3, 3, 8), "s": s(8), "b": s(8), "mean": s(8), "var": s(8), "h": HEAD},
    conv=2,
    bn=1,
    bias=1,
    glob_avg=1,
)
def running_statistics_among_params(p, x):
    x = (conv(x, p["k"]) - p["mean"]) * (lax.rsqrt(p["var"] + 1e-5) * p["s"]) + p["b"]
    return head(x.mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "a": s(8, 2), "c": s(2, 8), "h": HEAD},
    conv=4,
    cse=1,
    bias=1,
    glob_avg=1,
)
def squeeze_excite(p, x):
    x = conv(x, p["k"])
    gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ p["a"]) @ p["c"])
    return head((x * gate[:, None, None]).mean((1, 2)), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "a": s(1, 1, 8, 2), "c": s(1, 1, 2, 8), "h": HEAD},
    conv=4,
    cse=1,
    bias=1,
    glob_avg=1,
)
def squeeze_excite_convolutional(p, x):
    x = conv(x, p["k"])
    y = jax.nn.relu(conv(jnp.mean(x, (1, 2), keepdims=True), p["a"]))
    return head((x * jax.nn.sigmoid(conv(y, p["c"]))).mean((1, 2)), p["h"])


@case(
    params={"g": s(12, 24), "u": s(12, 24), "d": s(24, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=4,
    sum=1,
    bias=1,
)
def gated_mlp(p, x):
    x = x + (jax.nn.silu(x @ p["g"]) * (x @ p["u"])) @ p["d"]
    return head(x[:, 0], p["h"])


@case(params={"k": s(3, 3, 3, 8), "h": HEAD}, conv=2, max_pool=2, avg_pool=1, bias=1)
def pools(p, x):
    x = lax.reduce_window(conv(x, p["k"]), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    x = x.reshape(2, 4, 2, 4, 2, 8).mean((2, 4))
    return head(x.max((1, 2)), p["h"])


@case(
    params={"e": s(4, 4, 3, 12), "pos": s(16, 12), "cls": s(12), "h": TOKEN_HEAD},
    conv=2,
    pos_enc=2,
    sum=1,
    concat=1,
    bias=1,
)
def class_token(p, x):
    x = conv(x, p["e"], 4, padding="VALID").reshape(2, 16, 12) + p["pos"]
    x = jnp.concatenate([jnp.broadcast_to(p["cls"], (2, 1, 12)), x], 1)
    return head(x[:, 0], p["h"])


@case(
    params={"w": s(12, 12), "g": s(12), "h": TOKEN_HEAD}, inputs=TOKENS, conv=2, ln=1, sum=1, bias=1
)
def layer_scale(p, x):
    return head((x + p["g"] * jax.nn.gelu(x @ p["w"]))[:, 0], p["h"])


@case(
    params={"qkv": s(12, 36), "table": s(25, 4), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=2,
    msa=1,
    pos_enc=1,
    bias=1,
)
def relative_position_bias(p, x):
    q, k, v = (t.reshape(2, 9, 4, 3) for t in jnp.split(x @ p["qkv"], 3, -1))
    i = np.arange(9)
    index = (i[:, None] // 3 - i // 3 + 2) * 5 + i[:, None] % 3 - i % 3 + 2
    bias = p["table"][index].transpose(2, 0, 1)
    a = jax.nn.softmax(jnp.einsum("bnhk,bmhk->bhnm", q, k) + bias)
    return head(jnp.einsum("bhnm,bmhk->bnhk", a, v).reshape(2, 9, 12)[:, 0], p["h"])


@case(params={"k": s(3, 3, 3, 8), "gain": s(8), "h": HEAD}, conv=2, ln=1, bias=1, glob_avg=1)
def weight_standardisation(p, x):
    k = p["k"]
    m, v = k.mean((0, 1, 2)), k.var((0, 1, 2))
    k = (k - m) * lax.rsqrt(jnp.maximum(v * 27, 1e-4)) * p["gain"]
    return head(conv(x, k).mean((1, 2)), p["h"])


@case(
    params={"v": s(12, 24), "g": s(24), "h": {"w": s(24, 10), "b": s(10)}},
    inputs=TOKENS,
    conv=2,
    ln=1,
    bias=1,
)
def weight_norm(p, x):
    w = p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)
    return head((x @ w)[:, 0], p["h"])


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
