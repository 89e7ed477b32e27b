"""What a checkpoint remembers of its training."""

import json

import jax
import pytest

from ppuda_jax import checkpoints, config
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.history import with_history

GHN = GHNConfig(hid=4, max_shape=(8, 8, 3, 3), virtual_edges=50, layernorm=True)


def make_run(folder, lines: int, steps: int, earlier=(), **settings) -> str:
    """A run's folder with a metrics line every ten steps and a checkpoint."""
    options = TrainConfig(meta_batch_size=2, workdir=str(folder), data_dir="/here", **settings)
    saved = checkpoints.RunCheckpoints(str(folder))
    record = {
        **checkpoints.ghn_record(GHN, {"dataset": "digits", "training": list(earlier)}),
        "settings": config.to_dict(options),
        "step": steps,
        "elapsed_s": 12.3,
    }
    saved.save("last", steps, init_theta(GHN, jax.random.key(0)), {"step": steps}, record)
    saved.close()
    config.save_json(folder / "config.json", options)
    rows = [
        {
            "step": 10 * i,
            "seconds": i / 3,
            "loss": 1000.0 if i == 2 else 2.0,
            "accuracy": 0.1 * (i % 2),
        }
        for i in range(1, lines + 1)
    ]
    rows.append({"step": 10, "val_accuracy": 0.5})  # an evaluation is no point of the curve
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder)


def test_a_run_and_the_run_it_started_from(tmp_path):
    first = make_run(tmp_path / "first", lines=130, steps=1200)
    earlier = with_history(checkpoints.load_ghn(first)).metadata["training"]
    second = make_run(tmp_path / "second", 3, 30, earlier, init_from="gone", grad_clip=1.0)
    history = with_history(checkpoints.load_ghn(second)).metadata["training"]
    assert [run["steps"] for run in history] == [1200, 30]
    assert [run["networks"] for run in history] == [2400, 60]
    assert history[1]["images"] == 30 * 64 and history[1]["seconds"] == 12
    assert history[1]["settings"] == {"meta_batch_size": 2, "grad_clip": 1.0}
    curve = history[0]["curve"]
    assert len(curve["step"]) == 60 and curve["step"][-1] == 1200  # later lines were not saved
    assert max(curve["loss"]) == pytest.approx(501.0)  # two lines a point, of which one exploded
    assert curve["accuracy"][0] == pytest.approx(0.05)
    assert history[1]["curve"]["step"] == [10, 20, 30]


def test_it_is_kept_by_save_ghn(tmp_path):
    ghn = with_history(checkpoints.load_ghn(make_run(tmp_path / "run", lines=3, steps=30)))
    checkpoints.save_ghn(tmp_path / "alone", ghn)
    alone = checkpoints.load_ghn(tmp_path / "alone")
    assert alone.metadata == ghn.metadata and with_history(alone) is alone


def test_metrics_that_are_cut_off_foreign_or_gone(tmp_path):
    run = make_run(tmp_path / "run", lines=3, steps=30)
    file = tmp_path / "run" / "metrics.jsonl"
    clean = with_history(checkpoints.load_ghn(run)).metadata["training"]
    foreign = '\n\nnotes\n[1, 2]\n7\n{"step": "x"}\n{"step": 20, "seconds": 1.0}\n'
    file.write_text(foreign + file.read_text() + '{"step": 40, "los')
    with file.open("ab") as out:
        out.write(b"\xff\xfe")
    assert with_history(checkpoints.load_ghn(run)).metadata["training"] == clean
    for gone in (lambda: file.write_text(""), file.unlink):
        gone()
        (training,) = with_history(checkpoints.load_ghn(run)).metadata["training"]
        assert training["curve"] == {"step": [], "seconds": [], "loss": [], "accuracy": []}
