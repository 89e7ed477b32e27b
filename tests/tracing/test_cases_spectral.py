"""Spectral norms whose vectors are among the parameters: the kernel is one, the vectors are not.

A state that is split from a model without a filter holds them.
"""

import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, bias, check, kernel, position, s

VECTOR = Listed("as a spectral norm does")


def unit(v):
    return v / (jnp.linalg.norm(v) + 1e-6)


def of_a_row(w, u):
    u = u[None]
    v = unit(u @ w.T)
    u = unit(v @ w)
    return (lax.stop_gradient(v) @ w @ lax.stop_gradient(u).T)[0, 0]


def of_a_vector(w, u):
    v = unit(w @ u)
    return v @ w @ unit(w.T @ v)


def guarded(w, u):
    sigma = of_a_row(w, u)
    return jnp.where(sigma != 0, sigma, 1)


NORMS = [of_a_row, of_a_vector, guarded]


@pytest.mark.parametrize("norm", NORMS, ids=lambda f: f.__name__)
def test_a_dense_layer(norm):
    def apply(p, x):
        return jnp.tanh(x @ (p["w"] / norm(p["w"], p["u"]))) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "u": s(8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "u": VECTOR, "h": kernel(10, 8)},
    )


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("norm", NORMS, ids=lambda f: f.__name__)
def test_a_convolution(norm, flat):
    def apply(p, x):
        w = p["k"].reshape(-1, 8)
        sigma = norm(w, p["u"])
        k = (w / sigma).reshape(3, 3, 3, 8) if flat else p["k"] / sigma
        y = lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(y).mean((1, 2)) @ p["h"]

    check(
        trace_graph(apply, {"k": s(3, 3, 3, 8), "u": s(8), "h": s(8, 10)}, s(2, 8, 8, 3)),
        {"k": kernel(8, 3, 3, 3), "u": VECTOR, "h": kernel(10, 8)},
    )


def test_both_vectors_are_kept():
    def apply(p, x):
        return jnp.tanh(x @ (p["w"] / (p["v"] @ p["w"] @ p["u"]))) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "u": s(8), "v": s(12), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "u": VECTOR, "v": VECTOR, "h": kernel(10, 8)},
    )


def test_a_reflection():
    def apply(p, x):
        v = unit(p["v"])
        return jnp.tanh(x @ (p["w"] - 2 * jnp.outer(v, v @ p["w"]))) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 12), "v": s(12), "h": s(12, 10)}, s(2, 12)),
        {"w": kernel(12, 12), "v": Listed(), "h": kernel(10, 12)},
    )


def test_nnx_without_a_filter():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.SpectralNorm(nnx.Linear(12, 8, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(8, 10, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(x, update_stats=False)))

    definition, state = nnx.split(Net(nnx.Rngs(0)))
    graph = trace_graph(lambda v, x: nnx.merge(definition, v)(x), state, s(2, 12))
    found = {"/".join(b.path): b for b in graph.bindings}
    layer = "norm/layer_instance"
    assert found[f"{layer}/kernel/value"].shape == (8, 12)
    assert set(found) == {
        *(f"{layer}/{name}/value" for name in ("kernel", "bias")),
        *(f"head/{name}/value" for name in ("kernel", "bias")),
    }
    assert any("as a spectral norm does" in leaf.reason for leaf in graph.unbound)


@pytest.mark.parametrize("from_the_left", [False, True])
def test_a_learnt_query_meets_its_kernel_from_either_side(from_the_left):
    def apply(p, x):
        query = p["wq"] @ p["q"] if from_the_left else p["q"] @ p["wq"].T
        a = jnp.exp(x @ p["k"] @ query)
        return (a[..., None] * x).sum(1) @ p["h"] + p["b"]

    params = {"q": s(12), "wq": s(8, 12), "k": s(12, 8), "h": s(12, 10), "b": s(10)}
    check(
        trace_graph(apply, params, s(2, 5, 12)),
        {
            "q": position(1, 12),
            "wq": kernel(8, 12),
            "k": kernel(8, 12),
            "h": kernel(10, 12),
            "b": bias(10),
        },
    )
