"""What benchmarks give to the reference, and what they do when it does not answer."""

import sys

import pytest

from experiments import peer
from ppuda_jax.archs.hdf5 import load_split
from ppuda_jax.archs.sampling import arch_at


def test_architectures_for_the_reference(tmp_path):
    configs = [arch_at("train", index) for index in range(3)]
    path = str(tmp_path / peer.ARCHS_FILE)
    peer.write_archs(path, configs)
    records = load_split(path, "val")
    assert [record.config for record in records] == configs
    assert records.stored_graph(1).adjacency.shape[0] == records[1].num_nodes


def test_a_reference_that_ends_is_reported(tmp_path):
    running = peer.reference(
        "no such task",
        [arch_at("train", 0)],
        checkout=str(tmp_path),
        python=sys.executable,
        batch_size=2,
    )
    with pytest.raises(SystemExit, match="the reference did not answer"), running:
        pass
