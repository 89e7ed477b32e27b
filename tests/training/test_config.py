"""The recipe and its schedule."""

import dataclasses

import pytest

from ppuda_jax.training.config import TrainConfig, learning_rate


def test_published_run_has_300_epochs_of_704_steps():
    assert TrainConfig().total_steps(45_000) == 211_200


def test_steps_are_rounded_up_to_whole_dispatches():
    assert TrainConfig(steps=10, steps_per_dispatch=4).total_steps(45_000) == 12


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-3), (199, 1e-3), (200, 1e-4), (249, 1e-4), (250, 1e-5), (299, 1e-5)]
)
def test_rate_drops_at_the_published_epochs(epoch, rate):
    assert learning_rate(TrainConfig(), epoch / 300) == pytest.approx(rate)


def test_cosine_with_warm_up():
    config = TrainConfig(lr_schedule="cosine", lr_warmup=0.1)
    assert learning_rate(config, 0.05) == pytest.approx(0.5e-3)
    assert learning_rate(config, 0.1) == pytest.approx(1e-3)
    assert learning_rate(config, 0.55) == pytest.approx(0.5e-3)
    assert learning_rate(config, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "TrainConfig.batch_size must be above zero, received 0"),
        ({"steps": -1}, "steps must be above zero"),
        ({"weight_decay": -1.0}, "must not be negative"),
        ({"lr_milestones": (0.8, 0.2)}, "rising fractions"),
        ({"lr_milestones": (200.0,)}, "between 0 and 1"),
        ({"lr_warmup": 1.0}, "fraction of the run"),
        ({"arch_workers": -1}, "must not be negative"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TrainConfig(), **changes)
