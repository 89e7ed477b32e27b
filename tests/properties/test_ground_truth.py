"""Networks are trained once, measured as `fit` and `accuracy` say, and named if they fail."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.evaluation.runners import UnfitError
from ppuda_jax.finetune.deepnets import on_host
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.properties import ground_truth as truth
from ppuda_jax.properties.ground_truth import NEVER, Images, Measured, ground_truth, targets

RECIPE = Recipe(batch_size=8, learning_rate=0.1)


@pytest.fixture(scope="module")
def measured(nets, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    return ground_truth(nets, images, RECIPE, steps=6, every=2, results_path=path), path


def test_measures_what_training_gives(measured, nets, images):
    network = on_host(nets[1], 8)
    start = network.pack(network.initial(0))
    curve = fit(network, start, images.train, images.learned, RECIPE, steps=6, every=2)
    found = measured[0][1]
    np.testing.assert_allclose([p[1] for p in found.curve["points"]], curve.accuracy, atol=1e-6)
    assert [p[0] for p in found.curve["points"]] == [0, 2, 4, 6]
    for name, held_out in (("clean", images.clean), ("noisy", images.noisy)):
        sums = [
            network.score(curve.params, (), b.images, b.labels, b.weights) for b in held_out.batches
        ]
        want = float(np.sum(jax.device_get(sums), axis=0)[0]) / 16
        assert getattr(found, f"{name}_accuracy") == pytest.approx(want)
    assert 0 < found.inference_time < 10 and found.num_params == nets[1].plan.num_params


def test_continues_and_refuses_another_budget(measured, nets, images, monkeypatch):
    found, path = measured
    monkeypatch.setattr(truth, "fit", None)  # nothing is trained again
    assert ground_truth(nets, images, RECIPE, steps=6, every=2, results_path=path) == found
    with pytest.raises(ValueError, match=r"another evaluation .*steps: there 6, now 7"):
        ground_truth(nets, images, RECIPE, steps=7, every=2, results_path=path)


def test_names_what_fails_and_goes_on(nets, images, tmp_path, monkeypatch):
    path = tmp_path / "truth.jsonl"
    wild = dataclasses.replace(RECIPE, learning_rate=1e30)
    found = ground_truth(nets[:1], images, wild, steps=4, every=1, results_path=path)
    assert "not finite" in found[0].failure and found[0].clean_accuracy is None
    assert len(path.read_text().splitlines()) == 2

    def best_way(net, *options):
        if net.index == 0:
            raise UnfitError("too large\nfor this machine")
        return on_host(net, 8)

    monkeypatch.setattr(truth, "best_way", best_way)
    path = tmp_path / "other.jsonl"
    found = ground_truth(nets, images, RECIPE, steps=2, results_path=path)
    assert [m.failure for m in found] == ["too large", ""]
    assert len(path.read_text().splitlines()) == 2  # what may work elsewhere is not kept


def _with_curve(*accuracy):
    points = [[step, value, 1.0, None, 0.0] for step, value in enumerate(accuracy)]
    curve = {"points": points, "diverged_at": None}
    return Measured("val", 0, "", 10, 0.5, 0.25, 0.03, curve)


def test_properties_in_their_units():
    pool = [_with_curve(0.1, 0.5, 0.9), _with_curve(0.1, 0.2, 0.3)]
    np.testing.assert_allclose(targets("convergence", pool, 0.5), [0.5, NEVER])
    np.testing.assert_allclose(targets("convergence", pool, 0.7), [0.75, NEVER])
    np.testing.assert_allclose(targets("clean_accuracy", pool, 0.5), [50, 50])
    np.testing.assert_allclose(targets("inference_time", pool, 0.5), [30, 30])
    assert truth.reached_by([*pool, *pool], 0.75) == 0.3
    assert truth.reached_by([*pool, *pool], 0.5) == 0.3
    with pytest.raises(ValueError, match=r"must be one of clean_accuracy, .*received 'speed'"):
        targets("speed", pool, 0.5)
    with pytest.raises(ValueError, match=r"leave \['val-0'\] out"):
        targets("clean_accuracy", [dataclasses.replace(pool[0], failure="no")], 0.5)
    with pytest.raises(ValueError, match="no network was trained"):
        truth.reached_by([])


def test_noise_is_where_it_belongs(images):
    with pytest.raises(ValueError, match=r"received standard deviations 0\.0 and 0\.3"):
        Images(images.train, images.learned, images.noisy, images.clean)
