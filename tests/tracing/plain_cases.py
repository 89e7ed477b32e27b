"""What the small networks of the tracing tests are made of, and the table that they enter.

A module's `CASES[name]` is (build, kinds, unbound): `build()` gives (apply_fn, params, inputs),
`kinds` the expected number of nodes by kind (besides the input), `unbound` the leaves listed as
unbound.
"""

import jax
import jax.numpy as jnp
from jax import lax

IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((2, 9, 12), jnp.float32)


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def registry():
    """A table of cases, and the decorator that enters a network into it."""
    cases = {}

    def case(*unbound, params, inputs=IMAGE, **kinds):
        def register(function):
            cases[function.__name__] = (lambda: (function, params, inputs), kinds, set(unbound))
            return function

        return register

    return cases, case


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


def layer_norm(x, scale, bias):
    m = x.mean(-1, keepdims=True)
    return (x - m) * lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def softmax_attention(q, k, v):
    a = jax.nn.softmax(jnp.einsum("bnhk,bmhk->bhnm", q, k) * 0.3)
    return jnp.einsum("bhnm,bmhk->bnhk", a, v)
