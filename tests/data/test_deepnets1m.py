"""DeepNets-1M as a set of TFDS."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

import ppuda_jax as pj
from ppuda_jax.archs.hdf5 import SplitWriter
from ppuda_jax.archs.sampling import arch_at, split_archs
from ppuda_jax.data.deepnets1m import DeepNetsConfig, net_args
from ppuda_jax.graphs.records import encode_arch
from tests.reference import REFERENCE, needs_reference


def source(folder, config, split):
    kwargs = {"config": config}
    return tfds.data_source("deepnets1m", split=split, data_dir=folder, builder_kwargs=kwargs)


def test_sampled_networks_are_those_of_the_split(tmp_path):
    config = DeepNetsConfig(name="small", splits=("val", "bnfree"), num_nets=3)
    nets = source(tmp_path, config, "val")
    assert len(nets) == 3
    for (index, expected), found in zip(split_archs("val", 3), nets, strict=True):
        assert found["index"] == index and net_args(found) == expected.to_dict()
        graph = pj.network_graph(net_args(found), num_classes=10, image_size=32)
        assert found["num_nodes"] == int(graph.n_node[0])
        stored = encode_arch("val", index)
        np.testing.assert_array_equal(found["adjacency"], stored.adjacency)
        np.testing.assert_array_equal(found["nodes"], stored.nodes)
    assert len(source(tmp_path, config, "bnfree")) == 3
    assert pj.build_network(net_args(nets[0]), num_classes=10, image_size=32) is not None


def test_a_file_is_read(tmp_path):
    path = str(tmp_path / "nets.hdf5")
    with SplitWriter(path) as writer:
        nets = (encode_arch("test", index) for index in (4, 7))
        writer.write_split("test", ((n.record, n.adjacency, n.nodes) for n in nets))
    config = DeepNetsConfig(name="file", splits=("test",), path=path)
    found = source(tmp_path, config, "test")
    assert [net_args(net) for net in found] == [arch_at("test", i).to_dict() for i in (4, 7)]


def test_the_default_configuration_is_registered(tmp_path):
    builder = tfds.builder("deepnets1m", data_dir=tmp_path)
    assert builder.builder_config.name == "eval"
    assert builder.builder_config.splits == ("val", "test", "wide", "deep", "dense", "bnfree")


def test_a_split_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="tset"):
        source(tmp_path, DeepNetsConfig(name="wrong", splits=("tset",)), "tset")


@needs_reference
def test_the_published_format_is_read(tmp_path):
    path = str(REFERENCE / "deepnets1m" / "deepnets1m_deep.hdf5")
    config = DeepNetsConfig(name="published", splits=("deep",), num_nets=2, path=path)
    found = source(tmp_path, config, "deep")
    assert len(found) == 2 and found[1]["adjacency"].shape == (found[1]["num_nodes"],) * 2
