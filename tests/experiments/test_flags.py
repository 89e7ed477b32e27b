"""Flags made from a configuration."""

import pytest
from absl import flags

from experiments import flags as config_flags
from experiments.configs import RECIPES, recipe
from ppuda_jax.training.config import TrainConfig


def parsed(*arguments):
    values = flags.FlagValues()
    names = config_flags.define(TrainConfig, flag_values=values)
    values(["program", *arguments])
    return names, values


def test_every_field_is_a_flag_with_a_help_text():
    names, values = parsed()
    assert set(names) == set(TrainConfig.__dataclass_fields__)
    assert all(len(values[name].help) > 10 for name in names)


def test_only_given_flags_change_the_configuration():
    names, values = parsed("--steps=50", "--lr_milestones=0.5,0.9", "--time_limit_s=none")
    base = TrainConfig(time_limit_s=9.0, learning_rate=0.5)
    changed = config_flags.apply(base, names, values)
    assert (changed.steps, changed.lr_milestones, changed.time_limit_s) == (50, (0.5, 0.9), None)
    assert changed.learning_rate == 0.5


def test_a_boolean_field_needs_no_value():
    for arguments, expected in ((("--stratified",), True), (("--nostratified",), False)):
        names, values = parsed(*arguments)
        base = TrainConfig(stratified=not expected)
        assert config_flags.apply(base, names, values).stratified is expected


def test_a_wrong_value_names_the_field():
    names, values = parsed("--steps=many")
    with pytest.raises(ValueError, match="TrainConfig.steps: expected int, received 'many'"):
        config_flags.apply(TrainConfig(), names, values)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_for_their_dataset(name):
    assert recipe(name).dataset == name


def test_unknown_recipe():
    with pytest.raises(ValueError, match="dataset must be one of"):
        recipe("mnist")
