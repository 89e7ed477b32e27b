"""predict_params: every layout of a leaf, policies, checks, and parity with the reference."""

import concurrent.futures
import dataclasses
import functools
import gc
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import GHN, init_theta
from ppuda_jax.ghn.normalization import bound_bias, bound_norm_scale, kernel_scale
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.batching import pad_graphs
from ppuda_jax.graphs.describe import describe
from ppuda_jax.prediction import predict
from ppuda_jax.prediction.blocks import tile_index
from ppuda_jax.prediction.predict import predict_params, unsupported_leaves
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.programs import PROGRAMS
from ppuda_jax.tracing.api import trace
from ppuda_jax.tracing.params import Unbound
from tests.ghn.networks import canonical, peer_network
from tests.reference import REFERENCE, needs_reference

CONFIG = GHNConfig(
    num_classes=3, max_shape=(6, 6, 5, 5), hid=8, weight_norm=True, virtual_edges=50, layernorm=True
)


def _binding(path, node, role, shape, split=None, perm=None, part=None, **options):
    split = tuple(split or shape)
    perm = tuple(perm or range(len(split)))
    part = tuple(part or [split[axis] for axis in perm])
    leaf = options.pop("leaf", part)
    return Binding(tuple(path.split("/")), node, role, shape, split, perm, part, leaf, **options)


KINDS = [
    "input",
    "conv",
    "bn",
    "sep_conv",
    "pos_enc",
    "conv",
    "conv",
    "conv",
    "bias",
    "conv",
    "bias",
]
BINDINGS = (
    _binding("stem/kernel", 1, "kernel", (8, 3, 7, 7), perm=(2, 3, 1, 0)),  # tiled in O and space
    _binding("norm/scale", 2, "norm_scale", (8,)),
    _binding("norm/bias", 2, "norm_bias", (8,)),
    _binding("depthwise", 3, "kernel", (4, 1, 3, 3), perm=(2, 3, 1, 0)),
    _binding("torch_layout", 3, "kernel", (4, 1, 1, 3)),
    _binding("position", 4, "pos_enc", (1, 8, 5, 5), perm=(0, 2, 3, 1)),
    # query, key and value in one leaf: out channels are (3, heads 2, width 4), in front the inputs
    _binding("fused", 5, "kernel", (24, 8), split=(3, 2, 4, 8), perm=(3, 0, 1, 2)),
    # digits of the out axis on both sides of the in axis
    _binding("apart", 5, "kernel", (6, 4), split=(2, 3, 4), perm=(0, 2, 1)),
    _binding("stack", 6, "kernel", (5, 7), perm=(1, 0), leaf=(2, 7, 5), index=(0,)),
    _binding("stack", 7, "kernel", (5, 7), perm=(1, 0), leaf=(2, 7, 5), index=(1,)),
    _binding("half", 6, "bias", (4,), leaf=(8,), view_shape=(8,), index=((0, 4, 1),)),
    _binding("half", 8, "bias", (4,), leaf=(8,), view_shape=(8,), index=((4, 8, 1),)),
    _binding("head/kernel", 9, "kernel", (3, 8), perm=(1, 0), is_classifier=True),
    _binding("head/bias", 10, "bias", (3,), is_classifier=True),
)


def _graph(bindings=BINDINGS, **options):
    nodes = len(KINDS)
    edges = [(v - 1, v) for v in range(1, nodes)]
    shapes = np.ones((nodes, 4), np.int32)
    kinds = np.array([PRIMITIVE_IDS[kind] for kind in KINDS])
    return ArchGraph(kinds, np.array(edges), shapes, bindings=bindings, num_classes=3, **options)


@pytest.fixture(name="ghn", scope="module", params=["conv", "mlp"])
def _ghn(request):
    config = dataclasses.replace(CONFIG, decoder=request.param)
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tiny")


@functools.partial(jax.jit, static_argnums=0)
def _rows(config, variables, h, taps):
    node, y, x = taps.T
    return GHN(config).apply(variables, h, y, x, node=node, method=GHN.decode_taps)


def _expected(ghn, graph):
    """Canonical tensors from the hypernetwork's methods, tiled in NumPy, laid out as documented."""
    variables = {"params": ghn.theta}

    def apply(*args, method):
        return jax.jit(functools.partial(GHN(ghn.config).apply, method=method))(variables, *args)

    h = apply(pad_graphs([graph]), method=GHN.__call__)[0, : graph.num_nodes]
    vectors = np.asarray(apply(h, method=GHN.decode_vectors))
    y, x = np.indices((5, 5), np.int32).reshape(2, -1)
    taps = np.array([(v, *tap) for v in range(len(h)) for tap in zip(y, x, strict=True)], np.int32)
    blocks = _rows(ghn.config, variables, h, taps).reshape(len(h), 5, 5, 6, 6)
    class_kernels = apply(h, method=GHN.decode_class_kernel)
    class_biases = apply(h, method=GHN.decode_class_bias)
    leaves = {}
    for b in graph.bindings:
        if len(b.shape) == 1:
            block = vectors[b.node, 0 if b.role == "norm_scale" else 1]
            block = class_biases[b.node] if b.is_classifier else block
        elif b.is_classifier:
            block = class_kernels[b.node]
        else:
            block = np.moveaxis(blocks[b.node], (0, 1), (2, 3))
            block = block[..., 0, 0] if len(b.shape) == 2 else block
        index = np.ix_(*map(tile_index, b.shape, map(min, b.shape, block.shape)))
        tensor = np.asarray(block)[index]
        if len(b.shape) == 1:
            tensor = (bound_norm_scale if b.role == "norm_scale" else bound_bias)(tensor)
        else:
            tensor = tensor * kernel_scale(b.shape, b.role)
        part = np.asarray(tensor).reshape(b.split).transpose(b.perm).reshape(b.part_shape)
        if b.index is None:
            leaves["/".join(b.path)] = part
        else:
            leaf = leaves.setdefault("/".join(b.path), np.zeros(b.leaf_shape, np.float32))
            leaf[tuple(i if isinstance(i, int) else slice(*i) for i in b.index)] = part
    return leaves


def test_every_layout_of_a_leaf(ghn):
    graph = _graph()
    params = predict_params(None, graph, ghn)
    expected = _expected(ghn, graph)
    paths = jax.tree_util.tree_leaves_with_path(params)
    got = {"/".join(key.key for key in path): leaf for path, leaf in paths}
    assert set(got) == set(expected)
    for name, leaf in got.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.fixture(name="small", scope="module")
def _small():
    return LoadedGHN(CONFIG, init_theta(CONFIG, jax.random.key(0)), "tiny", {"image_size": 32})


SMALL = LoadedGHN(CONFIG, {}, "tiny")
TWO = (BINDINGS[1], BINDINGS[2])


def test_a_second_call_and_other_parameters_do_not_compile_again(small):
    graph, before = _graph(TWO), PROGRAMS.loads
    first = predict_params(None, graph, small)
    other = dataclasses.replace(small, theta=init_theta(CONFIG, jax.random.key(1)))
    second = predict_params(None, graph.to_graphs_tuple(), other)
    assert np.abs(first["norm"]["scale"] - second["norm"]["scale"]).max() > 0
    assert PROGRAMS.loads == before + 1


def test_what_cannot_be_predicted_is_an_error_that_lists_it(small):
    table = Unbound(("table",), (4, 4), "it is a table of relative positions")
    head = dataclasses.replace(
        BINDINGS[-1], shape=(7,), split=(7,), part_shape=(7,), leaf_shape=(7,)
    )
    graph = _graph((*TWO, head), unbound=(table,))
    assert [leaf.path for leaf in unsupported_leaves(graph, small)] == [
        ("table",),
        ("head", "bias"),
    ]
    message = r"(?s)2 parameter leaves.*table \(4, 4\): it is a table.*classifier of 7 classes"
    with pytest.raises(ValueError, match=message):
        predict_params(None, graph, small)
    with pytest.raises(ValueError, match="received unsupported='skip': leave one of them out"):
        predict_params(None, graph, small, unsupported="skip", initial={})
    with pytest.raises(ValueError, match="pass them as initial="):
        predict_params(None, graph, small, unsupported="init")
    with pytest.raises(ValueError, match="missing .'head/bias'"):
        predict_params(None, graph, small, unsupported="init", initial={"table": np.ones((4, 4))})
    with pytest.raises(ValueError, match="must be one of"):
        predict_params(None, graph, small, unsupported="zeros")
    skipped = predict_params(None, graph, small, unsupported="skip")
    assert set(skipped) == {"norm"}
    initial = {"table": np.full((4, 4), 2.0), "head": {"bias": np.full(7, 3.0)}}
    kept = predict_params(None, graph, small, unsupported="init", initial=initial)
    assert kept["table"].max() == 2.0 and kept["head"]["bias"].max() == 3.0


def _network(variables, images):
    params = variables["params"]
    x = jax.lax.conv_general_dilated(
        images, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x).mean((1, 2))
    kernel = params["head"]["kernel"].astype(x.dtype)
    return x @ kernel + params["head"]["bias"][None]


SHAPES = {
    "conv": jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32),
    "head": {
        "kernel": jax.ShapeDtypeStruct((8, 3), jnp.bfloat16),
        "bias": jax.ShapeDtypeStruct((3,), jnp.float32),
    },
}


def _images(size):
    return jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)


def test_a_traced_function_gets_a_pytree_of_its_own_structure_and_types(small):
    graph = trace(_network, {"params": SHAPES}, _images(32))
    params = predict_params(_network, graph, small)
    same = jax.tree.map(lambda p, s: p.shape == s.shape and p.dtype == s.dtype, params, SHAPES)
    assert jax.tree.all(same)
    assert _network({"params": params}, np.ones((2, 32, 32, 3), np.float32)).shape == (2, 3)


def test_a_graph_of_another_function_or_image_size_is_refused(small):
    graph = trace(_network, {"params": SHAPES}, _images(32))
    with pytest.raises(ValueError, match="another apply_fn"):
        predict_params(lambda v, x: _network(v, x) @ jnp.ones((3, 3)) + x.sum(), graph, small)
    large = trace(_network, {"params": SHAPES}, _images(64))
    with pytest.raises(ValueError, match="trained on images of 32x32"):
        predict_params(_network, large, small)


def test_the_shipped_hypernetwork_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(predict, "load_ghn", lambda path: (read.append(path), SMALL)[1])
    predict._shipped.cache_clear()
    try:
        for name in (None, predict.DEFAULT_GHN, None):
            assert predict._as_ghn(name).name == predict.DEFAULT_GHN
        assert len(read) == 1
        for _ in range(2):  # what is in a folder may change
            predict._as_ghn("some/folder")
        assert len(read) == 3
    finally:
        predict._shipped.cache_clear()


def test_arrays_of_numpy_in_double_precision_are_what_jax_makes_of_them(small):
    shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), SHAPES)
    graph = trace(_network, {"params": shapes}, _images(32))
    params = predict_params(_network, graph, small)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.zeros(()).dtype}


@pytest.mark.parametrize("graph", [3, None, {"nodes": 1}, (1, 2)])
@pytest.mark.parametrize(
    "function", [lambda graph: predict_params(None, graph), describe, ArchGraph.from_graphs_tuple]
)
def test_what_is_no_graph_is_refused(function, graph):
    with pytest.raises(ValueError, match="a graph must be from trace"):
        function(graph)


@pytest.mark.parametrize("ghn", [{"theta": 1}, 3, (CONFIG, {})])
def test_what_is_no_hypernetwork_is_refused(ghn):
    with pytest.raises(ValueError, match="ghn must be a LoadedGHN, a name or a path"):
        predict_params(None, _graph(), ghn)


def test_a_graphs_tuple_is_read_once_and_holds_what_was_read():
    graphs = _graph().to_graphs_tuple()
    first = ArchGraph.from_graphs_tuple(graphs)
    assert ArchGraph.from_graphs_tuple(graphs) is first
    assert ArchGraph.from_graphs_tuple(graphs._replace(globals=dict(graphs.globals))) is first
    other = graphs._replace(nodes={**graphs.nodes, "shape": graphs.nodes["shape"] + 1})
    assert ArchGraph.from_graphs_tuple(other).shapes[0, 0] == 2
    assert ArchGraph.from_graphs_tuple(graphs).shapes[0, 0] == 1
    gone = weakref.ref(first)
    del graphs, other, first
    gc.collect()
    assert gone() is None


def test_threads_read_graphs_at_the_same_time():
    graphs = [_graph(TWO).to_graphs_tuple() for _ in range(100)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(ArchGraph.from_graphs_tuple, graphs * 4))
    assert all(tuple(arch.bindings) == TWO for arch in read)


@needs_reference
def test_parity_with_the_reference():
    pytest.importorskip("torch", reason="reading the reference's .pt files takes PyTorch")
    graph, _, arrays = peer_network(6)
    path = REFERENCE / "peer" / "ghn2_cifar10_random.pt"
    params = predict_params(None, graph, str(path))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(leaves) == len([name for name in arrays if name.startswith("param/")])
    for keys, leaf in leaves:
        expected = arrays["param/" + ".".join(key.key for key in keys)]
        error = np.abs(canonical(leaf) - expected).max() / np.abs(expected).max()
        assert error < 1e-5, (keys, error)
    index = json.loads((REFERENCE / "peer" / "index.json").read_text())
    assert sum(leaf.size for _, leaf in leaves) == index["nets"][6]["n_params"]
