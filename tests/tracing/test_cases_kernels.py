"""Kernels that are changed before their use: bound where a rule proves it, else listed.

Whatever is done to a parameter, it never becomes data, and so a positional encoding, by default.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, found, gain, kernel, s

IMAGE = s(2, 8, 8, 3)
TOKENS = s(2, 5, 12)


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
