"""Several devices and several hosts compute what one device does."""

import chex
import jax
import numpy as np
import pytest

from ppuda_jax import parallel
from ppuda_jax.training.loop import train
from tests.hosts import run_hosts
from tests.reference import arrays_of
from tests.training import toy


def final_theta(**changes):
    config = toy.settings(steps=8, steps_per_dispatch=2, **changes)
    return train(config, toy.task(config)).theta


@pytest.fixture(scope="module")
def one_device():
    return final_theta(num_devices=1)


@pytest.mark.parametrize("devices", [4, 8])
def test_devices_share_a_meta_batch(one_device, devices):
    chex.assert_trees_all_close(final_theta(num_devices=devices), one_device, atol=1e-5)


def test_too_many_devices():
    with pytest.raises(ValueError, match="num_devices is 99, but JAX sees 8 devices"):
        parallel.make_topology(99)


def test_split_puts_one_slice_on_each_device():
    topology = parallel.make_topology(4)
    placed = parallel.split({"x": np.arange(8.0).reshape(2, 4)}, topology)["x"]
    assert {tuple(s.data[:, 0].tolist()) for s in placed.addressable_shards} == {
        (0.0, 4.0),
        (1.0, 5.0),
        (2.0, 6.0),
        (3.0, 7.0),
    }
    assert topology.host_shards == range(4)


def test_replicated_arrays_come_back():
    tree = {"x": np.arange(3), "y": np.float32(2).reshape(())}
    back = parallel.to_host(parallel.replicate(tree, parallel.make_topology(4)))
    jax.tree.map(np.testing.assert_array_equal, back, tree)


_HOST = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
from ppuda_jax import parallel
address, host, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
parallel.init_hosts(address, 2, host)
import jax, numpy as np
from ppuda_jax.training.loop import train
from tests.training import toy
assert len(jax.devices()) == 4
config = toy.settings(steps=8, steps_per_dispatch=2, num_devices=None, workdir=out)
result = train(config, toy.task(config))
np.savez(f"{out}/theta{host}.npz", **result.theta)
"""


def test_two_hosts(one_device, tmp_path):
    run_hosts(_HOST, str(tmp_path))
    for host in (0, 1):
        theta = arrays_of(tmp_path / f"theta{host}.npz")
        chex.assert_trees_all_close(theta, one_device, atol=1e-5)
    assert (tmp_path / "last" / "8" / "theta").is_dir()
