"""Leaves that meet data as a function of themselves have no decoder; the rest of the net has."""

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, gain, kernel, s

X = s(2, 8, 12)
PARAMS = {"w": s(12, 8), "v": s(8), "h": s(8, 10)}
REST = {"w": kernel(8, 12), "h": kernel(10, 8)}
TIMES = jnp.arange(8.0)[:, None]


def normalised(y):
    return (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)


CURVES = {
    "exponential of a gain": (lambda y, v: y * jnp.exp(v), "exp"),
    "softplus of a gain": (lambda y, v: y * jax.nn.softplus(v), "exp"),
    "sigmoid of a gain": (lambda y, v: y * jax.nn.sigmoid(v), "logistic"),
    "logarithm of a divisor": (lambda y, v: y / jnp.log(v), "log"),
    "highway": (lambda y, v: y * jax.nn.sigmoid(v) + y * (1 - jax.nn.sigmoid(v)), "logistic"),
    "softmax over features": (lambda y, v: y * jax.nn.softmax(v), "exp"),
    "tanh of a residual's gain": (lambda y, v: y + jnp.tanh(v) * jnp.sin(y), "tanh"),
    "scale of a norm": (lambda y, v: normalised(y) * jnp.exp(v), "exp"),
    "offset of a norm": (lambda y, v: normalised(y) + jnp.tanh(v), "tanh"),
    "shift": (lambda y, v: y + jnp.exp(v), "exp"),
    "learnt frequencies": (lambda y, v: y + jnp.sin(v * TIMES), "sin"),
    "decay": (lambda y, v: y * jnp.exp(-jnp.exp(v) * TIMES), "exp"),
    "a square before": (lambda y, v: y * jnp.exp(-jnp.square(v)), "exp"),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_vector_that_meets_data_as_a_function_of_itself_is_listed(name):
    meet, function = CURVES[name]

    def apply(p, x):
        return meet(x @ p["w"], p["v"]).mean(1) @ p["h"]

    pattern = f"as its {function}, for which there is no decoder"
    check(trace_graph(apply, PARAMS, X), REST | {"v": Listed(pattern)})


STRAIGHT = {
    "one plus a gain": (lambda y, v: y * (1 + v), gain(8)),
    "size of a gain": (lambda y, v: y * jnp.abs(v), gain(8)),
    "square of a gain": (lambda y, v: y * v**2, gain(8)),
    "cube of a gain": (lambda y, v: y * v**3, gain(8)),
    "reciprocal of a gain": (lambda y, v: y * (1 / v), gain(8)),
    "clipped gain": (lambda y, v: y * jnp.clip(v, 0, 1), gain(8)),
    "gain of a curve": (lambda y, v: jnp.exp(-y) * v, gain(8)),
    "gain in a curve": (lambda y, v: jnp.sin(y * v), gain(8)),
    "bias in a curve": (lambda y, v: jnp.exp(y + v), bias(8)),
    "rounded bias": (lambda y, v: y + jnp.round(v * 8) / 8, bias(8)),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_vector_that_meets_data_as_it_is_keeps_its_role(name):
    meet, role = STRAIGHT[name]

    def apply(p, x):
        return meet(x @ p["w"], p["v"]).mean(1) @ p["h"]

    check(trace_graph(apply, PARAMS, X), REST | {"v": role})


def test_a_function_of_a_gain_merged_with_another():
    def apply(p, x):
        return (x @ p["w"] * (p["g"] * jnp.exp(p["v"]))).mean(1) @ p["h"]

    graph = trace_graph(apply, PARAMS | {"g": s(8)}, X)
    check(graph, REST | {"g": gain(8), "v": Listed("merged into a scale")})


FACTORS = {
    "exponential": (jnp.exp, "exp"),
    "softplus": (jax.nn.softplus, "exp"),
    "sigmoid": (jax.nn.sigmoid, "logistic"),
}


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("name", FACTORS)
def test_a_function_of_a_gain_merged_with_a_kernel(name, normed):
    change, function = FACTORS[name]

    def apply(p, x):
        w = p["w"] / jnp.linalg.norm(p["w"], axis=0) if normed else p["w"]
        return jnp.tanh(x @ (w * change(p["v"]))).mean(1) @ p["h"]

    pattern = f"merged into a kernel \\({function}\\)"
    check(trace_graph(apply, PARAMS, X), REST | {"v": Listed(pattern)})


@pytest.mark.parametrize("name", FACTORS)
def test_a_kernel_that_is_far_from_its_leaf_is_listed(name):
    """Layers of monotone networks."""
    change, function = FACTORS[name]

    def apply(p, x):
        return jnp.tanh(x @ change(p["w"])).mean(1) @ p["h"]

    graph = trace_graph(apply, {"w": s(12, 8), "h": s(8, 10)}, X)
    check(graph, REST | {"w": Listed(f"as its {function}, for which there is no decoder")})


@pytest.mark.parametrize(
    "change", [jnp.tanh, jnp.sin, jnp.arctan, jax.nn.softmax], ids=lambda f: f.__name__
)
def test_a_kernel_that_is_close_to_its_leaf_or_averages_is_a_kernel(change):
    def apply(p, x):
        return jnp.tanh(x @ change(p["w"])).mean(1) @ p["h"]

    check(trace_graph(apply, {"w": s(12, 8), "h": s(8, 10)}, X), REST)


def test_a_table_of_logarithms_is_listed():
    def apply(p, ids):
        return jnp.exp(p["table"])[ids].mean(1) @ p["h"]

    graph = trace_graph(apply, {"table": s(20, 8), "h": s(8, 10)}, s(2, 5, dtype=jnp.int32))
    check(graph, {"table": Listed("as its exp"), "h": kernel(10, 8)})
