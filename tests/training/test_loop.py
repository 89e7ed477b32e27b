"""The loop: exact resume after kill -9, clean stops, refusals."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ppuda_jax import checkpoints
from ppuda_jax.training.executor_driver import ExecutorDriver
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


def test_a_full_disk_ends_the_run_with_what_was_saved(whole, tmp_path):
    process = start(tmp_path, "--full_from=110", "--max_variants=none")
    _, said = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "CheckpointError: a checkpoint cannot be written into" in said and "make room" in said
    assert (tmp_path / "last" / "6").is_dir() and not (tmp_path / "last" / "24").exists()
    config = three_variants(tmp_path)
    train(config, toy.task(config))
    assert_same_run(tmp_path, whole)
    assert not list(tmp_path.rglob("*orbax-checkpoint-tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(whole, tmp_path, number):
    class Signalled(toy.ToyNetworks):
        def build(self, indices, variant):
            if 60 in indices:  # of a meta-batch early in the run, but not of start-up
                os.kill(os.getpid(), number)
            return super().build(indices, variant)

    config = three_variants(tmp_path, checkpoint_every=1000)
    result = train(config, toy.task(config, Signalled()))
    assert result.reason == "signal" and 0 < result.step < 24
    assert (tmp_path / "last" / str(result.step)).is_dir()
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
    with pytest.raises(ValueError, match=r"belongs to another run.*learning_rate: there 0.001"):
        train(config, toy.task(config))


def cut(folder, item, kept=0):
    for data in (folder / item).rglob("*"):
        if data.is_file():
            os.truncate(data, int(kept * data.stat().st_size))


@pytest.mark.parametrize(
    ("item", "kept"), [("theta", 0), ("theta", 0.5), ("run", 0), ("record", 0.5), ("record", 0)]
)
def test_the_checkpoint_before_a_damaged_one_is_taken(whole, tmp_path, capsys, item, kept):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    cut(copy / "last" / "24", item, kept)
    config = three_variants(copy)
    assert train(config, toy.task(config)).step == 24
    shown = capsys.readouterr().err
    assert f"resuming from {copy}/last/18 instead" in shown
    assert f"moved the damaged checkpoint {copy}/last/24 to {copy}/damaged/last-24" in shown
    assert_same_run(copy, whole)


def test_a_checkpoint_without_an_item_is_damaged(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "last" / "24" / "record")
    config = three_variants(copy)
    train(config, toy.task(config))
    assert_same_run(copy, whole)


def test_a_run_without_an_intact_checkpoint_is_not_started_again(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for step in ("18", "24"):
        cut(copy / "last" / step, "theta")
    config = three_variants(copy)
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint in .*last can be read"):
        train(config, toy.task(config))
    assert sorted(p.name for p in (copy / "last").iterdir() if p.name.isdigit()) == ["18", "24"]


def test_a_longer_run_must_be_asked_for(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    config = three_variants(copy, steps=30)
    with pytest.raises(ValueError, match="received steps=30, the run was started with steps=24"):
        train(config, toy.task(config))
    config = dataclasses.replace(config, change_length=True)
    assert train(config, toy.task(config)).step == 30


def test_the_schedule_decides_the_updates(tmp_path):
    """Behind a drop to a millionth of the rate theta stands still."""
    seen = {}
    config = toy.settings(
        workdir=str(tmp_path),
        eval_every=6,
        average_decay=0.0,
        lr_milestones=(0.5,),
        lr_drop=1e-6,
        log_every=1,
    )

    def evaluate(theta, step):
        seen[step] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(theta))])
        return {}

    train(config, toy.task(config, evaluate=evaluate))
    moved = {step: np.abs(seen[step] - seen[step - 6]).max() for step in (12, 18, 24)}
    assert moved[12] > 1e-4 and max(moved[18], moved[24]) < 1e-6
    rows = [line for line in lines(tmp_path) if "learning_rate" in line]
    rates = {line["step"]: line["learning_rate"] for line in rows}
    assert rates[12] == pytest.approx(1e-3) and rates[13] == pytest.approx(1e-9)


def test_the_average_is_what_is_validated(tmp_path):
    seen = {}

    def evaluate(theta, step):
        seen[step] = jax.device_get(theta)
        return {}

    config = toy.settings(workdir=str(tmp_path), eval_every=24)
    train(config, toy.task(config, evaluate=evaluate))
    arrays = final_arrays(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, seen[24], arrays["theta"])
    assert not np.array_equal(seen[24]["kernel"], arrays["run"]["theta"]["kernel"])


def test_validation_is_no_training_time(tmp_path):
    config = toy.settings(workdir=str(tmp_path), eval_every=12, time_limit_s=1e6)

    def evaluate(theta, step):
        time.sleep(1.5)
        return {"val_accuracy": 0.1}

    started = time.monotonic()
    result = train(config, toy.task(config, evaluate=evaluate))
    assert result.seconds <= time.monotonic() - started - 2 * 1.5
    assert result.seconds == pytest.approx(lines_with_time(tmp_path)[-1], abs=0.5)


def lines_with_time(workdir):
    return [line["seconds"] for line in read_metrics(workdir) if "seconds" in line]


def test_the_logged_rate_is_the_one_that_was_used(tmp_path, monkeypatch):
    """Under a schedule that follows the clock, which goes on until the line is written."""
    used = []
    run = ExecutorDriver.run

    def spy(self, group, placed):
        used.extend(np.asarray(placed[-1]).tolist())
        return run(self, group, placed)

    monkeypatch.setattr(ExecutorDriver, "run", spy)
    config = toy.settings(
        workdir=str(tmp_path), time_limit_s=60.0, lr_schedule="cosine", log_every=1
    )
    train(config, toy.task(config, toy.ToyNetworks(slow=0.01)))
    logged = [line["learning_rate"] for line in read_metrics(tmp_path)]
    np.testing.assert_allclose(logged, used, rtol=1e-6)
    assert len(set(used)) > 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_start_up_ends_in_order(tmp_path, capfd, number):
    class Signalled(toy.ToyNetworks):
        def survey(self, index):
            os.kill(os.getpid(), number)
            time.sleep(60)
            raise AssertionError("start-up went on")

    before = signal.getsignal(number)
    config = toy.settings(workdir=str(tmp_path))
    result = train(config, toy.task(config, Signalled()))
    assert (result.step, result.reason, result.seconds) == (0, "signal", 0.0)
    assert signal.getsignal(number) == before
    shown = capfd.readouterr().err
    assert "stopping: start-up is left" in shown and "stopped at step 0 of 24: signal" in shown
    assert train(config, toy.task(config)).step == 24


def test_the_time_limit_stops_a_run_and_drives_its_schedule(tmp_path):
    config = toy.settings(
        workdir=str(tmp_path), steps=10**6, time_limit_s=1.5, checkpoint_every=10**6, log_every=1
    )
    result = train(config, toy.task(config, toy.ToyNetworks(slow=0.01)))
    assert result.reason == "time limit" and result.seconds >= 1.5
    rows = read_metrics(tmp_path)
    assert rows[0]["learning_rate"] == 1e-3
    for row in rows:
        expected = 1e-3 * 0.1 ** sum(mark <= row["progress"] for mark in config.lr_milestones)
        assert row["learning_rate"] == pytest.approx(expected)
    assert rows[-1]["progress"] > 0.5
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


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    scores = iter([float("nan"), 0.2, float("inf"), 0.1])
    config = toy.settings(workdir=str(tmp_path), eval_every=6)
    train(config, toy.task(config, evaluate=lambda theta, step: {"val_accuracy": next(scores)}))
    assert [p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()] == ["12"]


def test_a_damaged_best_checkpoint_is_said_and_made_again(tmp_path, capsys):
    config = toy.settings(workdir=str(tmp_path), eval_every=6, lr_schedule="constant")
    score = {"val_accuracy": 0.5}
    train(config, toy.task(config, evaluate=lambda theta, step: score))
    cut(tmp_path / "best" / "6", "theta")
    config = dataclasses.replace(config, steps=30)
    train(config, toy.task(config, evaluate=lambda theta, step: {"val_accuracy": 0.1}))
    assert "the best checkpoint is lost" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()] == ["30"]
