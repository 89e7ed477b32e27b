"""Files of DeepNets-1M: round trips, laziness, and what is refused."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from ppuda_jax.archs.hdf5 import SplitWriter, load_split, meta_path_of
from ppuda_jax.archs.sampling import arch_at, fingerprint
from ppuda_jax.archs.widths import evaluation_width
from ppuda_jax.graphs.records import encode_arch
from tests.reference import DEEPNETS_SPLITS, REFERENCE, deepnets_records, needs_reference

SPLITS = ("train", "wide", "test")
NETS = 3


def write(path, splits=SPLITS, **kwargs):
    with SplitWriter(path, **kwargs) as writer:
        for split in splits:
            nets = (encode_arch(split, index) for index in range(NETS))
            writer.write_split(split, ((n.record, n.adjacency, n.nodes) for n in nets))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(str(tmp_path_factory.mktemp("nets") / "nets.hdf5"))


@pytest.mark.parametrize("split", SPLITS)
def test_round_trip(path, split):
    records = load_split(path, split)
    assert len(records) == NETS and len(records[1:]) == NETS - 1
    for index, record in enumerate(records):
        expected = arch_at(split, index)
        assert fingerprint(record.config) == fingerprint(expected)
        assert record.stored_args == json.loads(json.dumps(encode_arch(split, index).record))
        if split != "train":
            assert record.config == expected
            assert type(record.config).from_dict(record.net_args) == expected
        assert records.stored_graph(index).adjacency.shape == (record.num_nodes,) * 2


def test_training_records_have_no_width_but_get_one(path):
    records = load_split(path, "train")
    assert "C" not in records[0].stored_args
    assert records[0].config == load_split(path, "train")[0].config


def test_wide_records_depend_on_the_image_size(path):
    small, large = load_split(path, "wide"), load_split(path, "wide", image_size=224)
    assert small[0].stored_args["C"] == evaluation_width(small[0].config)
    assert small[0].config.C == 2 * large[0].config.C == 4 * small[0].stored_args["C"]


def test_records_can_be_pickled_and_end(path):
    records = pickle.loads(pickle.dumps(load_split(path, "test")))
    assert records[-1] == records[NETS - 1]
    with pytest.raises(IndexError):
        records[NETS]


@needs_reference
@pytest.mark.parametrize("split", DEEPNETS_SPLITS)
def test_reading_files_of_the_reference(split):
    records = load_split(str(REFERENCE / "deepnets1m" / f"deepnets1m_{split}.hdf5"), split)
    expected = deepnets_records(split)
    assert len(records) == len(expected)
    for index in (0, len(expected) - 1):
        record, stored = records[index], records.stored_graph(index)
        assert record.stored_args == expected[index]
        assert len(stored.names) == record.num_nodes == expected[index]["num_nodes"]
        assert stored.kinds[0] == "input" and stored.names[-1].startswith("classifier")
        if split != "train":
            factor = 4 if split == "wide" else 1
            assert factor * evaluation_width(record.config) == record.config.C


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    path = str(tmp_path / "nets.hdf5")

    def broken():
        net = encode_arch("test", 0)
        yield net.record, net.adjacency, net.nodes
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"), SplitWriter(path) as writer:
        writer.write_split("test", broken())
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept(tmp_path):
    path = write(str(tmp_path / "nets.hdf5"), ("test",))
    with pytest.raises(FileExistsError, match="choose another output"):
        SplitWriter(path)
    write(path, ("val",), overwrite=True)
    with pytest.raises(ValueError, match="must hold the split 'test', received \\['val'\\]"):
        load_split(path, "test")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="lie side by side"):
        load_split(str(tmp_path / "nets.hdf5"), "test")


def test_foreign_and_truncated_files_are_refused(tmp_path, path):
    copy = tmp_path / "nets.hdf5"
    meta = Path(meta_path_of(path)).read_text()
    (tmp_path / "nets_meta.json").write_text(meta)
    data = Path(path).read_bytes()
    copy.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="complete HDF5 file of DeepNets-1M"):
        load_split(str(copy), "test")
    copy.write_bytes(b"not HDF5 at all")
    with pytest.raises(ValueError, match="cannot open"):
        load_split(str(copy), "test")
    with h5py.File(copy, "w") as file:
        file.attrs["title"] = "Another"
    with pytest.raises(ValueError, match="must have the title 'DeepNets-1M'"):
        load_split(str(copy), "test")
    with h5py.File(copy, "w") as file:
        file.attrs["title"] = "DeepNets-1M"
        file.create_dataset("test/0/adj", data=np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="do not belong together"):
        load_split(str(copy), "test")
    with h5py.File(copy, "w") as file:
        file.attrs["title"] = "DeepNets-1M"
        file.create_dataset("test/0/adj", data=np.zeros((2, 2), np.uint8))
        file.create_dataset("test/1/adj", data=np.ones((2, 2), np.uint8))
        file.create_dataset("test/1/nodes", data=np.zeros((2, 3), np.uint16))
        file.create_group("test/2")
    records = load_split(str(copy), "test")
    with pytest.raises(ValueError, match="must hold 'adj' and 'nodes', received \\['adj'\\]"):
        records.stored_graph(0)
    with pytest.raises(ValueError, match="strictly upper triangular"):
        records.stored_graph(1)
