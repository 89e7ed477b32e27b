"""Loops over many layers, and parameters that are reused in many iterations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import bias, check, found, kernel, s, seconds

X = s(2, 4)


def is_unrolled_or_refused(apply, params, leaves, inputs=X):
    """Every layer has its own prediction, or the network is refused, or its leaves are listed."""
    try:
        graph = trace_graph(apply, params, inputs)
    except ValueError as error:
        assert "layers" in str(error) or "turns" in str(error)
        return
    for path, (part, count) in leaves.items():
        actual = found(graph)[path]
        assert isinstance(actual, str) or actual == [part] * count
        assert not isinstance(actual, str) or "influence" not in actual


# --- many layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [3, 512, 513, 600])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_over_stacked_kernels(layers, reverse):
    def apply(p, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"], reverse=reverse)[0]

    is_unrolled_or_refused(apply, {"w": s(layers, 4, 4)}, {"w": (kernel(4, 4), layers)})


def test_scan_over_stacked_layers_of_several_leaves():
    def apply(p, x):
        def layer(h, w):
            return jnp.tanh(h @ w["k"] + w["b"]), None

        return lax.scan(layer, x, p)[0]

    leaves = {"k": (kernel(4, 4), 520), "b": (bias(4), 520)}
    is_unrolled_or_refused(apply, {"k": s(520, 4, 4), "b": s(520, 4)}, leaves)


@pytest.mark.parametrize("layers", [3, 530])
def test_loop_that_counts_through_stacked_kernels(layers):
    def apply(p, x):
        return lax.fori_loop(0, layers, lambda i, h: jnp.tanh(h @ p["w"][i]), x)

    is_unrolled_or_refused(apply, {"w": s(layers, 4, 4)}, {"w": (kernel(4, 4), layers)})


@pytest.mark.parametrize(("outer", "inner"), [(2, 3), (3, 200), (520, 2)])
def test_scan_in_a_scan(outer, inner):
    def apply(p, x):
        def block(h, ws):
            return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, ws)[0], None

        return lax.scan(block, x, p["w"])[0]

    leaves = {"w": (kernel(4, 4), outer * inner)}
    is_unrolled_or_refused(apply, {"w": s(outer, inner, 4, 4)}, leaves)


@pytest.mark.parametrize("layers", [4, 516])
def test_linen_scan_over_layers(layers):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Dense(4)(x)), None

    scanned = nn.scan(
        Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=layers
    )
    net = scanned()
    variables = jax.eval_shape(net.init, jax.random.key(0), X, None)
    leaves = {
        "Dense_0/kernel": (kernel(4, 4), layers),
        "Dense_0/bias": (bias(4), layers),
    }
    is_unrolled_or_refused(lambda v, x: net.apply(v, x, None)[0], variables, leaves)


def test_scan_with_unroll_equals_scan():
    def apply(unroll):
        def net(p, x):
            return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"], unroll=unroll)[0]

        return found(trace_graph(net, {"w": s(6, 4, 4)}, X))

    assert apply(1) == apply(2) == {"w": [kernel(4, 4)] * 6}


def test_reverse_scan_takes_the_last_layer_first():
    def apply(p, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"], reverse=True)[0]

    graph = trace_graph(apply, {"w": s(5, 4, 4)}, X)
    order = sorted(graph.bindings, key=lambda b: b.node)
    assert [b.index[0] for b in order] == [4, 3, 2, 1, 0]


def test_results_of_a_reverse_scan_are_in_the_order_of_its_layers():
    def apply(p, x):
        _, ys = lax.scan(lambda h, w: (h, h @ w), x, p["w"], reverse=True)
        return ys[0] @ p["out"]

    check(
        trace_graph(apply, {"w": s(1, 4, 4), "out": s(4, 3)}, X),
        {"w": kernel(4, 4), "out": kernel(3, 4)},
    )


# --- a parameter in many iterations: time and roles --------------------------------------------


def bjorck(w, turns):
    for _ in range(turns):
        w = 1.5 * w - 0.5 * w @ w.T @ w
    return w


def newton_schulz(w, turns):
    w = w / jnp.sqrt(jnp.sum(w * w))
    for _ in range(turns):
        a = w @ w.T
        w = 3.4 * w + (-4.7 * a + 2.0 * a @ a) @ w
    return w


def power_iteration(w, turns):
    u = jnp.ones(8)
    for _ in range(turns):
        v = w @ u
        v = v / jnp.sqrt(v @ v)
        u = w.T @ v
        u = u / jnp.sqrt(u @ u)
    return w / (v @ w @ u)


def sinkhorn(w, turns):
    for _ in range(turns):
        w = w - jax.nn.logsumexp(w, 0, keepdims=True)
        w = w - jax.nn.logsumexp(w, 1, keepdims=True)
    return jnp.exp(w)


ITERATIONS = {
    "bjorck": bjorck,
    "newton_schulz": newton_schulz,
    "power_iteration": power_iteration,
    "sinkhorn": sinkhorn,
}


@pytest.mark.parametrize("name", ITERATIONS)
def test_a_kernel_that_is_made_by_iteration_stays_a_kernel(name):
    def apply(p, x):
        return jnp.tanh(x @ ITERATIONS[name](p["w"], 3)) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "h": s(8, 3)}, s(2, 12)),
        {"w": kernel(8, 12), "h": kernel(3, 8)},
    )


def two_leaves(p, turns):
    w = p["w"] * p["g"]
    for _ in range(turns):
        w = 1.5 * w - 0.5 * w @ (w.T @ w)
    return w


def two_that_meet_again(p, turns):
    a, b = p["w"], p["g"] * p["w"]
    for _ in range(turns):
        a, b = a + b, a * b
    return a


def data_that_meets_itself(p, turns):
    w = p["w"]
    for _ in range(turns):
        w = w * p["g"] + w
    return w


@pytest.mark.parametrize("make", [two_leaves, two_that_meet_again, data_that_meets_itself])
def test_time_grows_with_the_number_of_iterations(make):
    def run(turns):
        apply = lambda p, x: x @ make(p, turns)  # noqa: E731
        trace_graph(apply, {"w": s(12, 8), "g": s(8)}, s(2, 12))

    run(1)
    assert seconds(lambda: run(16)) < 6 * seconds(lambda: run(8))


def test_time_grows_with_the_number_of_data_that_meet():
    def run(turns):
        def apply(p, x):
            a, b = x @ p["w"], x @ p["v"]
            for _ in range(turns):
                a, b = jnp.tanh(a + b), a * b
            return a

        trace_graph(apply, {"w": s(4, 4), "v": s(4, 4)}, X)

    run(1)
    assert seconds(lambda: run(40)) < 12 * seconds(lambda: run(10))
