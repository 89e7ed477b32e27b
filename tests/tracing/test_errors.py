"""What `trace` refuses, and how it says so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import pytest

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.tracing.api import check_apply_fn, trace, trace_graph

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
W = {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32)}


def dense(p, x):
    return x @ p["w"]


@pytest.mark.parametrize(
    ("apply_fn", "variables", "inputs", "message"),
    [
        ("net", W, X, "apply_fn must be a function of"),
        (dense, {}, X, "the model has no parameters"),
        (dense, {"params": {}}, X, "the model has no parameters"),
        (
            dense,
            {"w": jax.ShapeDtypeStruct((4, 3), jnp.int32)},
            X,
            "must be real and floating",
        ),
        (dense, W, jax.ShapeDtypeStruct((2, 5), jnp.float32), r"inputs of shape \[\(2, 5\)\]"),
        (dense, W, jax.ShapeDtypeStruct((), jnp.float32), "rank and layout of the inputs"),
        (dense, W, {}, "inputs must hold at least one array"),
        (lambda p, x: (dense(p, x), x), W, X, "must return one array, received 2"),
        (lambda p, x: None, W, X, "must return one array, received 0"),
        (lambda p, x: x[x > 0] @ p["w"], W, X, "depend on the data"),
        (lambda p, x: dense(p, x) if x.sum() > 0 else x, W, X, "depend on the data"),
        (lambda p, x: x @ p["w"][: int(x.sum())], W, X, "depend on the data"),
        (lambda p, x: p["w"].sum(0), W, X, "does not depend on the inputs"),
    ],
)
def test_bad_input(apply_fn, variables, inputs, message):
    with pytest.raises(ValueError, match=message):
        trace(apply_fn, variables, inputs)


def test_wrong_rank_of_a_convolution():
    net = nn.Conv(4, (3, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"inputs of shape \[\(8, 3\)\]: .*rank and layout"):
        trace(net.apply, variables, jax.ShapeDtypeStruct((8, 3), jnp.float32))


def test_another_apply_fn_is_refused():
    source = trace_graph(dense, W, X).source
    check_apply_fn(source, dense)
    check_apply_fn(source, lambda p, x: x @ p["w"])
    with pytest.raises(ValueError, match="traced from another apply_fn"):
        check_apply_fn(source, lambda p, x: jnp.concatenate([x @ p["w"], x], 1))
    with pytest.raises(ValueError, match="traced from another apply_fn"):
        check_apply_fn(source, lambda p, x: x @ p["kernel"])


def test_bound_methods_of_equal_modules_pass_at_once():
    def build():
        return nn.Dense(3)

    variables = jax.eval_shape(build().init, jax.random.key(0), X)
    check_apply_fn(trace_graph(build().apply, variables, X).source, build().apply)


def test_batches_are_refused_clearly():
    graph = trace(dense, W, X)
    with pytest.raises(ValueError, match="one at a time"):
        ArchGraph.from_graphs_tuple(jraph.batch_np([graph, graph]))
    other = trace(lambda p, x: jnp.tanh(x @ p["w"]) + x[:, :3], W, X)
    with pytest.raises(ValueError, match="cannot be batched: pass them one at a time"):
        jraph.batch_np([graph, other])
