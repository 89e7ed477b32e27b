"""Rules by what they promise: a predicted kernel, placed in its leaf, acts as that kernel.

Every function below computes a dense layer or a convolution in another way. A random canonical
kernel goes into the leaf as its binding says; the function must then compute what the kernel in
its canonical layout computes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppuda_jax.graphs.placement import numpy_index
from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import s

RNG = np.random.default_rng(0)


def put(graph, canonical):
    """{path: leaf} with the canonical array of every binding in its place."""
    leaves = {}
    for binding, array in zip(graph.bindings, canonical, strict=True):
        leaf = leaves.setdefault(binding.path, np.full(binding.leaf_shape, np.nan, np.float32))
        part = array.reshape(binding.split).transpose(binding.perm).reshape(binding.part_shape)
        if binding.index is None:
            leaf[...] = part
        else:
            leaf.reshape(binding.view_shape)[numpy_index(binding)] = part
    return leaves


def drawn(graph):
    return [RNG.normal(size=b.shape).astype(np.float32) for b in graph.bindings]


def conv(x, w, layout=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, **options)


DENSE = {
    "product": ((6, 4), lambda w, x: x @ w),
    "transposed": ((4, 6), lambda w, x: x @ w.T),
    "from the left": ((4, 6), lambda w, x: (w @ x.T).T),
    "reversed inputs": ((6, 4), lambda w, x: x @ jnp.flip(w, 0)),
    "reversed outputs": ((6, 4), lambda w, x: x @ jnp.flip(w, 1)),
    "reversed both": ((6, 4), lambda w, x: x @ w[::-1, ::-1]),
    "split outputs": ((6, 2, 2), lambda w, x: jnp.einsum("bi,iop->bop", x, w).reshape(-1, 4)),
    "outputs first": ((2, 6, 2), lambda w, x: jnp.einsum("bi,oip->bop", x, w).reshape(-1, 4)),
    "split inputs": (
        (2, 3, 4),
        lambda w, x: jnp.einsum("bij,ijo->bo", x.reshape(-1, 2, 3), w),
    ),
    "swapped inputs": (
        (3, 2, 4),
        lambda w, x: jnp.einsum("bij,jio->bo", x.reshape(-1, 2, 3), w),
    ),
    "flat": ((24,), lambda w, x: x @ w.reshape(6, 4)),
    "flat and transposed": ((24,), lambda w, x: x @ w.reshape(4, 6).T),
    "in a stack of one": ((1, 6, 4), lambda w, x: x @ w[0]),
    "multiplied and summed": ((6, 4), lambda w, x: (x[:, :, None] * w).sum(1)),
    "multiplied and summed along rows": ((4, 6), lambda w, x: (w * x[:, None]).sum(-1)),
    "multiplied and summed over two axes": (
        (2, 3, 4),
        lambda w, x: (x.reshape(-1, 2, 3)[..., None] * w).sum((1, 2)),
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense(name):
    shape, net = DENSE[name]
    graph = trace_graph(lambda p, x: net(p["w"], x), {"w": s(*shape)}, s(3, 6))
    (kernel,) = drawn(graph)
    assert kernel.shape == (4, 6)
    leaves = put(graph, [kernel])
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    expected = x @ canonical_of(graph, kernel, name).T
    np.testing.assert_allclose(net(leaves[("w",)], x), expected, atol=1e-5)


def canonical_of(graph, kernel, name):
    """A kernel whose axes are several digits has them in the order of the leaf."""
    if name == "swapped inputs":
        return kernel.reshape(4, 3, 2).transpose(0, 2, 1).reshape(4, 6)
    return kernel


CONVS = {
    "HWIO": ((3, 3, 2, 4), lambda w, x: conv(x, w)),
    "OIHW": ((4, 2, 3, 3), lambda w, x: conv(x, w, ("NHWC", "OIHW", "NHWC"))),
    "OHWI": ((4, 3, 3, 2), lambda w, x: conv(x, w.transpose(1, 2, 3, 0))),
    "IHWO": ((2, 3, 3, 4), lambda w, x: conv(x, w, ("NHWC", "IHWO", "NHWC"))),
    "rows reversed": ((3, 3, 2, 4), lambda w, x: conv(x, jnp.flip(w, 0))),
    "a half turn": ((3, 3, 2, 4), lambda w, x: conv(x, lax.rev(w, (0, 1)))),
    "space swapped": ((3, 3, 2, 4), lambda w, x: conv(x, w.transpose(1, 0, 2, 3))),
    "flat": ((9, 2, 4), lambda w, x: conv(x, w.reshape(3, 3, 2, 4))),
    "outputs split": ((3, 3, 2, 2, 2), lambda w, x: conv(x, w.reshape(3, 3, 2, 4))),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name):
    shape, net = CONVS[name]
    graph = trace_graph(lambda p, x: net(p["w"], x), {"w": s(*shape)}, s(2, 5, 5, 2))
    (kernel,) = drawn(graph)
    assert kernel.shape == (4, 2, 3, 3)
    leaves = put(graph, [kernel])
    x = RNG.normal(size=(2, 5, 5, 2)).astype(np.float32)
    expected = conv(x, kernel, ("NHWC", "OIHW", "NHWC"))
    np.testing.assert_allclose(net(leaves[("w",)], x), expected, atol=1e-4)


def windows(x, channels_last=True):
    """Patches of 2 by 3 pixels: [B, h, 2, w, 3, C], or [B, C, h, 2, w, 3]."""
    x = x.reshape(2, 2, 2, 2, 3, 5)
    return x if channels_last else x.transpose(0, 5, 1, 2, 3, 4)


PATCHES = {
    "height, width, channels": (
        (2, 3, 5, 4),
        lambda w, x: jnp.einsum("bhpwqc,pqco->bhwo", windows(x), w),
    ),
    "by other names": (
        (2, 3, 5, 4),
        lambda w, x: jnp.einsum("bhzwyc,zyco->bhwo", windows(x), w),
    ),
    "channels first": (
        (5, 2, 3, 4),
        lambda w, x: jnp.einsum("bchpwq,cpqo->bhwo", windows(x, False), w),
    ),
    "outputs first": (
        (4, 5, 2, 3),
        lambda w, x: jnp.einsum("bchpwq,ocpq->bhwo", windows(x, False), w),
    ),
    "width first": (
        (3, 2, 5, 4),
        lambda w, x: jnp.einsum("bhpwqc,qpco->bhwo", windows(x), w),
    ),
    "multiplied and summed": (
        (2, 3, 5, 4),
        lambda w, x: (windows(x).transpose(0, 1, 3, 2, 4, 5)[..., None] * w).sum((3, 4, 5)),
    ),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches(name):
    shape, net = PATCHES[name]
    graph = trace_graph(lambda p, x: net(p["w"], x), {"w": s(*shape)}, s(2, 4, 6, 5))
    (kernel,) = drawn(graph)
    assert kernel.shape == (4, 5, 2, 3)
    leaves = put(graph, [kernel])
    x = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
    layout = ("NHWC", "OIHW", "NHWC")
    expected = lax.conv_general_dilated(x, kernel, (2, 3), "VALID", dimension_numbers=layout)
    np.testing.assert_allclose(net(leaves[("w",)], x), expected, atol=1e-4)


def columns(x, axis):
    """The nine shifted maps of a 3 by 3 convolution, stacked."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.stack([x[:, i : i + 5, j : j + 5] for i in range(3) for j in range(3)], axis)


COLUMNS = {
    "stacked before the channels": (
        (3, 3, 2, 4),
        lambda w, x: columns(x, 3).reshape(2, 5, 5, 18) @ w.reshape(18, 4),
        (4, 2, 3, 3),
    ),
    "by name": (
        (3, 3, 2, 4),
        lambda w, x: jnp.einsum("bhwzc,zco->bhwo", columns(x, 3), w.reshape(9, 2, 4)),
        (4, 2, 3, 3),
    ),
    "stacked behind the channels": (
        (2, 3, 3, 4),
        lambda w, x: columns(x, 4).reshape(2, 5, 5, 18) @ w.reshape(18, 4),
        (4, 18),
    ),
    "depthwise": (
        (3, 3, 2),
        lambda w, x: (columns(x, 3) * w.reshape(9, 2)).sum(3),
        (2, 1, 3, 3),
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_a_convolution(name):
    shape, net, canonical = COLUMNS[name]

    def apply(p, x):
        return net(p["w"], x @ p["first"])

    graph = trace_graph(apply, {"w": s(*shape), "first": s(2, 2)}, s(2, 5, 5, 2))
    kernels = drawn(graph)
    (kernel,) = (k for k, b in zip(kernels, graph.bindings, strict=True) if b.path == ("w",))
    assert kernel.shape == canonical
    leaf = put(graph, kernels)[("w",)]
    x = RNG.normal(size=(2, 5, 5, 2)).astype(np.float32)
    if kernel.ndim == 2:
        kernel = kernel.reshape(4, 2, 3, 3)
    expected = conv(x, kernel, ("NHWC", "OIHW", "NHWC"), feature_group_count=2 // kernel.shape[1])
    np.testing.assert_allclose(net(leaf, x), expected, atol=1e-4)


# --- parts of a leaf that are told by a constant index ------------------------------------------

STACKS = {
    "an index": lambda w: [w[i] for i in range(3)],
    "an array": lambda w: [w[jnp.array(i)] for i in range(3)],
    "gather": lambda w: [jnp.take(w, i, 0) for i in range(3)],
    "dynamic slice": lambda w: [lax.dynamic_index_in_dim(w, i, 0, False) for i in range(3)],
    "beyond the end": lambda w: [w[0], w[1], lax.dynamic_index_in_dim(w, 7, 0, False)],
    "from the end": lambda w: [w[-3], w[-2], w[-1]],
    "reversed": lambda w: list(jnp.flip(w, 0)[::-1]),
    "split": lambda w: [part[0] for part in jnp.split(w, 3)],
    "unstacked": lambda w: list(w),
    "rows": lambda w: [w.reshape(12, 4)[4 * i : 4 * i + 4] for i in range(3)],
    "dynamic rows": lambda w: [
        lax.dynamic_slice_in_dim(w.reshape(12, 4), 4 * i, 4) for i in range(3)
    ],
}


@pytest.mark.parametrize("name", STACKS)
def test_parts_of_a_stack(name):
    def net(p, x):
        for part in STACKS[name](p["w"]):
            x = jnp.tanh(x @ part)
        return x

    graph = trace_graph(net, {"w": s(3, 4, 4)}, s(2, 4))
    kernels = drawn(graph)
    assert [k.shape for k in kernels] == [(4, 4)] * 3
    leaves = put(graph, kernels)
    y = x = RNG.normal(size=(2, 4)).astype(np.float32)
    order = sorted(range(3), key=lambda i: graph.bindings[i].node)
    for i in order:
        y = np.tanh(y @ kernels[i].T)
    np.testing.assert_allclose(net({"w": jnp.asarray(leaves[("w",)])}, x), y, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("unroll", [1, 3])
def test_layers_of_a_scan_are_in_the_order_of_their_turns(reverse, unroll):
    def net(p, x):
        return lax.scan(
            lambda h, w: (jnp.tanh(h @ w), None), x, p["w"], reverse=reverse, unroll=unroll
        )[0]

    graph = trace_graph(net, {"w": s(3, 4, 4)}, s(2, 4))
    kernels = drawn(graph)
    leaves = put(graph, kernels)
    y = x = RNG.normal(size=(2, 4)).astype(np.float32)
    for i in sorted(range(3), key=lambda i: graph.bindings[i].node):
        y = np.tanh(y @ kernels[i].T)
    np.testing.assert_allclose(net({"w": jnp.asarray(leaves[("w",)])}, x), y, atol=1e-5)


# --- kinds of convolutions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "dilation", "kind"),
    [
        (1, (1, 1), "conv"),
        (1, (2, 2), "conv"),
        (8, (1, 1), "sep_conv"),
        (8, (2, 2), "dil_conv"),
        (8, (1, 2), "sep_conv"),
        (8, (2, 1), "sep_conv"),
        (8, (2, 3), "dil_conv"),
        (4, (2, 2), "dil_conv"),
    ],
)
def test_a_grouped_convolution_is_dilated_if_it_is_along_every_axis(groups, dilation, kind):
    def net(p, x):
        return conv(x, p["w"], feature_group_count=groups, rhs_dilation=dilation)

    graph = trace_graph(net, {"w": s(3, 3, 8 // groups, 8)}, s(2, 9, 9, 8))
    assert graph.primitive_names == ("input", kind)


def test_a_dilated_convolution_of_one_axis():
    def net(p, x):
        return lax.conv_general_dilated(
            x,
            p["w"],
            (1,),
            "SAME",
            rhs_dilation=(2,),
            feature_group_count=8,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )

    graph = trace_graph(net, {"w": s(3, 1, 8)}, s(2, 9, 8))
    assert graph.primitive_names == ("input", "dil_conv")


TABLES = {
    "indexed": lambda table, ids: table[ids],
    "taken": lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
    "mapped over the words": lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(ids),
    "a slice per word": lambda table, ids: jax.vmap(
        jax.vmap(lambda i: lax.dynamic_index_in_dim(table, i, keepdims=False))
    )(ids),
    "one-hot rows": lambda table, ids: jax.nn.one_hot(ids, 7) @ table,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_one_row_per_word(name):
    def net(p, ids):
        return TABLES[name](p["table"], ids)

    graph = trace_graph(net, {"table": s(7, 4)}, s(2, 3, dtype=jnp.int32))
    (kernel,) = drawn(graph)
    assert kernel.shape == (4, 7)
    leaves = put(graph, [kernel])
    ids = RNG.integers(0, 7, (2, 3))
    one_hot = jax.nn.one_hot(ids, 7)
    expected = one_hot @ kernel.T
    np.testing.assert_allclose(leaves[("table",)][ids], expected, atol=1e-6)
