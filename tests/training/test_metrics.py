"""Averages between lines, and the files they go to."""

import json

import numpy as np
import pytest

from ppuda_jax.training.metrics import MetricsLog, Window, read_metrics


def row(loss, finite=True):
    return {"loss": np.float32(loss), "finite": np.bool_(finite), "skipped_in_a_row": np.int32(0)}


def test_window_averages_finite_steps_and_survives_json():
    window = Window()
    window.add(row(1.0))
    window = Window(json.loads(json.dumps(window.to_dict())))
    window.add(row(np.nan, finite=False))
    window.add(row(4.0))
    assert window.take() == {"loss": 2.5, "skipped": 1}
    assert window.take() == {"skipped": 0}


def test_lines_and_events_are_written(tmp_path, capsys):
    log = MetricsLog(tmp_path, first_step=0)
    log.write(5, {"loss": 1.25, "note": "text"})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 5, "loss": 1.25, "note": "text"}]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert capsys.readouterr().err == "step 5  loss 1.25\n"


def test_lines_of_a_run_say_how_long_it_takes(capsys):
    log = MetricsLog(None, 0)
    log.advance(0.0, "note")
    log.advance(0.5, "note")
    log.write(5, {"loss": 1.25, "skipped": 0, "progress": 0.5, "grad_norm": 3.0})
    log.write(5, {"val_accuracy": 0.5})
    log.close()
    assert capsys.readouterr().err == "step 5  loss 1.25  00:00 left\nstep 5  val_accuracy 0.5\n"


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write(step, {"loss": 1.0 * step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # cut off by kill -9
    log = MetricsLog(tmp_path, first_step=4)
    log.write(6, {"loss": 0.5})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path)] == [2.0, 4.0, 0.5]


@pytest.mark.parametrize("workdir", [None])
def test_without_a_folder_nothing_is_written(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = MetricsLog(workdir, 0)
    log.write(1, {"loss": 1.0})
    log.close()
    assert list(tmp_path.iterdir()) == [] and read_metrics(tmp_path) == []
