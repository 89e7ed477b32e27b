"""The check of resumed runs: what it counts as a difference."""

import numpy as np
import pytest

from experiments.check_resume import CheckConfig, Run, differences


def test_a_single_bit_missing_rows_and_nan():
    first = {"a": np.float32([1.0, 2.0]), "b": np.int32(3), "n": np.float32([np.nan])}
    assert differences(first, {name: value.copy() for name, value in first.items()}) == []
    changed = first | {"a": np.nextafter(first["a"], np.float32(9))}
    assert differences(first, changed) == ["a"]
    assert differences(first, {"a": first["a"], "n": first["n"]}) == ["b"]
    assert differences({}, {"c": np.zeros(1)}) == ["c"]


def test_phases_are_read_from_the_log_and_the_folder(tmp_path):
    run = Run(tmp_path / "run", CheckConfig(every=4))
    run.log.write_text("")
    assert run.phase() == "sampling"
    run.log.write_text("sampled 32 networks, compiling 1 variants\n")
    assert run.phase() == "compiling"
    run.log.write_text("sampled 32 networks, compiling 1 variants\ncompiled 1 of 3 variants\n")
    (tmp_path / "run" / "last" / "4").mkdir(parents=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text('{"step": 5, "loss": 1.0}\n')
    assert run.phase() == "stepping"
    metrics.write_text('{"step": 8, "loss": 1.0}\n')
    assert run.phase() == "evaluating"
    metrics.write_text('{"step": 8, "loss": 1.0}\n{"step": 8, "val_accuracy": 0.1}\n')
    assert run.phase() == "stepping"
    (tmp_path / "run" / "last" / "8.orbax-checkpoint-tmp-0").mkdir()
    assert run.phase() == "saving"
    assert [path.name for path in run.checkpoints()] == ["4"]


def test_lengths_without_two_checkpoints_are_refused():
    with pytest.raises(ValueError, match="at least twice every, received kills=20, steps=5"):
        CheckConfig(steps=5)
