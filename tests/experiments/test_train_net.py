"""Training one network: flags, starts, refusals, and a short run in a folder."""

import numpy as np
import pytest

from experiments import train_net
from experiments.train_net import TrainNetConfig, base_of
from ppuda_jax.params_io import save_params
from ppuda_jax.training.metrics import read_metrics


def test_published_recipes_are_the_defaults():
    full, long, shots = (base_of({"recipe": name}) for name in ("full", "long", "shots"))
    assert (full.learning_rate, full.weight_decay, full.batch_size) == (0.025, 3e-4, 96)
    assert (long.cutout, long.drop_path, long.auxiliary) == (16, 0.2, 0.4)
    assert (shots.shots, shots.weight_decay) == (100, 1e-3)
    assert base_of({"optimizer": "adam"}).learning_rate == 1e-3


def test_a_short_training_is_kept_and_taken_up(tmp_path):
    common = {
        "dataset": "digits",
        "batch_size": 16,
        "max_images": 32,
        "compilation_cache": None,
    }
    options = TrainNetConfig(
        model="experiments.own_network:build",
        init="predicted",
        steps=2,
        every=1,
        workdir=str(tmp_path / "run"),
        **common,
    )
    text = train_net.run(options)
    assert "% of 32 test images before training" in text and "after 2 steps" in text
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [0, 1, 2]
    assert train_net.run(options) == text
    again = TrainNetConfig(
        model="experiments.own_network:build",
        init="checkpoint",
        params=str(tmp_path / "run" / "params"),
        steps=1,
        **common,
    )
    (end,) = (row["accuracy"] for row in read_metrics(tmp_path / "run") if row["step"] == 2)
    assert train_net.run(again).startswith(f"{100 * end:.2f} % of 32 test images before")


def test_parameters_of_another_network(tmp_path):
    path = save_params(tmp_path / "foreign", {"Dense_0": {"kernel": np.ones((1, 1))}})
    options = TrainNetConfig(
        dataset="digits",
        model="experiments.own_network:build",
        init="checkpoint",
        params=str(path),
        steps=1,
        compilation_cache=None,
    )
    with pytest.raises(ValueError, match=r"14 leaves differ: .*Dense_0/bias \(10,\), missing"):
        train_net.run(options)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"init": "predictd"}, "init"),
        ({"init": "checkpoint"}, "init=checkpoint and params=PATH go together"),
        ({"params": "x"}, "init=checkpoint and params=PATH go together"),
        ({"steps": 0}, "steps must be at least 1, received 0"),
        ({"steps": 5, "epochs": 1}, "epochs or steps, not both"),
        ({"optimizer": "sdg"}, "optimizer must be one of optax's"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TrainNetConfig(**options)
    with pytest.raises(ValueError, match="recipe must be one of full, long, shots"):
        base_of({"recipe": "fulll"})


def test_more_shots_than_images():
    options = TrainNetConfig(dataset="digits", model="resnet18", shots=900, compilation_cache=None)
    with pytest.raises(ValueError, match="shots must lie in 1 ... 114"):
        train_net.run(options)
