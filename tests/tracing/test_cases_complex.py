"""Complex parameters: listed, with a true message."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, found, kernel, s

KEY = jax.random.PRNGKey(0)
TOKENS = s(2, 5, 12)


COMPLEX = jnp.complex64


def fourier(p, x):
    y = jnp.einsum("bfc,fcd->bfd", jnp.fft.rfft(x, axis=1), p["c"])
    return jnp.fft.irfft(y, 5, axis=1).mean(1) @ p["h"]


def fourier_dense(p, x):
    y = jnp.fft.rfft(x, axis=1) @ p["c"]
    return jnp.fft.irfft(y, 5, axis=1).mean(1) @ p["h"]


def complex_bias(p, x):
    return (jnp.fft.rfft(x, axis=1) + p["c"]).real.mean(1) @ p["h"]


def complex_filter(p, x):
    return jnp.fft.irfft(jnp.fft.rfft(x, axis=1) * p["c"], 5, axis=1).mean(1) @ p["h"]


def complex_table(p, x):
    return (p["c"][x.astype(jnp.int32)].real).mean((1, 2)) @ p["h"]


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (fourier, (3, 12, 12)),
        (fourier_dense, (12, 12)),
        (complex_bias, (12,)),
        (complex_filter, (3, 12)),
        (complex_table, (50, 12)),
    ],
)
def test_complex_leaves_are_listed(net, shape):
    graph = trace_graph(net, {"c": s(*shape, dtype=COMPLEX), "h": s(12, 10)}, TOKENS)
    check(graph, {"c": Listed("complex"), "h": kernel(10, 12)})


def test_a_complex_kernel_of_two_real_leaves():
    def apply(p, x):
        y = jnp.fft.rfft(x, axis=1) @ lax.complex(p["re"], p["im"])
        return jnp.fft.irfft(y, 5, axis=1).mean(1) @ p["h"]

    either = [kernel(12, 12), Listed()]
    check(
        trace_graph(apply, {"re": s(12, 12), "im": s(12, 12), "h": s(12, 10)}, TOKENS),
        {"re": either, "im": either, "h": kernel(10, 12)},
    )


def test_a_linear_recurrent_unit():
    def apply(p, x):
        rate = jnp.exp(-jnp.exp(p["nu"]) + 1j * jnp.exp(p["theta"]))
        u = x @ (p["b_re"] + 1j * p["b_im"])

        def join(a, b):
            return a[0] * b[0], b[0] * a[1] + b[1]

        _, h = lax.associative_scan(join, (jnp.broadcast_to(rate, u.shape), u), axis=1)
        return (h @ p["c"]).real.mean(1) @ p["h"]

    params = {"nu": s(8), "theta": s(8), "b_re": s(12, 8), "b_im": s(12, 8)}
    graph = trace_graph(apply, params | {"c": s(8, 8, dtype=COMPLEX), "h": s(8, 10)}, TOKENS)
    leaves = found(graph)
    assert leaves["h"] == [kernel(10, 8)] and "complex" in leaves["c"]
    assert "pos_enc" not in graph.primitive_names


def test_a_complex_network_is_refused_with_a_true_message():
    def apply(p, x):
        return (x @ p["w"]).real

    with pytest.raises(ValueError, match="complex") as error:
        trace_graph(apply, {"w": s(12, 10, dtype=COMPLEX)}, s(2, 12))
    assert "integer" not in str(error.value)


def test_linen_with_complex_parameters():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, dtype=COMPLEX, param_dtype=COMPLEX, name="c")(x)
            return nn.Dense(10, name="h")(x.real)

    net = Net()
    graph = trace_graph(net.apply, jax.eval_shape(net.init, KEY, s(2, 12)), s(2, 12))
    check(
        graph,
        {
            "c/kernel": Listed("complex"),
            "c/bias": Listed("complex"),
            "h/kernel": kernel(10, 8),
            "h/bias": bias(10),
        },
    )
