"""Several hosts that evaluate during training decide as one."""

import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

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
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, address, str(host), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in hosts]
    finally:
        for process in hosts:
            process.kill()
    assert [process.returncode for process in hosts] == [0, 0], outputs
    assert [folder.name for folder in (tmp_path / "best").iterdir()] == ["8"]
