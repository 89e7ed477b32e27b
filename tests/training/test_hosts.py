"""Several hosts that evaluate during training decide as one."""

from tests.hosts import run_hosts

_HOST = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
from ppuda_jax import parallel
address, host, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
parallel.init_hosts(address, 2, host)
from ppuda_jax.training.loop import train
from tests.training import toy

def evaluate(theta, step):
    return {"val_accuracy": step / 100 if host == 0 else 1 - step / 100}

config = toy.settings(steps=8, eval_every=2, checkpoint_every=1000, num_devices=None, workdir=out)
train(config, toy.task(config, evaluate=evaluate))
"""


def test_hosts_whose_scores_differ_save_the_best_together(tmp_path):
    """Rounding tells the hosts' scores apart; a host that saves waits for all others."""
    run_hosts(_HOST, str(tmp_path))
    assert [folder.name for folder in (tmp_path / "best").iterdir()] == ["8"]
