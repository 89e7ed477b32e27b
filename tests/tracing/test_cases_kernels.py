"""Kernels that are changed before their use: bound where a rule proves it, else listed.

Whatever is done to a parameter, it never becomes data, and so a positional encoding, by default.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, found, gain, kernel, s

KEY = jax.random.PRNGKey(0)
IMAGE = s(2, 8, 8, 3)
TOKENS = s(2, 5, 12)


@pytest.fixture(autouse=True)
def _foreign_code():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# --- a part is overwritten by constants ---------------------------------------------------------

OVERWRITTEN = {
    "centre set to zero": lambda k: k.at[1, 1:].set(0.0),
    "one entry": lambda k: k.at[1, 1, 0, 0].set(1.0),
    "centre by an array": lambda k: k.at[1, 1].set(jnp.ones((3, 8))),
    "row in place": lambda k: lax.dynamic_update_slice(k, jnp.zeros((1, 3, 3, 8)), (0, 0, 0, 0)),
    "two parts": lambda k: k.at[0].set(0.0).at[:, 2].set(0.0),
    "every other": lambda k: k.at[::2].set(0.0),
    "by a mask": lambda k: jnp.where(np.tri(3, dtype=bool)[:, :, None, None], k, 0.0),
    "times a mask": lambda k: k * np.tri(3, dtype=np.float32)[:, :, None, None],
    "constant added to a part": lambda k: k.at[1, 1].add(1.0),
    "constant multiplied into a part": lambda k: k.at[1, 1].multiply(0.5),
    "part cut at a minimum": lambda k: k.at[1].max(0.0),
    "after a transposition": lambda k: (
        k.transpose(3, 2, 0, 1).at[:, :, 1, 1].set(0.0).transpose(2, 3, 1, 0)
    ),
    "identity added": lambda k: k + jnp.zeros((3, 3, 3, 8)).at[1, 1].set(jnp.eye(3, 8)),
}


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_a_kernel_with_an_overwritten_part(name):
    def apply(p, x):
        return conv(x, OVERWRITTEN[name](p["k"])).mean((1, 2)) @ p["h"]

    check(
        trace_graph(apply, {"k": s(3, 3, 3, 8), "h": s(8, 10)}, IMAGE),
        {"k": kernel(8, 3, 3, 3), "h": kernel(10, 8)},
    )


def test_a_part_overwritten_in_a_loop():
    def apply(p, x):
        k = lax.fori_loop(0, 3, lambda i, k: k.at[i].set(0.0), p["k"])
        return conv(x, k).mean((1, 2)) @ p["h"]

    check(
        trace_graph(apply, {"k": s(3, 3, 3, 8), "h": s(8, 10)}, IMAGE),
        {"k": [kernel(8, 3, 3, 3), Listed()], "h": kernel(10, 8)},
    )


@pytest.mark.parametrize("how", ["set", "multiply"])
def test_the_padding_row_of_an_embedding(how):
    def apply(p, ids):
        return getattr(p["table"].at[0], how)(0.0)[ids].mean(1) @ p["h"]

    check(
        trace_graph(apply, {"table": s(50, 8), "h": s(8, 10)}, s(2, 5, dtype=jnp.int32)),
        {"table": kernel(8, 50), "h": kernel(10, 8)},
    )


def test_a_dense_layer_with_a_masked_triangle():
    def apply(p, x):
        return jnp.tanh(x @ jnp.tril(p["w"])) @ p["h"] + p["b"].at[0].set(0.0)

    check(
        trace_graph(apply, {"w": s(12, 12), "h": s(12, 10), "b": s(10)}, s(2, 12)),
        {"w": kernel(12, 12), "h": kernel(10, 12), "b": bias(10)},
    )


def test_a_norm_with_an_overwritten_scale():
    def apply(p, x):
        y = x @ p["w"]
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-6)
        return (y * p["g"].at[0].set(1.0)) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "g": gain(8), "h": kernel(10, 8)},
    )


# --- made of parameters in a way that no decoder covers -----------------------------------------


def exponential(p):
    return jax.scipy.linalg.expm(p["w"] - p["w"].T)


def orthogonal(p):
    return jnp.linalg.qr(p["w"])[0]


def cayley(p):
    skew = p["w"] - p["w"].T
    return jnp.linalg.solve(jnp.eye(12) + skew, jnp.eye(12) - skew)


def inverse(p):
    return jnp.linalg.inv(p["w"])


def spectral_parts(p):
    u, values, v = jnp.linalg.svd(p["w"])
    return (u * jnp.minimum(values, 1.0)) @ v


def scattered(p):
    return jnp.zeros((12, 12)).at[np.diag_indices(12)].set(p["v"])


def scattered_anywhere(p):
    rows, columns = np.arange(12) % 5, np.arange(12)
    return jnp.zeros((12, 12)).at[rows, columns].add(p["v"])


def written_into_another(p):
    return p["w"].at[:6, :6].set(p["u"])


def added_to_a_part(p):
    return p["w"].at[:6, :6].add(p["u"])


def updated_slice(p):
    return lax.dynamic_update_slice(p["w"], p["u"], (3, 3))


def blocks(p):
    return jax.scipy.linalg.block_diag(p["u"], p["u2"])


def kronecker(p):
    return jnp.kron(p["small"], p["u"])


def circulant(p):
    return p["v"][(np.arange(12)[:, None] - np.arange(12)) % 12]


def toeplitz(p):
    return jax.scipy.linalg.toeplitz(p["v"])


def householder(p):
    return jnp.eye(12) - 2 * jnp.outer(p["v"], p["v"]) / (p["v"] @ p["v"])


def outer(p):
    return jnp.outer(p["v"], p["v2"])


def hadamard(p):
    return p["w"] * p["w2"]


def interpolated(p):
    return p["w"] + jax.nn.sigmoid(p["w2"]) * (p["w3"] - p["w"])


def maximum(p):
    return jnp.maximum(p["w"], p["w2"])


def chosen(p):
    return jnp.where(p["w"] > p["w2"], p["w"], p["w2"])


def convolved(p):
    return jnp.stack([jnp.convolve(row, p["f"], mode="same") for row in p["w"][:12]])


def sorted_rows(p):
    return jnp.sort(p["w"], 0)


def accumulated(p):
    return jnp.cumsum(p["w"], 0)


def upper_from_vector(p):
    return jnp.zeros((12, 12)).at[np.triu_indices(12)].set(p["long"])


def indexed_by_itself(p):
    return p["w"][jnp.argsort(p["v"])]


def hashed(p):
    return p["v"][np.random.default_rng(0).integers(0, 12, (12, 12))]


MADE = (
    exponential,
    orthogonal,
    cayley,
    inverse,
    spectral_parts,
    scattered,
    scattered_anywhere,
    written_into_another,
    added_to_a_part,
    updated_slice,
    blocks,
    kronecker,
    circulant,
    toeplitz,
    householder,
    outer,
    hadamard,
    interpolated,
    maximum,
    chosen,
    convolved,
    sorted_rows,
    accumulated,
    upper_from_vector,
    indexed_by_itself,
    hashed,
)
LEAVES = {
    "w": s(12, 12),
    "w2": s(12, 12),
    "w3": s(12, 12),
    "u": s(6, 6),
    "u2": s(6, 6),
    "small": s(2, 2),
    "v": s(12),
    "v2": s(12),
    "f": s(3),
    "long": s(78),
}
ROLES = [kernel(12, 12), kernel(6, 6), gain(12), Listed(r"^(?!.*influence)")]
"""A whole matrix of a kernel's size may be it; the rest is a gain or listed."""


class _Recorded(dict):
    """Parameters that remember which of them were used."""

    def __init__(self, params):
        super().__init__(params)
        self.used = set()

    def __getitem__(self, key):
        self.used.add(key)
        return super().__getitem__(key)


def leaves_of(make):
    recorded = _Recorded({name: jnp.ones(v.shape) for name, v in LEAVES.items()})
    jax.eval_shape(lambda: make(recorded))
    return {name: LEAVES[name] for name in recorded.used}


@pytest.mark.parametrize("make", MADE, ids=lambda f: f.__name__)
def test_kernels_made_of_parameters_never_become_data(make):
    def apply(p, x):
        return jnp.tanh(x @ make(p)) @ p["h"]

    params = leaves_of(make)
    graph = trace_graph(apply, params | {"h": s(12, 10)}, s(2, 12))
    check(graph, dict.fromkeys(params, ROLES) | {"h": kernel(10, 12)})
    assert "pos_enc" not in graph.primitive_names


@pytest.mark.parametrize("make", MADE, ids=lambda f: f.__name__)
def test_tables_made_of_parameters_never_become_data(make):
    def apply(p, ids):
        return jnp.tanh(make(p)[ids]).mean(1) @ p["h"]

    params = leaves_of(make)
    graph = trace_graph(apply, params | {"h": s(12, 10)}, s(2, 5, dtype=jnp.int32))
    check(graph, dict.fromkeys(params, ROLES) | {"h": kernel(10, 12)})
    assert "pos_enc" not in graph.primitive_names


def test_a_factored_kernel():
    def apply(p, x):
        return jnp.tanh(x @ (p["a"] @ p["b"])) @ p["h"]

    check(
        trace_graph(apply, {"a": s(12, 3), "b": s(3, 8), "h": s(8, 10)}, s(2, 12)),
        {
            "a": [kernel(3, 12), Listed()],
            "b": [kernel(8, 3), Listed()],
            "h": kernel(10, 8),
        },
    )


def test_a_factored_convolution():
    def apply(p, x):
        k = jnp.einsum("hwr,rio->hwio", p["space"], p["channels"])
        return conv(x, k).mean((1, 2)) @ p["h"]

    params = {"space": s(3, 3, 4), "channels": s(4, 3, 8), "h": s(8, 10)}
    check(
        trace_graph(apply, params, IMAGE),
        {"space": Listed(), "channels": Listed(), "h": kernel(10, 8)},
    )


def test_a_token_written_into_data_is_still_a_token():
    def apply(p, x):
        return jnp.tanh(x.at[:, 0].set(p["cls"]) @ p["w"]).mean(1)

    graph = trace_graph(apply, {"cls": s(12), "w": s(12, 10)}, TOKENS)
    assert found(graph)["w"] == [kernel(10, 12)]
    assert not isinstance(found(graph)["cls"], str)


def test_data_written_into_a_kernel():
    def apply(p, x):
        k = p["w"].at[0].set(x[0])
        return jnp.tanh(x @ k) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 12), "h": s(12, 10)}, s(2, 12)),
        {"w": Listed(), "h": kernel(10, 12)},
    )


# --- complex numbers ----------------------------------------------------------------------------

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


# --- integer kernels and their scales -----------------------------------------------------------


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
