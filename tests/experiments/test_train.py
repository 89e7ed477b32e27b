"""The training command: what it refuses, and how it says so."""

import pathlib
import subprocess
import sys

import pytest

from experiments import train
from tests.networks import plan_of
from tests.teachers.stored import save_zoo

ROOT = pathlib.Path(__file__).parents[2]


def test_a_mistake_ends_the_command_in_one_clear_line(tmp_path):
    flags = [f"--workdir={tmp_path}/run", "--dataset=cifar10", f"--data_dir={tmp_path}"]
    command = [sys.executable, "-m", "experiments.train", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "FileNotFoundError: cifar10: no prepared TFDS dataset" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps=many"], "steps: expected int, received 'many'"),
        (["--stepz=3"], "Unknown command line flag 'stepz'"),
        (
            ["--dataset=mnist", "--data_dir={tmp}"],
            "FileNotFoundError: mnist: no prepared TFDS dataset, and nothing",
        ),
    ],
)
def test_mistakes_are_named(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "share_one_arena", lambda: None)  # this process has its arenas
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        train.main([f"--workdir={tmp_path}/run", "--compilation_cache=none", *flags])
    assert ended.value.code and message in f"{ended.value} {capsys.readouterr().err}"


def test_teachers_have_runs_of_their_own():
    plain = train.base_of({"dataset": "digits"})
    assert plain.workdir == "runs/ghn2-digits" and plain.max_variants == 4
    given = {"dataset": "digits", "teacher": "zoo", "teacher_terms": "distill:1"}
    taught = train.base_of(given)
    assert taught.workdir.startswith("runs/ghn2-digits-taught-") and taught.max_variants is None
    assert taught == train.base_of(given) != train.base_of({**given, "teacher": "zoo2"})
    alone = train.base_of({"dataset": "digits", "teacher_terms": "norm:3e-5"})
    assert alone.workdir != plain.workdir and alone.max_variants == 4


def test_the_objective_is_told(tmp_path):
    plans = [plan_of(f"conv_{k}x{k}:0 none:1", "cse:0 none:1", n_cells=2) for k in (1, 3)]
    first, _ = save_zoo(tmp_path, plans)
    options = {"teacher_terms": ("distill:1", "regress:0.1"), "teacher_held_out": 0.0}
    text = train.objective(train.TrainFlags(teacher=str(tmp_path), **options))
    assert text.startswith("objective: 1 task + 1 distill + 0.1 regress; each architecture needs a")
    assert f"drawn from the 2 of 2 in {tmp_path} that are not held out" in text
    one = train.TrainFlags(
        teacher=str(tmp_path / f"{first.name}.npz"), teacher_terms=("distill:1",)
    )
    assert train.objective(one).endswith(f"taught by the one network {one.teacher}")
    norm = train.TrainFlags(teacher_terms=("norm:3e-05",))
    assert train.objective(norm) == "objective: 1 task + 3e-05 norm"
