"""Operations with several results: contracted, each with its own description."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import check, kernel, predecessors, s


def spectrum(c):
    w, v = jnp.linalg.eigh(c)
    return (v * w[:, None, :]).reshape(2, -1)


def eigenvalues(c):
    return jnp.linalg.eigh(c)[0]


def eigenvectors(c):
    return jnp.linalg.eigh(c)[1][:, :, 0]


def triangular(c):
    q, r = jnp.linalg.qr(c)
    return jnp.concatenate([q[:, 0], r[:, 0]], -1)


def factors(c):
    lu, pivots, permutation = lax.linalg.lu(c)
    return lu[:, 0] + pivots + permutation


def singular(c):
    u, values, _ = jnp.linalg.svd(c)
    return u[:, 0] * values


def determinant(c):
    sign, log = jnp.linalg.slogdet(c)
    return jnp.stack([sign, log], -1)


def schur(c):
    return jax.scipy.linalg.schur(c[0])[0]


def best(c):
    values, places = lax.top_k(c[:, 0], 2)
    return values + places


def ordered(c):
    keys, values = lax.sort((c[:, 0], c[:, 1]), num_keys=1)
    return keys * values


def fraction(c):
    return jnp.concatenate([*jnp.frexp(c[:, 0])], -1).astype(jnp.float32)


def solved(c):
    return jnp.linalg.solve(c, c[:, 0, :, None])[..., 0]


def reduced_together(c):
    a, b = lax.reduce((c, c * c), (0.0, 0.0), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1,))
    return a * b


SEVERAL = (
    spectrum,
    eigenvalues,
    eigenvectors,
    triangular,
    factors,
    singular,
    determinant,
    schur,
    best,
    ordered,
    fraction,
    solved,
    reduced_together,
)


@pytest.mark.parametrize("operation", SEVERAL, ids=lambda f: f.__name__)
def test_operations_with_several_results_are_contracted(operation):
    def features(x):
        c = jnp.einsum("bni,bnj->bij", x, x)
        return operation(c)

    size = jax.eval_shape(features, s(2, 5, 4)).shape[-1]
    graph = trace_graph(
        lambda p, x: jnp.tanh(features(x @ p["w"]) @ p["h"]) @ p["o"],
        {"w": s(6, 4), "h": s(size, 8), "o": s(8, 10)},
        s(2, 5, 6),
    )
    check(graph, {"w": kernel(4, 6), "h": kernel(8, size), "o": kernel(10, 8)})
    assert "conv" in predecessors(graph, "h") or "msa" in predecessors(graph, "h")
    assert predecessors(graph, "o") == ["conv"]
