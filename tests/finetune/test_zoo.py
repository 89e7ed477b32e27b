"""Many networks are trained and stored; interrupted work continues, what diverges is left out."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune import zoo as zoo_module
from ppuda_jax.finetune.curve import Curve, Point
from ppuda_jax.finetune.deepnets import on_host
from ppuda_jax.finetune.inits import he
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.zoo import INDEX, Zoo
from ppuda_jax.teachers.store import open_store
from tests.networks import plan_of

PLANS = [plan_of(f"conv_{k}x{k}:0 none:1", "none:0 max_pool_3x3:1", n_cells=2) for k in (1, 3, 5)]
NETS = [EvalNet("train", i, plan.config, None, 3, 32) for i, plan in enumerate(PLANS)]


@pytest.fixture
def zoo(tmp_path, train_images, held_out, monkeypatch):
    by_host = lambda net, recipe, rooms: on_host(net, recipe.batch_size)  # noqa: E731
    monkeypatch.setattr(zoo_module, "best_way", by_host)  # on one CPU device it is the best
    return Zoo(tmp_path, he(), "he", lambda seed: train_images, held_out, Recipe(batch_size=8), 2)


def _fake(monkeypatch, diverges=()):
    """Training that adds one to every parameter."""
    asked = []

    def fit(network, params, images, held_out, recipe, *, steps, seed):
        asked.append((network.name, seed))
        points = tuple(Point(s, 0.1 * s, 1.0, 1.0, 0.5 * s) for s in (0, steps))
        params = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)
        return Curve(points, 1 if network.name in diverges else None, params)

    monkeypatch.setattr(zoo_module, "fit", fit)
    return asked


def test_networks_are_stored_with_their_records(zoo, monkeypatch):
    asked, seen = _fake(monkeypatch), []
    found = zoo.train(NETS, seeds=2, progress=lambda *row: seen.append(row[:2]))
    assert seen == [(i, 6) for i in range(1, 7)] and len(asked) == 6
    store = open_store(zoo.folder)
    assert len(store) == 3 and store.spec == zoo.held_out.spec
    teacher = store.of(NETS[1].fingerprint)
    record = teacher.record
    assert (record.split, record.index, record.steps, record.init) == ("train", 1, 2, "he")
    assert record.epochs == pytest.approx(2 * 8 / 48) and record.accuracy == 0.2
    assert record.recipe["learning_rate"] == 0.025 and record.plan == NETS[1].plan
    scales = [spec.role == "norm_scale" for spec in record.plan.params]
    np.testing.assert_array_equal(teacher.leaves[scales.index(True)], 2.0)
    assert {ended.file for ended in found} == {p.name for p in zoo.folder.glob("*.npz")}


def test_interrupted_work_continues_with_what_is_missing(zoo, monkeypatch):
    asked = _fake(monkeypatch)
    first = zoo.train(NETS[:2])
    (zoo.folder / first[0].file).unlink()
    again = zoo.train(NETS)
    assert again[:2] == first
    assert [name for name, _ in asked] == ["train-0", "train-1", "train-0", "train-2"]
    with pytest.raises(ValueError, match="holds another evaluation .steps: there 2, now 3"):
        dataclasses.replace(zoo, steps=3).train(NETS)


def test_what_diverges_is_noted_and_the_others_go_on(zoo, monkeypatch):
    asked = _fake(monkeypatch, diverges=("train-1",))
    found = zoo.train(NETS, at_once=2)
    assert [ended.diverged_at for ended in found] == [None, 1, None]
    assert [bool(ended.file) for ended in found] == [True, False, True]
    assert len(open_store(zoo.folder)) == 2 and "train-1" not in str(list(zoo.folder.glob("*.npz")))
    zoo.train(NETS)
    assert len(asked) == 3 and (zoo.folder / INDEX).exists()


def test_training_is_that_of_fit(zoo):
    """A real step from the library, and a rate at which it diverges."""
    (good,) = zoo.train(NETS[:1])
    assert good.diverged_at is None and 0 <= good.accuracy <= 1
    wild = dataclasses.replace(
        zoo, folder=zoo.folder / "wild", recipe=dataclasses.replace(zoo.recipe, learning_rate=1e30)
    )
    (bad,) = wild.train(NETS[:1])
    assert bad.diverged_at is not None and not list(wild.folder.glob("*.npz"))


def test_bad_input(zoo):
    hand_made = EvalNet("predefined", 0, None, "resnet50", 3, 32)
    with pytest.raises(ValueError, match="received 0 networks"):
        zoo.train([])
    with pytest.raises(ValueError, match="hand-made: resnet50"):
        zoo.train([hand_made])
    with pytest.raises(ValueError, match="seeds=0"):
        zoo.train(NETS, seeds=0)
