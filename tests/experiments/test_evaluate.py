"""The evaluation command: its table and files, and what it refuses."""

import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from ppuda_jax import evaluation
from ppuda_jax.checkpoints import save_ghn
from ppuda_jax.evaluation import NetResult
from ppuda_jax.finetune.curve import Curve, Point
from ppuda_jax.finetune.trainings import Trained
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    path, config = tmp_path_factory.mktemp("ghn") / "ghn2", ghn2_cifar10()
    metadata = {"dataset": "digits", "num_classes": 10, "image_size": 32}
    shapes = jax.eval_shape(lambda key: init_theta(config, key), jax.random.key(0))
    theta = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    save_ghn(path, LoadedGHN(config, theta, "fresh", metadata))
    return str(path)


def result(split: str, index: int, top1: float, **fields) -> NetResult:
    return NetResult(
        split,
        index,
        f"{split}-{index}",
        10,
        top1,
        0.5,
        1.0,
        64,
        0.1,
        0.2,
        0.0,
        fields.get("runner", "executor"),
        fields.get("reason", ""),
    )


def test_table_and_files(checkpoint, tmp_path, monkeypatch):
    def evaluated(ghn, nets, images, *, results_path, progress, **_):
        found = tuple(result(n.split, n.index, 0.1 * (1 + n.index)) for n in nets)
        for done, one in enumerate(found, 1):
            progress(done, len(nets), one, 1.0)
        results_path.parent.mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(evaluation, "evaluate_archs", evaluated)
    options = EvaluateConfig(
        checkpoint=checkpoint,
        split=("test", "predefined"),
        num_nets=2,
        max_images=64,
        output=str(tmp_path / "out"),
        compilation_cache=None,
        num_devices=1,
    )
    text = evaluate.run(options)
    assert "on digits: top1 in %, chance 10.0" in text
    lines = text.splitlines()[1:4]
    header, _, ours = ([cell.strip() for cell in line.split("|")] for line in lines)
    assert header[2:-1] == ["test", "test max", "resnet50", "vit"]
    assert ours[1:-1] == ["ours", "15.0 ± 5.0", "20.0", "10.0", "20.0"]
    assert "test: 2 networks, 64 images, top-1 15.0 ± 5.0 (max 20.0)" in text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["test"]["count"] == 2
    assert (tmp_path / "out" / "test.csv").read_text().count("\n") == 3


def test_published_numbers_stand_beside():
    rows = {
        "ours": evaluate.columns({"wide": [result("wide", 0, 0.3)]}, "top1"),
        "paper, ghn2": {"wide": "64.0", "deep": "60.5"},
    }
    header, _, *lines = evaluate.in_papers_order(rows, ("test", "wide", "deep")).splitlines()
    assert header.split() == ["|", "|", "wide", "|"]
    assert [line.split()[-2] for line in lines] == ["0.0", "64.0"]


def test_networks_without_the_executor_are_named():
    results = [result("wide", 0, 0.2), result("wide", 1, 0.2, runner="network", reason="big: 9")]
    assert "1 through the executor, others compiled by themselves (big)" in evaluate.describe(
        "wide", results
    )


def test_networks_trained_by_sgd_stand_beside_their_predictions():
    curve = Curve((Point(0, 0.1, 2.3, math.nan, 0.0), Point(10, 0.5, 1.5, 1.6, 20.0)))
    sgd = [Trained("test", 1, "f", "he", "sgd", 0.025, 0, curve.to_dict())]
    found = {"test": [result("test", 0, 0.9), result("test", 1, 0.4)]}
    (line,) = evaluate.describe_sgd(sgd, found)
    assert "top-1 50.0 ± 0.0 % in 20.0 s each; predicted 40.0 ± 0.0 % in 0.100 s" in line
    assert evaluate.describe_sgd([], found) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": ("tset",)}, "split must be one of"),
        ({"arch": (500,)}, r"has networks 0\.\.499"),
        ({"dataset": "mnist", "data_dir": "nowhere"}, "mnist: no prepared TFDS dataset"),
        ({"checkpoint": "no-such"}, "no hypernetwork 'no-such'"),
        ({"noise": 2.0}, "noise must lie in"),
    ],
)
def test_mistakes_are_refused_with_the_choices(checkpoint, options, message):
    given = {"checkpoint": checkpoint, "num_nets": None if "arch" in options else 1, **options}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate.run(EvaluateConfig(compilation_cache=None, **given))


def test_the_command_ends_in_one_clear_line(checkpoint):
    command = [sys.executable, "-m", "experiments.evaluate", f"--checkpoint={checkpoint}"]
    done = subprocess.run(
        [*command, "--split=tset"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("ValueError: split must be one of")


def test_two_splits_are_not_written_to_one_file(checkpoint):
    splits = ("a/nets.hdf5:val", "b/nets.hdf5:val")
    options = EvaluateConfig(checkpoint=checkpoint, split=splits, output="anywhere")
    with pytest.raises(
        ValueError, match="a/nets.hdf5:val, b/nets.hdf5:val would be written to one"
    ):
        evaluate.run(options)


_COMPILING = """
import signal, sys, threading, time
from experiments import evaluate
from ppuda_jax.evaluation import evaluate as library

def prepare(runners, images, ghn, net):
    print("preparing", file=sys.stderr, flush=True)
    time.sleep(60) if threading.current_thread() is not threading.main_thread() else None
    raise AssertionError("a background thread prepares")

library._prepare = prepare
# A shell starts what runs in the background with interrupts ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
evaluate.main()
"""


def test_an_interrupted_command_does_not_wait_for_compilations(checkpoint):
    command = [sys.executable, "-c", _COMPILING, f"--checkpoint={checkpoint}", "--num_nets=2"]
    options = ["--max_images=64", "--compilation_cache=none", "--max_variants=1"]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if line.startswith("preparing"):
                break
        time.sleep(0.5)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=50)[1]
    finally:
        process.kill()
    assert time.monotonic() - started < 20
    assert "the same command continues" in rest and "Traceback" not in rest
    assert process.returncode == 130
