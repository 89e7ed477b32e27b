"""Leaves that are listed have a true reason: what influences the output is never said not to."""

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, check, kernel, s

X = s(2, 5, 12)
TRUE = Listed(r"^(?!.*does not influence)")


def learnt_epsilon(p, y):
    """Filter response normalisation, arXiv 1911.09737."""
    power = (y * y).mean(1, keepdims=True)
    return y * jax.lax.rsqrt(power + jnp.abs(p["v"]))


def running_mean_of_a_folded_norm(p, y):
    scale = p["g"] / jnp.sqrt(p["u"] + 1e-5)
    return y * scale + (p["b"] - p["v"] * scale)


def added_to_a_statistic(p, y):
    return y * jax.nn.sigmoid(y.mean(1, keepdims=True) + p["v"])


def power(p, y):
    return jnp.abs(y) ** p["v"]


def limit(p, y):
    return jnp.maximum(y, p["v"])


def of_a_call_within(p, y):
    return jax.jit(lambda v, y: jnp.where(y > v, y, 0))(p["v"], y)


@pytest.mark.parametrize(
    "net",
    [
        learnt_epsilon,
        running_mean_of_a_folded_norm,
        added_to_a_statistic,
        power,
        limit,
        of_a_call_within,
    ],
)
def test_a_leaf_that_influences_the_output_has_another_reason(net):
    def apply(p, x):
        return net(p, x @ p["w"]).mean(1) @ p["h"]

    params = {"w": s(12, 8), "v": s(8), "h": s(8, 10)}
    others = {name: s(8) for name in "gub"} if net is running_mean_of_a_folded_norm else {}
    graph = trace_graph(apply, params | others, X)
    reasons = {leaf.path[0]: leaf.reason for leaf in graph.unbound}
    assert not any("influence" in reason for reason in reasons.values())
    if not others and net is not added_to_a_statistic:
        check(graph, {"w": kernel(8, 12), "v": TRUE, "h": kernel(10, 8)})


def test_a_leaf_that_only_dead_code_uses_does_not_influence_the_output():
    def apply(p, x):
        dead = jax.jit(lambda a, b: (a, b * 2))(x, p["v"])[0]
        return dead @ p["h"]

    graph = trace_graph(apply, {"v": s(8), "h": s(12, 10)}, s(2, 12))
    check(graph, {"v": Listed("does not influence"), "h": kernel(10, 12)})
