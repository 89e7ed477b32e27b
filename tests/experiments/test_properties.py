"""The script of property prediction: what it measures, prints and writes."""

import json

import numpy as np
import pytest

from experiments import properties
from experiments.properties import PropertiesConfig
from ppuda_jax.properties import ground_truth as truth
from ppuda_jax.properties.ground_truth import Measured

OPTIONS = {
    "dataset": "digits",
    "num_nets": 12,
    "folds": 2,
    "divisions": 2,
    "regressors": ("ridge",),
}


@pytest.fixture
def measured(monkeypatch):
    """In place of training: networks with more parameters are better, the second one fails."""
    asked = {}

    def ground_truth(nets, images, recipe, *, results_path, progress, **options):
        asked.update(options, nets=nets, images=images, path=results_path)
        found = []
        for number, net in enumerate(nets):
            value = min(1.0, np.log10(net.plan.num_params) / 8)
            points = [[0, 0.1, 2.0, None, 0.0], [10, 0.1 + 0.9 * value, 1.0, 1.0, 1.0]]
            curve = {"points": points, "diverged_at": None}
            failure = "too large" if number == 1 else ""
            numbers = (value, value / 2, 0.001 * (1 + number))
            key = (net.split, net.index, net.fingerprint)
            found.append(Measured(*key, net.plan.num_params, *numbers, curve, failure))
            progress(number + 1, len(nets), found[-1])
        return tuple(found)

    monkeypatch.setattr(truth, "ground_truth", ground_truth)
    return asked


def test_table_and_file(measured, tmp_path, capsys):
    arguments = [f"--{name}={value}" for name, value in OPTIONS.items() if name != "regressors"]
    arguments += ["--regressors=ridge", f"--output={tmp_path}", "--compilation_cache=none"]
    properties.main(arguments)
    printed = capsys.readouterr()
    assert "is left out: too large" in printed.err and "is left out: too large" in printed.out
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(table["kendall"]) == list(truth.PROPERTIES)
    models = ["ghn2-cifar10, ridge", "untrained, ridge", "params, ridge", "params, as it is"]
    assert list(table["kendall"]["clean_accuracy"]) == models
    assert table["kendall"]["clean_accuracy"]["params, as it is"] == pytest.approx(1.0)
    assert table["networks"] == 11 and len(table["failed"]) == 1
    assert all(np.isfinite(v) for row in table["kendall"].values() for v in row.values())
    assert {net.config.C for net in measured["nets"]} == {32}
    assert measured["path"] == tmp_path / "ground_truth.jsonl"
    images = measured["images"]
    assert (images.clean.noise, images.noisy.noise) == (0.0, 0.08)
    assert images.learned.part == "train" and images.clean.part == "val"


def test_a_property_that_does_not_vary(measured):
    options = PropertiesConfig(**OPTIONS, target=1.0, compilation_cache=None)
    with pytest.raises(ValueError, match=r"convergence is 2 .* for all 11 networks.*leave it out"):
        properties.run(options)
    rest = PropertiesConfig(
        **OPTIONS, target=1.0, properties=("clean_accuracy",), untrained=2, compilation_cache=None
    )
    assert "untrained 1" in properties.run(rest)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"properties": ("speed",)}, r"some of clean_accuracy, noisy_.* received \('speed',\)"),
        ({"regressors": ()}, "regressors must be some of svr, ridge, gp"),
        ({"checkpoint": ()}, "at least one checkpoint"),
        ({"target": 0.0}, r"target must lie in \(0, 1\], received 0.0"),
        ({"steps": 0}, "steps must be at least 1, received 0"),
        ({"num_nets": 7}, "a pool of 7 networks is too small: .* take more networks"),
        ({"split": "valid"}, "split must be one of train, val"),
        ({"divisions": 1}, "divisions must be at least 2"),
    ],
)
def test_refuses_before_anything_is_trained(change, message, monkeypatch):
    monkeypatch.setattr(truth, "ground_truth", None)
    with pytest.raises(ValueError, match=message):
        properties.run(PropertiesConfig(**{**OPTIONS, "compilation_cache": None, **change}))
