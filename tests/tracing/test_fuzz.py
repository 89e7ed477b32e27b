"""Random networks from the vocabulary: tracing never fails and binds every leaf."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from ppuda_jax.graphs.placement import numpy_index
from ppuda_jax.tracing.api import trace_graph

SIZE = 8


def _spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv(x, w, groups=1, dilation=1):
    return lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        rhs_dilation=(dilation, dilation),
    )


def _norm(x, p, axes):
    m, v = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - m) * lax.rsqrt(v + 1e-5) * p[0] + p[1]


def _attention(x, p):
    t = x.reshape(2, SIZE * SIZE, -1)
    q, k, v = jnp.split(t @ p[0], 3, -1)
    a = jax.nn.softmax(jnp.einsum("bnc,bmc->bnm", q, k))
    return (jnp.einsum("bnm,bmc->bnc", a, v) @ p[1]).reshape(x.shape)


def _excite(x, p):
    gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ p[0]) @ p[1])
    return x * gate[:, None, None]


def _pool(x, p):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


# name: (shapes of the parameters for c channels, function of (x, params))
OPS = {
    "conv": (lambda c: [(3, 3, c, c)], lambda x, p: _conv(x, p[0])),
    "conv_bias": (lambda c: [(1, 1, c, c), (c,)], lambda x, p: _conv(x, p[0]) + p[1]),
    "depthwise": (lambda c: [(3, 3, 1, c)], lambda x, p: _conv(x, p[0], x.shape[-1])),
    "dilated": (lambda c: [(3, 3, 1, c)], lambda x, p: _conv(x, p[0], x.shape[-1], 2)),
    "dense": (lambda c: [(c, c), (c,)], lambda x, p: x @ p[0] + p[1]),
    "batch_norm": (lambda c: [(c,), (c,)], lambda x, p: _norm(x, p, (0, 1, 2))),
    "layer_norm": (lambda c: [(c,), (c,)], lambda x, p: _norm(x, p, (3,))),
    "instance_norm": (lambda c: [(c,), (c,)], lambda x, p: _norm(x, p, (1, 2))),
    "attention": (lambda c: [(c, 3 * c), (c, c)], _attention),
    "excite": (lambda c: [(c, 2), (2, c)], _excite),
    "scale": (lambda c: [(c,)], lambda x, p: x * p[0]),
    "position": (lambda c: [(SIZE, SIZE, c)], lambda x, p: x + p[0]),
    "gate": (lambda c: [(c, c), (c, c)], lambda x, p: (x @ p[0]) * jax.nn.silu(x @ p[1])),
    "relu": (lambda c: [], lambda x, p: jax.nn.relu(x)),
    "gelu": (lambda c: [], lambda x, p: jax.nn.gelu(x)),
    "max_pool": (lambda c: [], _pool),
    "shift": (lambda c: [], lambda x, p: jnp.roll(x, 1, 1)),
}


@st.composite
def networks(draw):
    """A list of (operation, inputs, how the result joins, wrapper)."""
    steps = []
    for i in range(draw(st.integers(1, 8))):
        steps.append(
            (
                draw(st.sampled_from(sorted(OPS))),
                draw(st.integers(0, i)),
                draw(st.sampled_from(["", "", "sum", "concat"])),
                draw(st.integers(0, i)),
                draw(st.sampled_from(["", "jit", "remat", "scan"])),
            )
        )
    return draw(st.sampled_from([4, 8])), steps


def build(channels, steps):
    shapes, widths = [[_spec(3, 3, 3, channels)]], [channels]
    for name, source, how, other, wrapper in steps:
        width = widths[source]
        copies = 3 if wrapper == "scan" else None
        own = [s if copies is None else (copies, *s) for s in OPS[name][0](width)]
        shapes.append([_spec(*s) for s in own])
        widths.append(width + widths[other] if how == "concat" else width)
    shapes.append([_spec(widths[-1], 10), _spec(10)])

    def apply(params, x):
        values = [_conv(x, params[0][0])]
        for (name, source, how, other, wrapper), own in zip(steps, params[1:-1], strict=True):
            function, x = OPS[name][1], values[source]
            if wrapper == "jit":
                function = jax.jit(function)
            elif wrapper == "remat":
                function = jax.checkpoint(function)
            if wrapper == "scan" and own:
                y, _ = lax.scan(lambda x, p, f=function: (f(x, p), None), x, own)
            else:
                y = function(x, own)
            if how == "sum" and values[other].shape == y.shape:
                y = y + values[other]
            elif how == "concat":
                y = jnp.concatenate([y, values[other]], -1)
            values.append(y)
        # Every value reaches the output, so that every leaf matters.
        used = sum(v.sum() for v in values[:-1]) * 0
        return values[-1].mean((1, 2)) @ params[-1][0] + params[-1][1] + used

    return apply, shapes


@settings(max_examples=40, deadline=None)
@given(networks())
def test_every_leaf_is_bound_once(network):
    apply, params = build(*network)
    with jax.numpy_rank_promotion("allow"):
        graph = trace_graph(apply, params, _spec(2, SIZE, SIZE, 3))
    assert not graph.unbound
    covered = {b.path: np.zeros(b.leaf_shape, int) for b in graph.bindings}
    assert len(covered) == len(jax.tree.leaves(params))
    for b in graph.bindings:
        part = np.ones(b.shape, int).reshape(b.split).transpose(b.perm).reshape(b.part_shape)
        view = covered[b.path].reshape(b.view_shape or b.leaf_shape)
        view[numpy_index(b) if b.index is not None else ...] += part
    assert all((times == 1).all() for times in covered.values())
