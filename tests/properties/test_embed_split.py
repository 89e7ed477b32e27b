"""Embeddings of many networks are kept in chunks, continued, and never mixed."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at, fingerprint
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.properties import embed_split
from ppuda_jax.properties.embed import embed
from ppuda_jax.properties.embed_split import Networks, embed_networks, num_kept

NETWORKS = Networks("train")


@pytest.fixture(scope="module")
def kept(ghn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    return embed_networks(ghn, NETWORKS, 7, start=2, folder=folder, chunk=4), folder


def test_is_what_embed_says_of_each_network(kept, ghn):
    found, folder = kept
    assert found.index.tolist() == [2, 3, 4, 5, 6, 7, 8]
    configs = [arch_at("train", index) for index in found.index]
    plans = [make_plan(config) for config in configs]
    graphs = [graph_from_plan(plan) for plan in plans]
    np.testing.assert_allclose(found.embeddings, embed(ghn, graphs), atol=1e-6)
    assert found.fingerprints.tolist() == [fingerprint(config) for config in configs]
    assert found.num_params.tolist() == [plan.num_params for plan in plans]
    assert found.num_nodes.tolist() == [graph.num_nodes for graph in graphs]
    assert (num_kept(folder, 9), num_kept(folder, 8)) == (7, 6)
    names = sorted(path.name for path in folder.glob("*.npz"))
    assert [n.partition(".")[0] for n in names] == [
        "000000002-000000004",
        "000000004-000000008",
        "000000008-000000009",
    ]


def _same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_continues_with_the_chunks_that_are_missing_or_damaged(kept, ghn, monkeypatch, caplog):
    found, folder = kept
    calls = []
    monkeypatch.setattr(
        embed_split, "embed", lambda ghn, graphs: calls.append(len(graphs)) or embed(ghn, graphs)
    )
    again = embed_networks(ghn, NETWORKS, 7, start=2, folder=folder, chunk=4)
    _same(again, found)
    assert calls == []
    first, second, third = sorted(folder.glob("*.npz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-200])  # half written
    damaged = bytearray(third.read_bytes())
    damaged[200] ^= 255
    third.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        again = embed_networks(ghn, NETWORKS, 7, start=2, folder=folder, chunk=4)
    assert calls == [2, 4, 1]
    np.testing.assert_allclose(again.embeddings, found.embeddings, atol=1e-6)
    assert [second.name in caplog.text, third.name in caplog.text] == [True, True]


def test_refuses_chunks_of_another_hypernetwork_or_split(kept, ghn, tmp_path):
    _, folder = kept
    other = dataclasses.replace(ghn, theta=jax.tree.map(lambda x: x + 1, ghn.theta))
    with pytest.raises(ValueError, match="another hypernetwork or of other networks .theta_crc32"):
        embed_networks(other, NETWORKS, 2, folder=folder, chunk=4)
    with pytest.raises(ValueError, match="networks: there .*'train'.* now .*'test'"):
        embed_networks(ghn, Networks("test"), 2, folder=folder, chunk=4)
    embed_networks(other, NETWORKS, 2, start=2, folder=tmp_path, chunk=4)
    (strange,) = tmp_path.glob("*.npz")
    target = folder / strange.name
    before = target.read_bytes()
    target.write_bytes(strange.read_bytes())
    with pytest.raises(ValueError, match="is of another hypernetwork or of other networks: remove"):
        embed_networks(ghn, NETWORKS, 2, start=2, folder=folder, chunk=4)
    target.write_bytes(before)


def test_workers_make_the_same_graphs(ghn):
    alone = embed_networks(ghn, NETWORKS, 3, workers=0)
    _same(embed_networks(ghn, NETWORKS, 3, workers=1), alone)


def test_refuses(ghn):
    with pytest.raises(ValueError, match="num and chunk must be at least 1"):
        embed_networks(ghn, NETWORKS, 0)
    with pytest.raises(ValueError, match="received 'valid'"):
        Networks("valid")
