"""Graphs of files: stored and rebuilt ones agree, disorder is noticed."""

import h5py
import numpy as np
import pytest

from ppuda_jax.archs.hdf5 import SplitWriter, load_split
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.records import encode_arch, graph_from_record, network_graph
from tests.reference import REFERENCE, needs_reference


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("nets") / "nets.hdf5")
    with SplitWriter(path) as writer:
        nets = (encode_arch("val", index) for index in range(6))
        writer.write_split("val", ((n.record, n.adjacency, n.nodes) for n in nets))
    return load_split(path, "val")


@pytest.mark.parametrize("image_size", [32, 224])
def test_stored_graphs_equal_rebuilt_ones(records, image_size):
    records = load_split(records.path, "val", image_size)
    for index in range(len(records)):
        built = graph_from_record(records, index, num_classes=7)
        stored = graph_from_record(records, index, num_classes=7, stored=True)
        for field in ("primitive", "shapes"):
            np.testing.assert_array_equal(getattr(stored, field), getattr(built, field))
        np.testing.assert_array_equal(stored.distances(), built.distances())
        assert stored.bindings == built.bindings and stored.num_classes == 7
        assert built.num_nodes == records[index].num_nodes


def test_stored_distances_go_to_250(records):
    for index in range(len(records)):
        stored = records.stored_graph(index).adjacency
        graph = graph_from_plan(make_plan(arch_at("val", index)))
        np.testing.assert_array_equal(stored, graph.distances(250))


@needs_reference
def test_disorder_in_files_of_the_reference_is_noticed():
    # Regenerated under recent networkx: rows of `nodes` are grouped by cell, those of `adj` not.
    path = str(REFERENCE / "deepnets1m" / "deepnets1m_val.hdf5")
    records = load_split(path, "val")
    with pytest.raises(ValueError, match="another order than the adjacency matrix"):
        graph_from_record(records, 0, stored=True)
    for index in range(len(records)):
        built = graph_from_record(records, index)
        adjacency = records.stored_graph(index).adjacency
        assert built.num_edges == (adjacency == 1).sum()
        assert (built.distances(250) > 0).sum() == (adjacency > 0).sum()
        np.testing.assert_array_equal(
            np.sort(adjacency.sum(axis=1, dtype=int)),
            np.sort(built.distances(250).sum(axis=1, dtype=int)),
        )


def test_graphs_of_other_networks_are_noticed(records):
    with h5py.File(records.path, "r") as file:
        sizes = {index: len(file[f"val/{index}/nodes"]) for index in range(2)}
    assert sizes[0] != sizes[1]
    other = load_split(records.path, "val")
    other.stored_graph = lambda index: records.stored_graph(1)
    with pytest.raises(ValueError, match="must be those of the network in its record"):
        graph_from_record(other, 0, stored=True)


def test_network_graph_carries_the_graph_of_the_plan():
    config = arch_at("val", 0)
    graph = ArchGraph.from_graphs_tuple(network_graph(config.to_dict()))
    built = graph_from_plan(make_plan(config))
    np.testing.assert_array_equal(graph.primitive, built.primitive)
    assert set(map(tuple, graph.edges)) == set(map(tuple, built.edges))
    assert tuple(graph.bindings) == tuple(built.bindings)
