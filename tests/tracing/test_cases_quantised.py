"""Integer kernels and their scales: neither is a kernel that can be predicted."""

import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, gain, kernel, s

IMAGE = s(2, 8, 8, 3)


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def per_tensor(p):
    return p["q"].astype(jnp.float32) * p["s"]


def per_output(p):
    return p["q"].astype(jnp.float32) * p["s"][None, :]


def per_input(p):
    return p["q"].astype(jnp.float32) * p["s"][:, None]


def per_group(p):
    q = p["q"].astype(jnp.float32).reshape(3, 4, 8)
    return (q * p["s"][:, None, :]).reshape(12, 8)


def per_repeated_group(p):
    return p["q"].astype(jnp.float32) * jnp.repeat(p["s"], 4, 0)


def with_zero_point(p):
    return (p["q"].astype(jnp.float32) - p["z"]) * p["s"]


def double_quantised(p):
    scale = p["qs"].astype(jnp.float32) * p["s"]
    return p["q"].astype(jnp.float32) * scale[None, :]


def codebook(p):
    return p["s"][p["q"].astype(jnp.int32)]


def packed(p):
    low, high = p["q"] & 0xF, (p["q"] >> 4) & 0xF
    return jnp.concatenate([low, high], 0).astype(jnp.float32)[:12] * p["s"]


QUANTISED = {
    per_tensor: {"s": s()},
    per_output: {"s": s(8)},
    per_input: {"s": s(12)},
    per_group: {"s": s(3, 8)},
    per_repeated_group: {"s": s(3, 8)},
    with_zero_point: {"s": s(8), "z": s(8)},
    double_quantised: {"s": s(), "qs": s(8, dtype=jnp.int8)},
    codebook: {"s": s(256)},
    packed: {"s": s(8)},
}


@pytest.mark.parametrize("make", QUANTISED, ids=lambda f: f.__name__)
def test_scales_of_integer_kernels_are_no_kernels(make):
    def apply(p, x):
        return jnp.tanh(x @ make(p)) @ p["h"]

    params = QUANTISED[make] | {"q": s(12, 8, dtype=jnp.uint8)}
    allowed = {name: [Listed(), gain(8)] for name in params}
    check(
        trace_graph(apply, params | {"h": s(8, 10)}, s(2, 12)),
        allowed | {"q": Listed("uint8"), "h": kernel(10, 8)},
    )


@pytest.mark.parametrize(
    ("scale", "view"),
    [((), ()), ((8,), (1, 1, 1, 8)), ((3,), (1, 1, 3, 1)), ((3, 3), (3, 3, 1, 1))],
)
def test_scales_of_integer_convolutions_are_no_kernels(scale, view):
    def apply(p, x):
        k = p["q"].astype(jnp.float32) * p["s"].reshape(view)
        return conv(x, k).mean((1, 2)) @ p["h"]

    params = {"q": s(3, 3, 3, 8, dtype=jnp.int8), "s": s(*scale), "h": s(8, 10)}
    check(
        trace_graph(apply, params, IMAGE),
        {"q": Listed("int8"), "s": [Listed(), gain(8)], "h": kernel(10, 8)},
    )


def test_the_scale_of_an_integer_table_is_no_kernel():
    def apply(p, ids):
        table = p["q"].astype(jnp.float32) * p["s"][:, None]
        return table[ids].mean(1) @ p["h"]

    params = {"q": s(50, 8, dtype=jnp.int8), "s": s(50), "h": s(8, 10)}
    check(
        trace_graph(apply, params, s(2, 5, dtype=jnp.int32)),
        {"q": Listed("int8"), "s": Listed(), "h": kernel(10, 8)},
    )


def test_a_scale_after_the_product_is_a_gain():
    def apply(p, x):
        y = (x @ p["q"].astype(jnp.float32)) * p["s"] + p["b"]
        return jnp.tanh(y) @ p["h"]

    params = {"q": s(12, 8, dtype=jnp.int8), "s": s(8), "b": s(8), "h": s(8, 10)}
    check(
        trace_graph(apply, params, s(2, 12)),
        {
            "q": Listed("int8"),
            "s": [gain(8), Listed()],
            "b": bias(8),
            "h": kernel(10, 8),
        },
    )


def test_ternary_kernels_are_kernels():
    def apply(p, x):
        w = p["w"]
        scale = jnp.abs(w).mean()
        rounded = jnp.clip(jnp.round(w / scale), -1, 1) * scale
        return jnp.tanh(x @ (w + lax.stop_gradient(rounded - w))) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "h": kernel(10, 8)},
    )


def rounded_in_steps(w, step):
    return jnp.clip(jnp.round(w / step), -127, 127) * step


def rounded_straight_through(w, step):
    scaled = w / step
    return (scaled + lax.stop_gradient(jnp.round(scaled) - scaled)) * step


def cut_in_steps(w, step):
    return jnp.clip(w / step, -1, 1) * step


@pytest.mark.parametrize("size", [(), (8,)])
@pytest.mark.parametrize(
    "quantise", [rounded_in_steps, rounded_straight_through, cut_in_steps], ids=lambda f: f.__name__
)
def test_a_learnt_step_is_no_gain(quantise, size):
    """A gain is predicted about one, and kernels rounded in steps of one are zero."""

    def apply(p, x):
        return jnp.tanh(x @ quantise(p["w"], p["step"])) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "step": s(*size), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "step": Listed("merged into a kernel"), "h": kernel(10, 8)},
    )


def test_the_scale_of_binary_kernels_is_a_gain():
    def apply(p, x):
        return jnp.tanh(x @ (jnp.sign(p["w"]) * p["g"])) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "g": gain(8), "h": kernel(10, 8)},
    )
