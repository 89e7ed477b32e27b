"""Training in a folder: continued exactly, never mixed with another training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.checkpoints import CheckpointError
from ppuda_jax.finetune import session
from ppuda_jax.finetune.inits import given, random
from ppuda_jax.finetune.network import of_apply
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.params_io import load_params
from ppuda_jax.training.metrics import read_metrics
from tests.finetune.conftest import initial, linear

RECIPE = Recipe(optimizer="adam", learning_rate=0.05, batch_size=8)
SETTINGS = {"init": "random", "optimizer": "adam", "seed": 1}


class Killed(BaseException):
    """What a signal does."""


@pytest.fixture
def counting():
    def train(variables, images, key):
        del key
        return linear(variables, images), {"count": variables["count"] + 1}

    return of_apply(linear, initial, train=train, state={"count": jnp.zeros((), jnp.int32)})


@pytest.fixture
def run(counting, train_images, held_out):
    def call(folder, settings=SETTINGS, **options):
        how = {"steps": 6, "every": 2, "seed": 1, **options}
        start = random()(counting, 0)
        return session.train_in(
            folder, settings, counting, start, train_images, held_out, RECIPE, **how
        )

    return call


def _kill_at(monkeypatch, step):
    real = session.fit

    def killed(*args, save, **options):
        def stop(now):
            save(now)
            if now.points[-1].step == step:
                raise Killed

        return real(*args, save=stop, **options)

    monkeypatch.setattr(session, "fit", killed)


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_training_goes_on_exactly(run, tmp_path, monkeypatch, step):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _kill_at(patch, step)
        run(tmp_path / "cut")
    rest = run(tmp_path / "cut")
    for a, b in zip(*map(jax.tree.leaves, (rest.params, whole.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(rest.state["count"]) == int(whole.state["count"]) == 6
    lines = [read_metrics(tmp_path / name) for name in ("whole", "cut")]
    assert [row["step"] for row in lines[1]] == [0, 2, 4, 6]
    for a, b in zip(*lines, strict=True):
        assert (a["accuracy"], a["loss"]) == (b["accuracy"], b["loss"])


def test_the_folder_at_the_end(run, counting, tmp_path):
    curve = run(tmp_path)
    found = load_params(tmp_path / "params")
    assert int(found["count"]) == 6
    again = given(found)(counting, 0)
    np.testing.assert_array_equal(again["kernel"], curve.params["kernel"])
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "config.json").read_text()) == SETTINGS
    assert list(tmp_path.glob("tensorboard/events*"))
    repeated = run(tmp_path)
    assert repeated.to_dict() == curve.to_dict() and len(read_metrics(tmp_path)) == 4


def test_another_training_is_refused(run, tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="of another training .*seed: there 1, now 2"):
        run(tmp_path, SETTINGS | {"seed": 2})


def test_a_folder_that_was_only_begun_is_refused_too(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS | {"init": "orth"}))
    with pytest.raises(ValueError, match="init: there 'orth', now 'random'"):
        run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no configuration"):
        run(tmp_path)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(run, tmp_path, capsys):
    whole = run(tmp_path)
    for file in (tmp_path / "last" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    rest = run(tmp_path)
    assert rest.accuracy.tolist() == whole.accuracy.tolist()
    assert "moved the damaged checkpoint" in capsys.readouterr().err
    for file in (tmp_path / "last").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read"):
        run(tmp_path)


def test_parameters_of_another_network_are_named(counting):
    with pytest.raises(ValueError, match=r"2 leaves differ: bias \(3,\), missing there; kernel"):
        given({"kernel": np.zeros((3, 4))}, "mine")(counting, 0)
    with pytest.raises(ValueError, match="more, not of the network"):
        given({"params": {**initial(0), "more": np.zeros(1)}})(counting, 0)
