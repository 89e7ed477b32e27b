"""Norms written by hand, in which the scale is divided by the deviation first."""

import jax.numpy as jnp
import pytest

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import check, gain, kernel, offset, s

TOKENS = s(2, 5, 12)


def deviation(y, axes):
    return jnp.sqrt(y.var(axes, keepdims=True) + 1e-5)


def folded(y, p, axes):
    mean, scale = y.mean(axes, keepdims=True), p["g"] / deviation(y, axes)
    return y * scale + (p["b"] - mean * scale)


def scaled_first(y, p, axes):
    return p["g"] / deviation(y, axes) * (y - y.mean(axes, keepdims=True)) + p["b"]


def scaled_last(y, p, axes):
    return (y - y.mean(axes, keepdims=True)) * (p["g"] / deviation(y, axes)) + p["b"]


def divided_by_the_quotient(y, p, axes):
    return (y - y.mean(axes, keepdims=True)) / (deviation(y, axes) / p["g"]) + p["b"]


FORMS = [folded, scaled_first, scaled_last, divided_by_the_quotient]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("kind", "axes"), [("bn", (0, 1)), ("ln", (-1,))])
def test_a_scale_over_the_deviation(form, kind, axes):
    def apply(p, x):
        return jnp.tanh(form(x @ p["w"], p, axes)).mean(1) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "b": s(8), "h": s(8, 10)}, TOKENS),
        {"w": kernel(8, 12), "g": gain(8, kind), "b": offset(8, kind), "h": kernel(10, 8)},
    )


def test_a_scale_over_a_root_mean_square():
    def apply(p, x):
        y = x @ p["w"]
        return (y * (p["g"] / jnp.sqrt((y * y).mean(-1, keepdims=True) + 1e-6))).mean(1) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "h": s(8, 10)}, TOKENS),
        {"w": kernel(8, 12), "g": gain(8), "h": kernel(10, 8)},
    )


def test_a_scale_over_data_is_a_gain():
    """A logistic function with a learnt height."""

    def apply(p, x):
        return (p["g"] / (1 + jnp.exp(-(x @ p["w"])))) @ p["h"]

    check(
        trace_graph(apply, {"w": s(12, 8), "g": s(8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "g": gain(8), "h": kernel(10, 8)},
    )
