"""Convolutions that are written as sums of shifted products."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import bias, check, found, kernel, s
from tests.tracing.test_rules import RNG, drawn, put

IMAGE = s(2, 6, 6, 5)
TOKENS = s(2, 7, 5)


def shifts(x):
    """The maps that meet the entries of a 3 by 3 kernel, by their place in it."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return {(i, j): x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)}


TAPS = {
    "HWIO": ((3, 3, 5, 4), lambda w, x: sum(y @ w[at] for at, y in shifts(x).items())),
    "OIHW": ((4, 5, 3, 3), lambda w, x: sum(y @ w[:, :, *at].T for at, y in shifts(x).items())),
    "einsum": (
        (4, 3, 3, 5),
        lambda w, x: sum(
            jnp.einsum("bhwi,oi->bhwo", y, w[:, i, j]) for (i, j), y in shifts(x).items()
        ),
    ),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", TAPS)
def test_dense_layers_of_shifted_maps_are_a_convolution(name, first):
    shape, net = TAPS[name]

    def apply(p, x):
        return net(p["w"], x if first else x @ p["first"])

    params = {"w": s(*shape)} | ({} if first else {"first": s(5, 5)})
    graph = trace_graph(apply, params, IMAGE)
    kernels = drawn(graph)
    (canonical,) = (k for k, b in zip(kernels, graph.bindings, strict=True) if b.path == ("w",))
    assert canonical.shape == (4, 5, 3, 3)
    leaf = put(graph, kernels)[("w",)]
    x = RNG.normal(size=(2, 6, 6, 5)).astype(np.float32)
    layout = ("NHWC", "OIHW", "NHWC")
    expected = lax.conv_general_dilated(x, canonical, (1, 1), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(net(leaf, x), expected, atol=1e-4)


def test_stacked_layers_of_taps():
    def apply(p, x):
        for w in p["w"]:
            x = x + jnp.tanh(sum(y @ w[at] for at, y in shifts(x).items()) + p["b"])
        return x.mean((1, 2)) @ p["h"]

    check(
        trace_graph(apply, {"w": s(2, 3, 3, 5, 5), "b": s(5), "h": s(5, 10)}, IMAGE),
        {"w": (kernel(5, 5, 3, 3),) * 2, "b": bias(5), "h": kernel(10, 5)},
    )


@pytest.mark.parametrize("depthwise", [False, True])
def test_taps_of_an_input(depthwise):
    def apply(p, x):
        x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
        parts = [x[:, i : i + 7] for i in range(3)]
        taps = [y * w if depthwise else y @ w for y, w in zip(parts, p["w"], strict=True)]
        return jnp.tanh(sum(taps)).mean(1) @ p["h"]

    params = {"w": s(3, 5) if depthwise else s(3, 5, 5), "h": s(5, 10)}
    own = kernel(5, 1, 3, kind="sep_conv") if depthwise else kernel(5, 5, 3)
    check(trace_graph(apply, params, TOKENS), {"w": own, "h": kernel(10, 5)})


APART = {
    "a function before the sum": lambda y, w: jnp.tanh(y[:, 1:] @ w[0]) + y[:, :-1] @ w[1],
    "one slice": lambda y, w: y[:, 1:] @ w[0] + y[:, 1:] @ w[1],
    "a difference": lambda y, w: y[:, 1:] @ w[0] - y[:, :-1] @ w[1],
}


@pytest.mark.parametrize("name", APART)
def test_products_that_are_no_taps_stay_apart(name):
    def apply(p, x):
        return jnp.tanh(APART[name](x @ p["first"], p["w"])).mean(1) @ p["h"]

    params = {"first": s(5, 8), "w": s(2, 8, 6), "h": s(6, 10)}
    graph = trace_graph(apply, params, TOKENS)
    assert found(graph)["w"] == [kernel(6, 8)] * 2


def test_features_of_an_input_are_no_places():
    def apply(p, x):
        return jnp.tanh(x[..., :2] * p["g"][0] + x[..., 2:4] * p["g"][1]) @ p["h"]

    graph = trace_graph(apply, {"g": s(2, 2), "h": s(2, 10)}, s(3, 5))
    assert "sep_conv" not in graph.primitive_names
