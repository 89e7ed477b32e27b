"""Blocks from newer architectures in plain JAX. `CASES` as in `plain_cases`."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.tracing.plain_cases import HEAD, TOKEN_HEAD, TOKENS, conv, head, registry, s

CASES, case = registry()


@case(
    params={
        "q": s(12, 4, 3),
        "qb": s(4, 3),
        "k": s(12, 3),
        "v": s(12, 3),
        "o": s(4, 3, 12),
        "h": TOKEN_HEAD,
    },
    inputs=TOKENS,
    conv=5,
    bias=2,
    msa=1,
)
def multi_query_attention(p, x):
    q = jnp.einsum("bnd,dhk->bnhk", x, p["q"]) + p["qb"]
    a = jax.nn.softmax(jnp.einsum("bnhk,bmk->bhnm", q, x @ p["k"]))
    y = jnp.einsum("bhnm,bmk->bnhk", a, x @ p["v"])
    return head(jnp.einsum("bnhk,hkd->bnd", y, p["o"])[:, 0], p["h"])


def rotate(x):
    a, b = jnp.split(x, 2, -1)
    angle = jnp.arange(9.0)[None, :, None, None]
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1
    )


@case(
    params={"qkv": s(3, 12, 2, 6), "qs": s(6), "ks": s(6), "o": s(2, 6, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=5,
    ln=2,
    msa=1,
    bias=1,
)
def normalised_rotary_attention(p, x):
    def rms(t, scale):
        return t * lax.rsqrt((t * t).mean(-1, keepdims=True) + 1e-6) * scale

    q, k, v = (jnp.einsum("bnd,dhk->bnhk", x, p["qkv"][i]) for i in range(3))
    q, k = rotate(rms(q, p["qs"])), rotate(rms(k, p["ks"]))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return head(jnp.einsum("bnhk,hkd->bnd", y, p["o"])[:, 0], p["h"])


@case(params={"qkv": s(12, 36), "h": TOKEN_HEAD}, inputs=TOKENS, conv=2, msa=1, glob_avg=1, bias=1)
def linear_attention(p, x):
    q, k, v = jnp.split(x @ p["qkv"], 3, -1)
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    z = 1 / (jnp.einsum("bnk,bk->bn", q, k.sum(1)) + 1e-6)
    y = jnp.einsum("bnk,bkv->bnv", q, jnp.einsum("bnk,bnv->bkv", k, v)) * z[..., None]
    return head(y[:, 0], p["h"])


@case(
    params={"g": s(12, 4), "w1": s(4, 12, 24), "w2": s(4, 24, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=3,
    sep_conv=1,
    glob_avg=1,
    bias=1,
)
def mixture_of_experts(p, x):
    gate = jax.nn.softmax(x @ p["g"])
    y = jax.nn.relu(jnp.einsum("bnd,edf->bnef", x, p["w1"]))
    y = jnp.einsum("bned,bne->bnd", jnp.einsum("bnef,efd->bned", y, p["w2"]), gate)
    return head(y.mean(1), p["h"])


@case(
    params={"k": s(3, 3, 3, 8), "a": s(8, 2), "b": s(2, 8), "s": s(7, 7, 2, 1), "h": HEAD},
    conv=5,
    sum=1,
    cse=1,
    glob_avg=1,
    bias=1,
)
def channel_and_spatial_attention(p, x):
    x = conv(x, p["k"])

    def mlp(t):
        return jax.nn.relu(t @ p["a"]) @ p["b"]

    x = x * jax.nn.sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]
    maps = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], -1)
    return head((x * jax.nn.sigmoid(conv(maps, p["s"]))).mean((1, 2)), p["h"])


@case(params={"k": s(3, 3, 3, 8), "c": s(3, 1, 1), "h": HEAD}, conv=3, cse=1, glob_avg=1, bias=1)
def efficient_channel_attention(p, x):
    x = conv(x, p["k"])
    y = lax.conv_general_dilated(
        x.mean((1, 2))[..., None], p["c"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )[..., 0]
    return head((x * jax.nn.sigmoid(y)[:, None, None]).mean((1, 2)), p["h"])


@case(
    params={"a": s(3, 3, 3, 8), "b": s(3, 3, 8, 8), "o": s(1, 1, 16, 5), "ob": s(5)},
    conv=3,
    concat=1,
    bias=1,
)
def encoder_decoder(p, x):
    a = jax.nn.relu(conv(x, p["a"]))
    b = jax.image.resize(jax.nn.relu(conv(a, p["b"], 2)), a.shape, "bilinear")
    return conv(jnp.concatenate([a, b], -1), p["o"]) + p["ob"]


@case(
    params={
        "z": s(4, 12),
        "g": s(12),
        "b": s(12),
        "q": s(12, 12),
        "k": s(12, 12),
        "v": s(12, 12),
        "h": TOKEN_HEAD,
    },
    inputs=TOKENS,
    pos_enc=1,
    ln=1,
    conv=4,
    msa=1,
    sum=1,
    glob_avg=1,
    bias=1,
)
def learnt_latents(p, x):
    z = jnp.broadcast_to(p["z"], (2, 4, 12))
    y = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-6)
    q = (y * p["g"] + p["b"]) @ p["q"]
    z = z + jax.nn.softmax(q @ (x @ p["k"]).swapaxes(1, 2)) @ (x @ p["v"])
    return head(z.mean(1), p["h"])


@case(params={"k": s(4, 3, 3, 3, 8), "h": {"w": s(32, 10), "b": s(10)}}, conv=2, glob_avg=1, bias=1)
def vmapped_kernels(p, x):
    y = jax.vmap(lambda k: conv(x, k).mean((1, 2)))(p["k"])
    return head(y.transpose(1, 0, 2).reshape(2, -1), p["h"])


@case(
    "a",
    "b",
    params={"w": s(12, 12), "a": s(12, 2), "b": s(2, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=2,
    bias=1,
)
def low_rank_adapter(p, x):
    return head(jnp.tanh(x @ (p["w"] + p["a"] @ p["b"]))[:, 0], p["h"])


@case(
    params={"w": s(12, 12), "pos": s(1, 16, 12), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=2,
    pos_enc=1,
    sum=1,
    glob_avg=1,
    bias=1,
)
def resized_positions(p, x):
    pos = jax.image.resize(p["pos"].reshape(1, 4, 4, 12), (1, 3, 3, 12), "bilinear")
    return jax.nn.log_softmax(head((x @ p["w"] + pos.reshape(1, 9, 12)).mean(1), p["h"]))


@case(
    "alpha",
    params={"alpha": s(1, 2), "k": s(3, 3, 3, 8), "l": s(1, 1, 3, 8), "h": HEAD},
    conv=3,
    sum=1,
    glob_avg=1,
    bias=1,
)
def weighted_branches(p, x):
    a = jax.nn.softmax(p["alpha"], -1)
    return head((a[0, 0] * conv(x, p["k"]) + a[0, 1] * conv(x, p["l"])).mean((1, 2)), p["h"])


@case(
    params={"w": s(12, 12), "alpha": s(), "h": TOKEN_HEAD},
    inputs=TOKENS,
    conv=2,
    ln=1,
    sum=1,
    bias=1,
)
def residual_gain(p, x):
    return head((x + p["alpha"] * jnp.tanh(x @ p["w"]))[:, 0], p["h"])


@case("never", params={"w": s(12, 10), "never": s(3)}, inputs=TOKENS, conv=1)
def unused_leaf(p, x):
    _ = p["never"] + 1
    return x[:, 0] @ p["w"]


@case(
    "step",
    params={"w": s(12, 10), "step": jax.ShapeDtypeStruct((), jnp.int32)},
    inputs=TOKENS,
    conv=1,
)
def integer_leaf(p, x):
    return x[:, 0] @ p["w"] * p["step"]
