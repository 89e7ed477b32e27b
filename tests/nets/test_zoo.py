"""The model zoo: sizes, graphs, and parity of ResNet-50 with the reference."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.convert.files import load_torch_ghn
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.nets.zoo.norm import BatchNorm
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.tracing.api import trace
from tests.close import assert_close
from tests.reference import REFERENCE, needs_reference
from tests.tracing.test_networks import abstract_params

# name: (image size, classes, parameters, nodes, one-hop edges, all edges)
SIZES = {
    "resnet18": (32, 10, 11_173_962, 52, 59, 1302),
    "resnet34": (224, 1000, 21_797_672, 93, 108, 4254),
    "resnet50": (32, 10, 23_520_842, 126, 141, 7827),
    "wide_resnet50_2": (224, 1000, 68_883_240, 127, 142, 7953),
    "wide_resnet28_10": (32, 10, 36_479_194, 69, 80, 2337),
    "vit": (32, 10, 1_012_234, 129, 148, 8254),
    "vit_b16": (224, 1000, 86_567_656, 166, 189, 13687),
    "darts": (32, 10, 3_349_342, 794, 935, 293_941),
}


def abstract(name, classes, size):
    net = build_model(name, classes, size)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return net, jax.eval_shape(net.init, jax.random.key(0), images), images


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_graph(name):
    size, classes, params, nodes, edges, all_edges = SIZES[name]
    net = build_model(name, classes, size)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    if name == "darts":  # its plan tells the shapes much faster than an initialisation
        variables = abstract_params(net.plan)
    else:
        variables = abstract(name, classes, size)[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == params
    graph = trace(net.apply, variables, images)
    info = graph.globals["arch"]
    assert graph.n_node[0] == nodes and graph.n_edge[0] == all_edges
    assert (graph.edges["distance"] == 1).sum() == edges
    assert not info.unbound and info.num_classes == classes


@pytest.mark.parametrize("name", ["resnet50", "vit"])
def test_logits_at_224_pixels(name):
    net, variables, images = abstract(name, 1000, 224)
    assert jax.eval_shape(net.apply, variables, images).shape == (2, 1000)


def test_darts_at_224_pixels_has_the_published_graph():
    graph = graph_from_plan(build_model("darts", 1000, 224).plan)
    assert (graph.num_nodes, graph.num_edges) == (542, 641)


def test_unknown_model():
    with pytest.raises(ValueError, match=r"model must be one of \['darts'"):
        build_model("resnet51")


def torch_name(path):
    *modules, leaf = path
    names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [names.get(m, m.replace("_", ".")) for m in modules]
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"])


@needs_reference
def test_resnet50_equals_the_reference():
    pytest.importorskip("torch")
    peer = REFERENCE / "peer"
    expected = json.loads((peer / "resnet50.json").read_text())
    ghn = load_torch_ghn(peer / "ghn2_cifar10_random.pt")
    net, variables, _ = abstract("resnet50", 10, 32)
    graph = trace(net.apply, variables, jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32))

    def kinds(primitive, shapes):
        padded = [tuple((*(s or ()), *[1] * 4)[:4]) if s else (0,) * 4 for s in shapes]
        return collections.Counter(zip(map(int, primitive), padded, strict=True))

    shapes = [tuple(row) if any(row) else None for row in graph.nodes["shape"].tolist()]
    assert kinds(graph.nodes["primitive"], shapes) == kinds(
        expected["primitive"], expected["node_shapes"]
    )

    def distances(edges, primitive):
        return collections.Counter((primitive[a], primitive[b], d) for a, b, d in edges)

    found = zip(
        graph.senders.tolist(),
        graph.receivers.tolist(),
        graph.edges["distance"].tolist(),
        strict=True,
    )
    assert distances(found, graph.nodes["primitive"].tolist()) == distances(
        expected["edges"], expected["primitive"]
    )
    params = predict_params(net.apply, graph, ghn=ghn)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(leaves) == len(expected["predicted"])
    for keys, leaf in leaves:
        row = expected["predicted"][torch_name([k.key for k in keys])]
        array = np.asarray(leaf).transpose(3, 2, 0, 1) if leaf.ndim == 4 else np.asarray(leaf).T
        assert list(array.shape) == row["shape"]
        np.testing.assert_allclose(np.linalg.norm(array), row["norm"], rtol=1e-4)
        np.testing.assert_allclose(array.ravel()[:8], row["first"], rtol=1e-4, atol=1e-6)
    images = np.load(peer / "images.npy").transpose(0, 2, 3, 1)
    logits = jax.jit(net.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=1e-3)


def test_running_statistics_are_used_when_they_are_there():
    net = BatchNorm()
    images = 3 * jax.random.normal(jax.random.key(1), (4, 5, 5, 3)) + 1
    variables = net.init(jax.random.key(0), images)
    assert set(variables) == {"params"}
    batch, updated = net.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(batch, net.apply(variables, images), atol=1e-6)
    running = net.apply({**variables, **updated}, images)
    assert np.abs(batch - running).max() > 0.1
    assert_close(updated["batch_stats"]["mean"], 0.1 * images.mean((0, 1, 2)), 1e-5)
    trained = net.apply({**variables, **updated}, images, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(trained, batch, atol=1e-6)
