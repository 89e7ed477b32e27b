"""Small plain-JAX networks, one for each layer that the tracer must recognise."""

import jax
import jax.numpy as jnp
import numpy as np
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
    softmax_attention,
)

CASES, case = registry()


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
