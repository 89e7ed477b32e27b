"""When two sessions belong to one run."""

import dataclasses
import json

import pytest

from ppuda_jax import config
from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.task import refuse_other_images, refuse_other_run
from tests.training import toy

FREE = {
    "data_dir",
    "steps",
    "epochs",
    "time_limit_s",
    "change_length",
    "session_limit_s",
    "arch_workers",
    "num_devices",
    "driver",
    "compile_threads",
    "compile_ahead",
    "compilation_cache",
    "workdir",
    "checkpoint_every",
    "log_every",
    "eval_every",
    "max_nonfinite",
    "max_variants",
    "variant_balance",
}
LENGTH = {"steps", "epochs", "time_limit_s"}
OTHER = {
    "driver": "executor",
    "flip": True,
    "image_size": 224,
    "dataset": "cifar10",
    "model": "mlp",
    "lr_schedule": "cosine",
    "lr_milestones": (0.1, 0.2),
    "compute_dtype": "bfloat16",
    "average_decay": 0.5,
    "lr_warmup": 0.25,
    "lr_drop": 0.5,
    "label_smoothing": 0.1,
    "bnfree_share": 0.5,
    "variant_balance": 0.5,
    "teacher_terms": ("norm:0.1",),
    "teacher_held_out": 0.5,
}
# What else has to change with a field.
WITH = {"teacher": {"teacher_terms": ("task:1",)}}


def changed(field):
    """Settings of a run with another value of one field."""
    base = toy.settings()
    value = getattr(base, field)
    if field in OTHER:
        value = OTHER[field]
    elif isinstance(value, bool):
        value = not value
    elif isinstance(value, int | float):
        value += 1
    elif config.field_types(TrainConfig)[field] == str | None:
        value = "elsewhere"
    else:
        value = 3
    assert value != getattr(base, field)
    return dataclasses.replace(base, **{field: value, **WITH.get(field, {})})


@pytest.mark.parametrize("field", sorted(FREE - LENGTH))
def test_how_a_run_is_watched_may_change(field):
    refuse_other_run(changed(field), config.to_dict(toy.settings()), "run")


@pytest.mark.parametrize("field", sorted(config.field_types(TrainConfig).keys() - FREE))
def test_what_is_computed_may_not(field):
    with pytest.raises(ValueError, match=f"run belongs to another run.*{field}: there"):
        refuse_other_run(changed(field), config.to_dict(toy.settings()), "run")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"steps": 24}, {"steps": 48}),
        ({"steps": 24}, {"steps": 12}),
        ({"steps": None}, {"steps": None, "epochs": 600}),
        ({"time_limit_s": 9.0}, {"time_limit_s": 99.0}),
        ({}, {"time_limit_s": 9.0}),
        ({"lr_schedule": "cosine"}, {"lr_schedule": "cosine", "steps": 48}),
        ({"lr_schedule": "constant", "lr_warmup": 0.1}, {"steps": 48}),
    ],
)
def test_another_length_must_be_asked_for(before, after):
    """The rate follows the fraction that is done: twice the steps raise it at once."""
    saved = config.to_dict(toy.settings(**before))
    now = toy.settings(**(before | after))
    with pytest.raises(ValueError, match="received (steps|epochs)=.*started with.*change_length"):
        refuse_other_run(now, saved, "run")
    refuse_other_run(dataclasses.replace(now, change_length=True), saved, "run")


def test_a_constant_rate_has_no_length():
    saved = config.to_dict(toy.settings(lr_schedule="constant"))
    refuse_other_run(toy.settings(lr_schedule="constant", steps=99, time_limit_s=1), saved, "run")


def test_epochs_do_not_count_beside_steps():
    refuse_other_run(toy.settings(epochs=7), config.to_dict(toy.settings()), "run")


def test_unknown_saved_settings_are_named():
    saved = {**config.to_dict(toy.settings()), "momentum": 0.9}
    with pytest.raises(ValueError, match=r"momentum: there 0\.9, now None"):
        refuse_other_run(toy.settings(), saved, "run")


def test_settings_newer_than_the_run_had_their_default():
    saved = config.to_dict(toy.settings())
    del saved["stratified"], saved["grad_clip"]
    refuse_other_run(toy.settings(), saved, "run")
    with pytest.raises(ValueError, match="stratified: there False, now True"):
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
