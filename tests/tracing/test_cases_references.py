"""Mutable arrays: the graph that the same computation without them has, or a true refusal."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import found, s

PARAMS = {"w": s(12, 8), "v": s(8, 8), "h": s(8, 10)}
X = s(2, 12)


def written_and_read(p, x):
    r = jax.new_ref(x @ p["w"])
    r[...] = jnp.tanh(r[...]) @ p["v"]
    return r[...] @ p["h"]


def written_and_read_pure(p, x):
    return (jnp.tanh(x @ p["w"]) @ p["v"]) @ p["h"]


def started_empty(p, x):
    r = jax.new_ref(jnp.zeros((2, 8)))
    r[...] = x @ p["w"]
    r[...] += jnp.tanh(r[...]) @ p["v"]
    return r[...] @ p["h"]


def started_empty_pure(p, x):
    y = x @ p["w"]
    return (y + jnp.tanh(y) @ p["v"]) @ p["h"]


def in_a_loop(p, x):
    r = jax.new_ref(x @ p["w"])

    def turn(i, _):
        r[...] = jnp.tanh(r[...] @ p["v"])
        return 0

    lax.fori_loop(0, 3, turn, 0)
    return r[...] @ p["h"]


def in_a_loop_pure(p, x):
    y = lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y @ p["v"]), x @ p["w"])
    return y @ p["h"]


def by_columns(p, x):
    r = jax.new_ref(jnp.zeros((2, 8)))
    r[:, :4] = (x @ p["w"])[:, :4]
    r[:, 4:] = jnp.tanh(x @ p["w"])[:, 4:]
    return (r[...] @ p["v"]) @ p["h"]


def by_columns_pure(p, x):
    y = x @ p["w"]
    return (jnp.concatenate([y[:, :4], jnp.tanh(y)[:, 4:]], 1) @ p["v"]) @ p["h"]


def in_a_branch(p, x):
    r = jax.new_ref(x @ p["w"])

    def write():
        r[...] = r[...] @ p["v"]

    lax.cond(x.sum() > 0, write, lambda: None)
    return r[...] @ p["h"]


def in_a_branch_pure(p, x):
    y = x @ p["w"]
    return lax.cond(x.sum() > 0, lambda y: y @ p["v"], lambda y: y, y) @ p["h"]


def inside_jit(p, x):
    r = jax.new_ref(x @ p["w"])

    @jax.jit
    def write(r):
        r[...] = jnp.tanh(r[...] @ p["v"])

    write(r)
    return r[...] @ p["h"]


def inside_jit_pure(p, x):
    return jnp.tanh((x @ p["w"]) @ p["v"]) @ p["h"]


def of_a_parameter(p, x):
    r = jax.new_ref(p["w"])
    y = x @ r[...]
    return jnp.tanh(y @ p["v"]) @ p["h"]


def of_a_parameter_pure(p, x):
    return jnp.tanh((x @ p["w"]) @ p["v"]) @ p["h"]


def frozen(p, x):
    r = jax.new_ref(x @ p["w"])
    r[...] = r[...] @ p["v"]
    return jax.freeze(r) @ p["h"]


def frozen_pure(p, x):
    return ((x @ p["w"]) @ p["v"]) @ p["h"]


def only_a_read(p, x):
    r = jax.new_ref(x)
    return ((r[...] @ p["w"]) @ p["v"]) @ p["h"]


def only_a_read_pure(p, x):
    return ((x @ p["w"]) @ p["v"]) @ p["h"]


PAIRS = {
    f.__name__: (f, g)
    for f, g in (
        (written_and_read, written_and_read_pure),
        (started_empty, started_empty_pure),
        (in_a_loop, in_a_loop_pure),
        (by_columns, by_columns_pure),
        (in_a_branch, in_a_branch_pure),
        (inside_jit, inside_jit_pure),
        (of_a_parameter, of_a_parameter_pure),
        (frozen, frozen_pure),
        (only_a_read, only_a_read_pure),
    )
}


def is_graph_or_true_refusal(apply, pure):
    want = trace_graph(pure, PARAMS, X)
    assert all(not isinstance(leaf, str) for leaf in found(want).values())
    try:
        graph = trace_graph(apply, PARAMS, X)
    except ValueError as error:
        assert "mutable" in str(error)
        return
    for path, leaf in found(graph).items():
        assert leaf == found(want)[path] or "mutable" in leaf


@pytest.mark.parametrize("name", PAIRS)
def test_mutable_arrays(name):
    is_graph_or_true_refusal(*PAIRS[name])


def test_run_state():
    from jax._src.state.discharge import run_state

    def apply(p, x):
        def body(refs):
            y, out = refs
            out[...] = jnp.tanh(y[...] @ p["v"])

        _, y = run_state(body)((x @ p["w"], jnp.zeros((2, 8))))
        return y @ p["h"]

    is_graph_or_true_refusal(apply, inside_jit_pure)


def test_effects_that_are_no_writes_are_harmless():
    def apply(p, x):
        y = x @ p["w"]
        jax.debug.print("{}", y.mean())
        jax.debug.callback(lambda y: None, y)
        return (y @ p["v"]) @ p["h"]

    is_graph_or_true_refusal(apply, frozen_pure)
    assert all(not isinstance(leaf, str) for leaf in found(trace_graph(apply, PARAMS, X)).values())
