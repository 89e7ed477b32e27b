"""Recurrent networks as Python loops: the same leaves as in the form with `lax.scan`.

The state starts as a constant, so that the recurrent parameters meet a constant before they
meet data.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import (
    Listed,
    bias,
    check,
    gain,
    kernel,
    position,
    s,
)

X = s(2, 5, 12)
KEY = jax.random.PRNGKey(0)


def looped(step, state):
    """(params, x) -> the last output of a Python loop over positions."""

    def apply(p, x):
        h = jax.tree.map(jnp.asarray, state)
        for t in range(x.shape[1]):
            h, y = step(p, h, x[:, t])
        return y @ p["out"]

    return apply


def scanned(step, state):
    """The same with `lax.scan`."""

    def apply(p, x):
        h = jax.tree.map(jnp.asarray, state)
        _, ys = lax.scan(lambda h, x: step(p, h, x), h, x.swapaxes(0, 1))
        return ys[-1] @ p["out"]

    return apply


def elman(p, h, x):
    h = jnp.tanh(x @ p["wx"] + h @ p["wh"] + p["b"])
    return h, h


def state_first(p, h, x):
    h = jnp.tanh(h @ p["wh"] + p["b"] + x @ p["wx"])
    return h, h


def transposed(p, h, x):
    h = jnp.tanh(x @ p["wx"] + jnp.einsum("bi,oi->bo", h, p["wh"]) + p["b"])
    return h, h


def gated(p, h, x):
    z = jax.nn.sigmoid(x @ p["zx"] + h @ p["zh"])
    r = jax.nn.sigmoid(x @ p["rx"] + h @ p["rh"])
    new = jnp.tanh(x @ p["nx"] + (r * h) @ p["nh"])
    h = (1 - z) * h + z * new
    return h, h


def long_short(p, state, x):
    h, c = state
    i, f, g, o = jnp.split(x @ p["wx"] + h @ p["wh"] + p["b"], 4, -1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def side_by_side(p, h, x):
    h = jnp.tanh(jnp.concatenate([x, h], -1) @ p["w"] + p["b"])
    return h, h


def peephole(p, state, x):
    h, c = state
    i = jax.nn.sigmoid(x @ p["wx"] + c * p["peep"])
    c = (1 - i) * c + i * jnp.tanh(x @ p["wc"] + h @ p["wh"])
    return (jnp.tanh(c), c), jnp.tanh(c)


def normalised(p, h, x):
    y = h @ p["wh"]
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    h = jnp.tanh(x @ p["wx"] + y * p["g"] + p["b"])
    return h, h


ELMAN = {"wx": s(12, 8), "wh": s(8, 8), "b": s(8), "out": s(8, 10)}
ZEROS = jnp.zeros((2, 8))
ELMAN_LEAVES = {"wx": kernel(8, 12), "wh": kernel(8, 8), "b": bias(8), "out": kernel(10, 8)}
GRU = {f"{g}{k}": s(12 if k == "x" else 8, 8) for g in "zrn" for k in "xh"} | {"out": s(8, 10)}
LSTM = {"wx": s(12, 32), "wh": s(8, 32), "b": s(32), "out": s(8, 10)}

STEPS = {
    "elman": (elman, ZEROS, ELMAN, ELMAN_LEAVES),
    "elman from ones": (elman, jnp.ones((2, 8)), ELMAN, ELMAN_LEAVES),
    "elman from a half": (elman, jnp.full((2, 8), 0.5), ELMAN, ELMAN_LEAVES),
    "state first": (state_first, ZEROS, ELMAN, ELMAN_LEAVES),
    "transposed": (transposed, ZEROS, ELMAN, ELMAN_LEAVES),
    "gru": (
        gated,
        ZEROS,
        GRU,
        {n: kernel(10 if n == "out" else 8, *v.shape[:1]) for n, v in GRU.items()},
    ),
    "lstm": (
        long_short,
        (ZEROS, ZEROS),
        LSTM,
        {"wx": kernel(32, 12), "wh": kernel(32, 8), "b": bias(32), "out": kernel(10, 8)},
    ),
    "peephole": (
        peephole,
        (ZEROS, ZEROS),
        {"wx": s(12, 8), "wc": s(12, 8), "wh": s(8, 8), "peep": s(8), "out": s(8, 10)},
        {"wx": kernel(8, 12), "wc": kernel(8, 12), "wh": kernel(8, 8)}
        | {"peep": gain(8), "out": kernel(10, 8)},
    ),
    "normalised": (
        normalised,
        ZEROS,
        ELMAN | {"g": s(8)},
        ELMAN_LEAVES | {"g": gain(8)},
    ),
    "side by side": (
        side_by_side,
        ZEROS,
        {"w": s(20, 8), "b": s(8), "out": s(8, 10)},
        {"w": kernel(8, 20), "b": bias(8), "out": kernel(10, 8)},
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_scan(name):
    step, state, params, leaves = STEPS[name]
    check(trace_graph(scanned(step, state), params, X), leaves)


@pytest.mark.parametrize("name", STEPS)
def test_python_loop(name):
    step, state, params, leaves = STEPS[name]
    check(trace_graph(looped(step, state), params, X), leaves)


def test_convolutional_state():
    def apply(p, x):
        h = jnp.zeros((2, 8, 8, 4))
        for t in range(x.shape[1]):
            h = jnp.tanh(conv(x[:, t], p["kx"]) + conv(h, p["kh"]) + p["b"])
        return h.mean((1, 2)) @ p["out"]

    params = {"kx": s(3, 3, 3, 4), "kh": s(3, 3, 4, 4), "b": s(4), "out": s(4, 10)}
    check(
        trace_graph(apply, params, s(2, 3, 8, 8, 3)),
        {"kx": kernel(4, 3, 3, 3), "kh": kernel(4, 4, 3, 3), "b": bias(4), "out": kernel(10, 4)},
    )


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_learnt_initial_state():
    def apply(p, x):
        h = jnp.broadcast_to(p["h0"], (2, 8))
        for t in range(x.shape[1]):
            h = jnp.tanh(x[:, t] @ p["wx"] + h @ p["wh"] + p["b"])
        return h @ p["out"]

    check(
        trace_graph(apply, ELMAN | {"h0": s(8)}, X),
        ELMAN_LEAVES | {"h0": position(1, 8)},
    )


@pytest.mark.parametrize("turns", [1, 2, 4])
def test_fixed_point_from_zeros(turns):
    def apply(p, x):
        z = jnp.zeros((2, 8))
        for _ in range(turns):
            z = jnp.tanh(z @ p["w"] + x @ p["u"] + p["b"])
        return z @ p["out"]

    params = {"w": s(8, 8), "u": s(12, 8), "b": s(8), "out": s(8, 10)}
    check(
        trace_graph(apply, params, s(2, 12)),
        {"w": kernel(8, 8), "u": kernel(8, 12), "b": bias(8), "out": kernel(10, 8)},
    )


def test_a_fixed_signal_is_projected():
    table = jnp.sin(jnp.arange(60.0).reshape(5, 12))

    def apply(p, x):
        return (x + jax.nn.silu(table @ p["a"] + p["b"]) @ p["c"]).mean(1) @ p["out"]

    params = {"a": s(12, 16), "b": s(16), "c": s(16, 12), "out": s(12, 10)}
    check(
        trace_graph(apply, params, X),
        {"a": kernel(16, 12), "b": bias(16), "c": kernel(12, 16), "out": kernel(10, 12)},
    )


def test_a_fixed_signal_through_a_convolution():
    grid = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0)), -1)[None]

    def apply(p, x):
        x = conv(x, p["k"]) + conv(grid, p["g"])
        return x.mean((1, 2)) @ p["out"]

    params = {"k": s(3, 3, 3, 4), "g": s(3, 3, 2, 4), "out": s(4, 10)}
    check(
        trace_graph(apply, params, s(2, 8, 8, 3)),
        {"k": kernel(4, 3, 3, 3), "g": kernel(4, 2, 3, 3), "out": kernel(10, 4)},
    )


def test_learnt_frequencies_of_a_fixed_signal():
    times = jnp.linspace(0.0, 1.0, 5)[:, None]

    def apply(p, x):
        return (x + jnp.sin(times @ p["f"]) @ p["a"]).mean(1) @ p["out"]

    params = {"f": s(1, 16), "a": s(16, 12), "out": s(12, 10)}
    check(
        trace_graph(apply, params, X),
        {"f": [kernel(16), Listed()], "a": kernel(12, 16), "out": kernel(10, 12)},
    )


def state_space(p, x, scan):
    rate = jnp.exp(-jnp.exp(p["a"]))

    def turn(h, x):
        h = rate * h + x[:, :, None] * (x @ p["b"])[:, None, :]
        return h, (h * (x @ p["c"])[:, None, :]).sum(-1) + p["d"] * x

    h = jnp.zeros((2, 12, 4))
    if scan:
        y = lax.scan(turn, h, x.swapaxes(0, 1))[1][-1]
    else:
        for t in range(x.shape[1]):
            h, y = turn(h, x[:, t])
    return y @ p["out"]


def test_a_state_space_from_zeros():
    params = {"a": s(12, 4), "b": s(12, 4), "c": s(12, 4), "d": s(12), "out": s(12, 10)}
    leaves = {"b": kernel(4, 12), "c": kernel(4, 12), "d": gain(12), "out": kernel(10, 12)}
    for scan in (True, False):
        graph = trace_graph(lambda p, x, scan=scan: state_space(p, x, scan), params, X)
        check(graph, leaves | {"a": [gain(48), Listed()]})


def test_fast_weights_from_zeros():
    def apply(p, x):
        memory = jnp.zeros((2, 8, 8))
        for t in range(x.shape[1]):
            k, v = x[:, t] @ p["k"], x[:, t] @ p["v"]
            memory = memory + k[:, :, None] * v[:, None, :]
        return jnp.einsum("bij,bi->bj", memory, x[:, -1] @ p["q"]) @ p["out"]

    params = {"k": s(12, 8), "v": s(12, 8), "q": s(12, 8), "out": s(8, 10)}
    check(
        trace_graph(apply, params, X),
        {n: kernel(8, 12) for n in "kvq"} | {"out": kernel(10, 8)},
    )
