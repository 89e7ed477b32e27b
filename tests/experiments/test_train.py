"""The training command: what it refuses, and how it says so."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--dataset=cifar10", "--data_dir={tmp}"],
            "FileNotFoundError: cifar10: no prepared TFDS dataset",
        ),
        (["--steps=many"], "steps: expected int, received 'many'"),
        (["--stepz=3"], "Unknown command line flag 'stepz'"),
        (
            ["--dataset=mnist", "--data_dir={tmp}"],
            "FileNotFoundError: mnist: no prepared TFDS dataset, and nothing",
        ),
    ],
)
def test_mistakes_end_in_one_clear_line(flags, message, tmp_path):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    command = [sys.executable, "-m", "experiments.train", f"--workdir={tmp_path}/run", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert message in result.stderr and "Traceback" not in result.stderr
