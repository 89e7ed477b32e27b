"""Predictions against the reference: stored small hypernetworks, and the peer folder if present.

The peer networks are embedded and decoded here by the hypernetwork's methods and tiled in NumPy,
so that all of them take a single compilation; `tests/prediction/test_predict.py` takes some of
them through `predict_params`.
"""

import functools
import json

import jax
import numpy as np
import pytest

from ppuda_jax.convert.files import load_torch_ghn
from ppuda_jax.convert.state_dicts import config_from_torch, theta_from_state_dict
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.model import GHN
from ppuda_jax.ghn.normalization import bound_bias, bound_norm_scale, kernel_scale
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.batching import Bucket, pad_graphs
from ppuda_jax.prediction.blocks import tile_index
from tests.close import assert_close
from tests.ghn.networks import golden_network, golden_table, node_shape_rows, peer_network
from tests.reference import REFERENCE, needs_reference, peer_nets

NODES, ROWS, BUCKET = 288, 1408, Bucket(288, 256, 4)
CASES = [tuple(case) for case in golden_table()[0]["cases"]]


@functools.cache
def _golden_ghn(name: str):
    table, arrays = golden_table()
    config = config_from_torch(table["configs"][name])
    prefix = name + "/"
    tensors = {
        key.removeprefix(prefix): arrays[key].astype(np.float32)
        for key in arrays
        if key.startswith(prefix) and not key.startswith(prefix + "net")
    }
    return config, theta_from_state_dict(config, tensors)


@functools.lru_cache(maxsize=1)
def _compiled(config: GHNConfig):
    """Embedding, rows, vectors and classifier of one network, in padded sizes."""
    apply = GHN(config).apply
    size = config.max_shape[2]

    @jax.jit
    def embed(theta, graphs):
        return apply({"params": theta}, graphs)[0]

    @jax.jit
    def decode(theta, h, rows):
        node, y, x = rows
        variables, kernel_size = {"params": theta}, (size, size)
        decode_taps = functools.partial(apply, variables, method=GHN.decode_taps)
        blocks = decode_taps(h, y, x, node=node, kernel_size=kernel_size)
        return blocks, apply(variables, h, method=GHN.decode_vectors)

    @jax.jit
    def classify(theta, weight, bias):
        kernel = apply({"params": theta}, weight, method=GHN.decode_class_kernel)
        return kernel[0], apply({"params": theta}, bias, method=GHN.decode_class_bias)[0]

    return embed, decode, classify


def _tensor(config: GHNConfig, binding: Binding, block: np.ndarray) -> np.ndarray:
    """Tiles and normalises a canonical block in NumPy."""
    index = [tile_index(n, min(n, b)) for n, b in zip(binding.shape, block.shape, strict=True)]
    tensor = block[np.ix_(*index)]
    if not config.weight_norm:
        return tensor
    if len(binding.shape) > 1:
        return tensor * np.float32(kernel_scale(binding.shape, binding.role))
    return np.asarray((bound_norm_scale if binding.role == "norm_scale" else bound_bias)(tensor))


def _predict(config, theta, graph: ArchGraph) -> dict[str, np.ndarray]:
    """All tensors of a network in the reference's layout, by name, and the embeddings."""
    embed, decode, classify = _compiled(config)
    h = np.asarray(embed(theta, pad_graphs([graph], BUCKET)))
    spots, rows = {}, []
    for b in graph.bindings:
        if len(b.shape) > 1 and not b.is_classifier:
            height, width = [min(n, config.max_shape[2]) for n in (*b.shape, 1, 1)[2:4]]
            spots[b.path] = slice(len(rows), len(rows) + height * width), height, width
            rows += [(b.node, y, x) for y, x in np.ndindex(height, width)]
    padded = np.zeros((3, ROWS), np.int32)
    padded[:, : len(rows)] = np.array(rows).T
    blocks, vectors = map(np.asarray, decode(theta, h, padded))
    last = graph.num_nodes - 1
    kernel, bias = map(np.asarray, classify(theta, h[last - 1 : last], h[last : last + 1]))
    tensors = {"h": h[: graph.num_nodes]}
    for b in graph.bindings:
        if b.is_classifier:
            block = kernel.reshape(*kernel.shape, *b.shape[2:])
            block = bias if len(b.shape) == 1 else block
        elif len(b.shape) == 1:
            block = vectors[b.node, 0 if b.role == "norm_scale" else 1]
        else:
            where, height, width = spots[b.path]
            block = np.moveaxis(blocks[where], 0, -1)
            block = block.reshape(*block.shape[:2], height, width)
            block = block.reshape(block.shape[: len(b.shape)])
        tensors[".".join(b.path)] = _tensor(config, b, block)
    return tensors


@pytest.mark.parametrize("name, number", CASES)
def test_stored_outputs_of_the_reference(name, number):
    table, arrays = golden_table()
    config, theta = _golden_ghn(name)
    tensors = _predict(config, theta, golden_network(table, arrays, number))
    expected = arrays[f"{name}/net{number}/h"]
    assert_close(tensors["h"], expected, 1e-5)
    rows = table["nets"][str(number)]["params"]
    for (tensor_name, *_), summary in zip(rows, arrays[f"{name}/net{number}/params"], strict=True):
        flat = tensors[tensor_name].reshape(-1)
        picks = np.linspace(0, flat.size - 1, len(summary) - 1).astype(int)
        error = np.abs(flat[picks] - summary[1:]).max() / np.abs(summary[1:]).max()
        assert error < 1e-5, (tensor_name, error)
        assert abs(np.linalg.norm(flat) / summary[0] - 1) < 1e-5, tensor_name


@functools.cache
def _peer_ghn(name: str):
    pytest.importorskip("torch", reason="reading the reference's .pt files takes PyTorch")
    ghn = load_torch_ghn(REFERENCE / "peer" / f"{name}_cifar10_random.pt")
    return ghn.config, ghn.theta


@needs_reference
@pytest.mark.parametrize("number", range(len(peer_nets())))
def test_ghn2_predicts_every_tensor_of_the_peer_networks(number):
    graph, _, arrays = peer_network(number)
    tensors = _predict(*_peer_ghn("ghn2"), graph)
    names = {key.removeprefix("param/") for key in arrays if key.startswith("param/")}
    assert names == set(tensors) - {"h"}
    for name in names:
        expected = arrays["param/" + name]
        error = np.abs(tensors[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-5, (name, error)


@needs_reference
@pytest.mark.parametrize("number", range(len(peer_nets())))
def test_ghn1_predicts_tensors_of_the_same_norm(number):
    graph, record, _ = peer_network(number)
    tensors = _predict(*_peer_ghn("ghn1"), graph)
    for name, norm in record["ghn1_param_norms"].items():
        assert abs(np.linalg.norm(tensors[name]) / norm - 1) < 1e-5, name


@needs_reference
def test_ghn2_predicts_resnet50():
    record = json.loads((REFERENCE / "peer" / "resnet50.json").read_text())
    config, theta = _peer_ghn("ghn2")
    edges = np.array(record["edges"])
    edges = edges[edges[:, 2] == 1][:, :2]
    graph = ArchGraph(np.array(record["primitive"]), edges, node_shape_rows(record["node_shapes"]))
    h = _compiled(config)[0](theta, pad_graphs([graph], BUCKET))
    vectors = GHN(config).apply({"params": theta}, h, method=GHN.decode_vectors)
    first = record["predicted"]["bn1.weight"]
    got = np.asarray(bound_norm_scale(vectors[2, 0]))
    assert_close(got[:8], np.array(first["first"]), 1e-5)
    assert np.linalg.norm(got) == pytest.approx(first["norm"], rel=1e-5)
