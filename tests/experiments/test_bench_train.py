"""The benchmark of the training step: flags, tables, files for the reference; nothing compiled."""

import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import bench_train
from experiments import bench_train_tables as tables
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.data.grouping import GroupingState
from ppuda_jax.data.stream import MetaBatches
from ppuda_jax.executor.layout import layout_of
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import stack_programs
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.prediction.meta_batch import build_meta_batch

ROOT = pathlib.Path(__file__).parents[2]


def test_a_wrong_flag_ends_the_command():
    command = [sys.executable, "-m", "experiments.bench_train", "--model=ghn4"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "model: expected one of ghn2, ghn1, mlp, received 'ghn4'" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--number=3"], "Unknown command line flag"),
        (["extra"], "unexpected arguments ['extra']"),
    ],
)
def test_flags_are_checked(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        bench_train.main(flags)
    assert ended.value.code and message in capsys.readouterr().err


def _squeezed(text):
    """A table without the spaces that line its columns up."""
    return " ".join(text.split())


def test_tables():
    assert tables.summary([1.0, 2.0, 6.0])[:2] == [3.0, 2.0]
    peers = [
        {"step": t, "build": 0.1, "predict": 0.2, "forward": 0.3, "backward": 0.4}
        for t in (2.0, 4.0, 8.0)
    ]
    text = _squeezed(tables.comparison([1.0, 1.0, 8.0], peers))
    assert "| ratio | 0.714 | 0.250 | 0.917 | 1.000 | 0.500 |" in text
    parts = {"step": 2.0, "no_backward": 1.0, "empty": 0.5, "additions": 0.6}
    text = _squeezed(tables.breakdown_table([{**parts, "predict": 0.1, "predict_grad": 0.3}]))
    assert "| operations, backward | 1.000 | 50% |" in text
    assert "| predict, backward | 0.200 | 10% |" in text
    assert "| (loops alone: every instruction an addition) | 0.100 | 5% |" in text


def test_additions_keep_the_shape_of_programs():
    program = make_program(make_plan(arch_at("train", 0)))
    programs = stack_programs([program])
    changed = bench_train._additions(program.variant, programs)
    for group in layout_of(program.variant).groups:
        code = changed.forward[group.name]
        assert code.shape == programs.forward[group.name].shape
        if group.inner:
            assert (code[..., 0] == group.opcode["add"]).all()
            np.testing.assert_array_equal(code[..., 1:], programs.forward[group.name][..., 1:])
        else:
            assert changed.backward_count[group.name].sum() == 0


class _Untimed(bench_train.Bench):
    """Counts the instructions that a step would run, and compiles nothing."""

    def __init__(self):
        self.state = SimpleNamespace(theta=None)

    def step(self, group):
        programs = group.arrays.programs
        return tuple(
            sum(int(count.sum()) for count in counts.values())
            for counts in (programs.forward_count, programs.backward_count)
        )

    def _predictors(self, variant):
        return (lambda theta, networks: networks.programs.norm,) * 2


def test_a_step_is_taken_apart_by_programs_without_its_parts():
    plan = make_plan(arch_at("train", 0))
    variant = variant_of(plan)
    arrays = jax.tree.map(lambda leaf: leaf[None, None], build_meta_batch([plan], variant))
    row = _Untimed().take_apart(MetaBatches(variant, (0,), arrays, GroupingState()))
    forward, backward = row["step"]
    assert forward > 0 and backward > 0
    assert row["no_backward"] == (forward, 0) and row["empty"] == (0, 0)
    assert row["predict"] > 0 and row["predict_grad"] > 0
