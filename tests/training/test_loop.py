"""The loop: exact resume after kill -9, clean stops, refusals."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ppuda_jax import checkpoints
from ppuda_jax.training.loop import train
from ppuda_jax.training.metrics import read_metrics
from ppuda_jax.training.task import NonFiniteError
from tests.training import toy

ROOT = pathlib.Path(__file__).parents[2]
_TIMES = ("seconds", "steps_per_s", "nets_per_s", "compiler_calls", "programs")


def lines(workdir):
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in read_metrics(workdir)]


def final_arrays(workdir):
    """Every array of the last checkpoint, by path, read with orbax and nothing of ours."""
    import orbax.checkpoint as ocp

    steps = sorted(int(p.name) for p in (workdir / "last").iterdir() if p.name.isdigit())
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    folder = workdir / "last" / str(steps[-1])
    return {item: reader.restore(folder / item) for item in ("theta", "run")}


def three_variants(workdir, **changes):
    return toy.settings(workdir=str(workdir), max_variants=None, **changes)


def assert_same_run(left, right):
    assert lines(left) == lines(right)
    jax.tree.map(np.testing.assert_array_equal, final_arrays(left), final_arrays(right))


def start(workdir, *flags):
    command = [sys.executable, "-m", "tests.training.toy", str(workdir), *flags]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    config = three_variants(workdir)
    result = train(config, toy.task(config))
    assert (result.step, result.reason, result.programs) == (24, "finished", 3)
    return workdir


def test_a_killed_run_resumes_bit_for_bit(whole, tmp_path):
    process = start(tmp_path, "--slow=0.15", "--arch_workers=1", "--max_variants=none")
    wait_for(lambda: (tmp_path / "last" / "6").is_dir(), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "last" / "24").exists()
    config = three_variants(tmp_path)
    result = train(config, toy.task(config))
    assert result.step == 24
    assert_same_run(tmp_path, whole)


def test_sigterm_saves_and_exits(whole, tmp_path):
    process = start(tmp_path, "--slow=0.15", "--checkpoint_every=1000", "--max_variants=none")
    wait_for(lambda: len(read_metrics(tmp_path)) > 0, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    _, step, reason, _ = output.split()[-4:]
    assert reason == "signal" and 4 <= int(step) < 24
    assert (tmp_path / "last" / step).is_dir()
    config = three_variants(tmp_path)
    train(config, toy.task(config))
    assert_same_run(tmp_path, whole)


def test_the_average_is_what_a_checkpoint_offers(whole, tmp_path):
    arrays = final_arrays(whole)
    assert "theta" in arrays["run"] and "average" not in arrays["run"]
    config = three_variants(tmp_path, average_decay=0.0)
    train(config, toy.task(config))
    plain = final_arrays(tmp_path)
    assert "theta" not in plain["run"]
    same = np.testing.assert_array_equal
    jax.tree.map(same, plain["theta"], arrays["run"]["theta"])  # averaging changes no update
    assert any(
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(arrays["theta"]), jax.tree.leaves(plain["theta"]), strict=True
        )
    )


def test_a_finished_run_is_left_alone(whole):
    config = three_variants(whole)
    before = lines(whole)
    assert train(config, toy.task(config)).programs == 0
    assert lines(whole) == before


def test_another_run_in_the_folder_is_refused(whole):
    config = three_variants(whole, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"belongs to another run.*learning_rate: saved 0.001"):
        train(config, toy.task(config))


def test_damaged_checkpoints_are_refused(whole, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for data in (copy / "last" / "24" / "theta").rglob("*"):
        if data.is_file():
            data.write_bytes(b"")
    config = three_variants(copy)
    with pytest.raises(checkpoints.CheckpointError, match="theta is damaged"):
        train(config, toy.task(config))


def test_time_limit_drives_the_schedule_and_stops(tmp_path):
    config = toy.settings(
        workdir=str(tmp_path), steps=1_000_000, time_limit_s=1.5, checkpoint_every=10**6
    )
    result = train(config, toy.task(config, toy.ToyNetworks(slow=0.01)))
    assert result.reason == "time limit" and 1.5 <= result.seconds < 5
    rates = [line["learning_rate"] for line in read_metrics(tmp_path)]
    assert rates[0] == 1e-3 and rates[-1] == pytest.approx(1e-5)
    assert (tmp_path / "last" / str(result.step)).is_dir()


def test_session_limit_stops_to_be_resumed(tmp_path):
    config = toy.settings(workdir=str(tmp_path), session_limit_s=0.01)
    assert train(config, toy.task(config)).reason == "session limit"


def test_too_many_skipped_updates_stop_the_run_with_the_architectures(tmp_path):
    config = toy.settings(workdir=str(tmp_path), max_nonfinite=3)
    with pytest.raises(NonFiniteError, match="the last 3 updates were skipped.*nonfinite_"):
        train(config, toy.task(config, toy.ToyNetworks(poison_from=40)))
    (path,) = tmp_path.glob("nonfinite_*.json")
    report = json.loads(path.read_text())
    assert len(report) == 3
    assert all(net["toy"] == net["index"] for row in report for net in row["networks"])
    assert max(net["index"] for net in report[0]["networks"]) >= 40


def test_the_best_checkpoint_is_kept(tmp_path):
    scores = iter([0.1, 0.5, 0.3, 0.4])
    config = toy.settings(workdir=str(tmp_path), eval_every=6)
    task = toy.task(config, evaluate=lambda theta, step: {"val_accuracy": next(scores)})
    train(config, task)
    assert [p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()] == ["12"]
    shown = [line["val_accuracy"] for line in read_metrics(tmp_path) if "val_accuracy" in line]
    assert shown == [0.1, 0.5, 0.3, 0.4]
    assert checkpoints.read_record(tmp_path / "best" / "12")["best"] == 0.5


def test_rare_variants_can_be_left_out():
    config = toy.settings(max_variants=2)
    assert train(config, toy.task(config)).programs == 2
