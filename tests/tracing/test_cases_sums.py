"""Products that are written as a multiplication and a sum: kernels, as with `@`."""

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import check, gain, kernel, s, same_leaves

TOKENS = s(2, 5, 12)


def test_the_attention_of_a_graph_network():
    params = {"w": s(12, 8), "source": s(8), "target": s(8), "h": s(8, 10)}

    def apply(score, p, x, edges):
        y = x @ p["w"]
        logits = score(y, p["source"])[:, :, None] + score(y, p["target"])[:, None]
        a = jax.nn.softmax(jnp.where(edges > 0, jax.nn.leaky_relu(logits), -1e9))
        return (a @ y).mean(1) @ p["h"]

    summed, product = (
        trace_graph(lambda p, *x, f=f: apply(f, p, *x), params, (TOKENS, s(5, 5)))
        for f in (lambda y, a: (y * a).sum(-1), lambda y, a: y @ a)
    )
    same_leaves(summed, product)
    assert summed.primitive_names == product.primitive_names
    check(
        summed,
        {
            "w": kernel(8, 12),
            "source": kernel(1, 8),
            "target": kernel(1, 8),
            "h": kernel(10, 8),
        },
    )


def test_one_logit():
    def apply(p, x):
        return (jnp.tanh(x @ p["w"]) * p["h"]).sum(-1, keepdims=True)

    graph = trace_graph(apply, {"w": s(12, 8), "h": s(8)}, s(2, 12))
    check(graph, {"w": kernel(8, 12), "h": kernel(1, 8)})
    assert graph.num_classes == 1


def test_the_states_of_a_state_space_are_read():
    def apply(p, x):
        def step(state, u):
            state = 0.5 * state + u[:, :, None]
            return state, (state * p["c"]).sum(-1) + p["d"] * u

        _, y = jax.lax.scan(step, jnp.zeros((2, 12, 4)), x.swapaxes(0, 1))
        return y.mean(0) @ p["h"]

    check(
        trace_graph(apply, {"c": s(12, 4), "d": s(12), "h": s(12, 10)}, TOKENS),
        {"c": kernel(12, 4, kind="sep_conv"), "d": gain(12), "h": kernel(10, 12)},
    )


def test_learnt_curves_of_every_feature():
    """The layer of a Kolmogorov-Arnold network."""

    def apply(p, x):
        basis = jnp.exp(-((x[:, :, None] - jnp.linspace(-1, 1, 5)) ** 2))
        return (basis[:, None] * p["c"]).sum((2, 3)) @ p["h"]

    check(
        trace_graph(apply, {"c": s(6, 12, 5), "h": s(6, 10)}, s(2, 12)),
        {"c": kernel(6, 60), "h": kernel(10, 6)},
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_sum_in_higher_precision(dtype):
    def apply(p, x):
        return jnp.tanh((x[:, :, None] * p["w"]).sum(1)) @ p["h"]

    params = {"w": s(12, 8, dtype=dtype), "h": s(8, 10, dtype=dtype)}
    check(
        trace_graph(apply, params, s(2, 12, dtype=dtype)), {"w": kernel(8, 12), "h": kernel(10, 8)}
    )


GAINS = {
    "before a norm": lambda y, g: jax.nn.standardize(y * g).mean(1),
    "summed over tokens": lambda y, g: (y * g).sum(1),
    "used twice": lambda y, g: (z := y * g).mean(1) + z.sum(-1).mean(1)[:, None],
    "averaged": lambda y, g: y.mean(1) * (y * g).mean(-1).mean(1)[:, None],
}


@pytest.mark.parametrize("name", GAINS)
def test_what_is_summed_over_other_axes_is_a_gain(name):
    def apply(p, x):
        return GAINS[name](x @ p["w"], p["g"]) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "h": s(8, 10)}, TOKENS),
        {
            "w": kernel(8, 12),
            "g": gain(8),
            "h": kernel(10, 8),
        },
    )


def test_weights_of_stacked_branches_are_gains():
    def apply(p, x):
        branches = jnp.stack([jnp.tanh(x @ p["a"]), x @ p["b"]], 1)
        return (branches * p["g"][:, None]).sum(1) @ p["h"]

    check(
        trace_graph(apply, {"a": s(12, 8), "b": s(12, 8), "g": s(2), "h": s(8, 10)}, s(2, 12)),
        {"a": kernel(8, 12), "b": kernel(8, 12), "g": gain(2), "h": kernel(10, 8)},
    )
