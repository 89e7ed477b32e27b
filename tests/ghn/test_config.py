"""GHNConfig: presets, validation, dictionary form."""

import dataclasses

import pytest

from ppuda_jax.ghn.config import PRESETS, GHNConfig, ghn1_cifar10, ghn2_cifar10


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_the_dictionary_form(name):
    config = PRESETS[name]()
    assert GHNConfig.from_dict(config.to_dict()) == config
    assert config.num_classes == (1000 if "imagenet" in name else 10)
    assert config.max_shape[2] == (16 if "imagenet" in name else 11)


def test_ghn1_has_none_of_the_additions_of_ghn2():
    first, second = ghn1_cifar10(), ghn2_cifar10()
    assert not (first.uses_virtual_edges or first.layernorm or first.weight_norm)
    assert second.uses_virtual_edges and second.layernorm and second.weight_norm


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("hypernet", "gcn", "hypernet: expected one of gatedgnn, mlp"),
        ("decoder", "rnn", "decoder: expected one of conv, mlp"),
        ("max_shape", (64, 64, 11), "expected 4 values, received 3"),
        ("max_shape", (64, 32, 11, 11), "square"),
        ("hid", 30, "multiple of 4"),
        ("num_classes", 0, "positive"),
        ("virtual_edges", 51, "0..50"),
    ],
)
def test_invalid_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ghn2_cifar10(), **{field: value})


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"unknown GHNConfig keys \['heads'\]"):
        GHNConfig.from_dict({"heads": 8})
