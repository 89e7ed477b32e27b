"""When two sessions belong to one run."""

import dataclasses
import json

import pytest

from ppuda_jax import config
from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.training.task import refuse_other_images, refuse_other_run
from tests.training import toy


def test_watching_and_length_may_change():
    saved = config.to_dict(toy.settings())
    now = toy.settings(steps=99, log_every=1, workdir="elsewhere", num_devices=4, time_limit_s=3.0)
    refuse_other_run(now, saved, "run")


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 8}, {"steps_per_dispatch": 3}])
def test_what_is_computed_may_not(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"run belongs to another run.*{name}: saved"):
        refuse_other_run(toy.settings(**change), config.to_dict(toy.settings()), "run")


def test_unknown_saved_settings_are_named():
    saved = {**config.to_dict(toy.settings()), "momentum": 0.9}
    with pytest.raises(ValueError, match=r"momentum: saved 0\.9, now None"):
        refuse_other_run(toy.settings(), saved, "run")


def test_settings_newer_than_the_run_had_their_default():
    saved = config.to_dict(toy.settings())
    del saved["stratified"], saved["grad_clip"]
    refuse_other_run(toy.settings(), saved, "run")
    with pytest.raises(ValueError, match="stratified: saved False, now True"):
        refuse_other_run(toy.settings(stratified=True), saved, "run")


def test_a_run_goes_on_with_its_own_images():
    saved = json.loads(json.dumps(PUBLISHED["digits"].to_metadata()))
    refuse_other_images(PUBLISHED["digits"].to_metadata(), saved, "run")
    refuse_other_images({"dataset": "toy"}, saved, "run")
    old = {"dataset": "digits", "num_classes": 10, "image_size": 32}
    refuse_other_images(PUBLISHED["digits"].to_metadata(), old, "run")
    for change in ({"fingerprint": "x"}, {"mean": (0.0, 0.0, 0.0)}, {"flip": True}):
        now = dataclasses.replace(PUBLISHED["digits"], **change).to_metadata()
        with pytest.raises(
            ValueError, match=f"run was trained on other images.*{next(iter(change))}"
        ):
            refuse_other_images(now, saved, "run")
