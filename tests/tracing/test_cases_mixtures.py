"""Kernels that are mixed or modulated before they meet the data they are contracted with."""

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, check, gain, kernel, position, s

X = s(2, 12)
STACK = {"ws": s(3, 12, 8), "h": s(8, 10)}
PARTS = [(kernel(8, 12),) * 3, Listed(r"^(?!.*influence)")]


@pytest.mark.parametrize("weights", ["softmax", "sigmoid", "plain"])
def test_kernels_mixed_by_learnt_weights(weights):
    function = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "plain": lambda a: a}[weights]

    def apply(p, x):
        return jnp.tanh(x @ jnp.einsum("k,kio->io", function(p["alpha"]), p["ws"])) @ p["h"]

    graph = trace_graph(apply, STACK | {"alpha": s(3)}, X)
    check(graph, {"ws": PARTS, "alpha": Listed(r"^(?!.*influence)"), "h": kernel(10, 8)})


def test_kernels_mixed_by_a_sum():
    def apply(p, x):
        mix = jax.nn.softmax(p["alpha"])
        return jnp.tanh(x @ sum(mix[i] * p["ws"][i] for i in range(3))) @ p["h"]

    graph = trace_graph(apply, STACK | {"alpha": s(3)}, X)
    assert "pos_enc" not in graph.primitive_names


LONG_FILTERS = {
    "real": lambda p: jnp.einsum("hn,hnl->hl", p["c"], jnp.exp(p["a"][..., None] * TIMES)),
    "complex": lambda p: (
        jnp.einsum("hn,hnl->hl", p["c"], jnp.exp((1j * p["a"])[..., None] * TIMES)).real
    ),
    "latent": lambda p: jnp.einsum("hn,nl->hl", jnp.tanh(p["c"]), p["b"]),
}
TIMES = jnp.arange(5.0)


@pytest.mark.parametrize("name", LONG_FILTERS)
def test_a_long_filter_that_meets_data_in_frequencies_is_no_token(name):
    def apply(p, x):
        waves = jnp.fft.rfft(x, n=10, axis=1) * jnp.fft.rfft(LONG_FILTERS[name](p), n=10).T
        return jnp.fft.irfft(waves, n=10, axis=1)[:, :5].mean(1) @ p["h"]

    params = {"c": s(12, 4), **({"b": s(4, 5)} if name == "latent" else {"a": s(12, 4)})}
    graph = trace_graph(apply, params | {"h": s(12, 10)}, s(2, 5, 12))
    listed = dict.fromkeys(params, Listed("made of several parameters"))
    check(graph, listed | {"h": kernel(10, 12)})


def modulated(p, x):
    w = p["w"][None] * (1 + x @ p["g"])[:, :, None]
    return jnp.tanh(jnp.einsum("bi,bio->bo", x, w)) @ p["h"]


def demodulated(p, x):
    w = p["w"][None] * (1 + x @ p["g"])[:, :, None]
    w = w / jnp.sqrt((w**2).sum(1, keepdims=True) + 1e-8)
    return jnp.tanh(jnp.einsum("bi,bio->bo", x, w)) @ p["h"]


def written_as_a_sum(p, x):
    y = (x @ p["g"])[:, :, None] * p["w"][None]
    return jnp.tanh(y.sum(1)) @ p["h"]


@pytest.mark.parametrize("pool", [jnp.sum, jnp.max, jnp.mean])
def test_a_kernel_that_a_pooled_map_multiplies_is_no_gain(pool):
    """Residuals of cluster centres, as NetVLAD pools them."""

    def apply(p, x):
        a = jax.nn.softmax(x @ p["g"])
        v = jnp.einsum("bnk,bnd->bkd", a, x) - pool(a, axis=1)[..., None] * p["w"]
        return v.reshape(2, -1) @ p["h"]

    graph = trace_graph(apply, {"w": s(4, 12), "g": s(12, 4), "h": s(48, 10)}, s(2, 5, 12))
    check(graph, {"w": Listed("element by element"), "g": kernel(4, 12), "h": kernel(10, 48)})


@pytest.mark.parametrize("net", [modulated, demodulated, written_as_a_sum])
def test_a_kernel_that_meets_data_elementwise_is_no_gain(net):
    graph = trace_graph(net, {"w": s(12, 8), "g": s(12, 12), "h": s(8, 10)}, X)
    check(graph, {"w": [kernel(8, 12), Listed()], "g": kernel(12, 12), "h": kernel(10, 8)})


def test_a_gain_of_positions_and_features_is_a_gain():
    def apply(p, x):
        return jnp.tanh(x * p["g"]).mean(1) @ p["h"]

    graph = trace_graph(apply, {"g": s(12), "h": s(12, 10)}, s(2, 5, 12))
    check(graph, {"g": gain(12), "h": kernel(10, 12)})


@pytest.mark.parametrize("how", ["norm", "square root", "variance"])
def test_a_scalar_of_a_matrix_is_no_running_variance(how):
    def apply(p, x):
        w = p["w"]
        scalar = {"norm": jnp.linalg.norm(w), "variance": jnp.var(w)}.get(
            how, jnp.sqrt(abs(w[0, 0]))
        )
        return (x @ p["h"]) * scalar

    graph = trace_graph(apply, {"w": s(12, 12), "h": s(12, 10)}, X)
    reason = Listed(r"^(?!.*(running|influence))")
    check(graph, {"w": [reason, gain(1)], "h": kernel(10, 12)})


PROTOTYPES = {
    "distances": lambda y, c: ((y[:, None] - c) ** 2).sum(-1),
    "the other way round": lambda y, c: jnp.abs(c - y[:, None]).sum(-1),
    "a norm": lambda y, c: jnp.linalg.norm(y[:, None] - c, axis=-1),
    "radial functions": lambda y, c: jnp.exp(-((y[:, None, :] - c[None]) ** 2).mean(-1)),
}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_are_no_positions(name):
    def apply(p, x):
        return PROTOTYPES[name](x @ p["w"], p["c"]) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "c": s(6, 8), "h": s(6, 10)}, X),
        {"w": kernel(8, 12), "c": Listed("subtracted element by element"), "h": kernel(10, 6)},
    )


def test_prototypes_in_a_product_are_a_kernel():
    def apply(p, x):
        y = x @ p["w"]
        far = (y**2).sum(-1, keepdims=True) - 2 * y @ p["c"].T + (p["c"] ** 2).sum(-1)
        return jnp.exp(-far) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "c": s(6, 8), "h": s(6, 10)}, X),
        {"w": kernel(8, 12), "c": kernel(6, 8), "h": kernel(10, 6)},
    )


def test_positions_of_a_repeated_vector_are_positions():
    """A decoder starts from one vector for all its places."""

    def apply(p, x):
        return jnp.tanh((x @ p["w"])[:, None] + p["places"]).mean(1) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "places": s(5, 8), "h": s(8, 10)}, X),
        {"w": kernel(8, 12), "places": position(1, 8, 5), "h": kernel(10, 8)},
    )
