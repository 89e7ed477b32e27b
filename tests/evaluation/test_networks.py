"""Which networks a split name stands for."""

import dataclasses

import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.executor.layout import Variant


def test_split_networks_are_those_of_the_sampler():
    nets = evaluation.choose_networks("val", 3)
    assert [net.index for net in nets] == [0, 1, 2]
    assert all(net.config == arch_at("val", net.index) for net in nets)
    assert nets[0].name == "val-0" and nets[0].plan.num_params >= 2_000_000


def test_networks_by_index_and_predefined():
    (net,) = evaluation.choose_networks("wide", indices=[7])
    assert (net.split, net.index, net.config) == ("wide", 7, arch_at("wide", 7))
    resnet, vit = evaluation.choose_networks("predefined")
    assert resnet.name == "resnet50" and resnet.plan is None and resnet.variant is None
    assert vit.plan.num_params == 1_012_234 and vit.variant == Variant(11, 1, 128, True)


def test_few_variants_take_the_most_frequent():
    nets = evaluation.choose_networks("test", 6, max_variants=2)
    assert len(nets) == 6 and len({net.variant for net in nets}) <= 2


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("tset", {}, r"split must be one of train, val, .*predefined.*, received 'tset'"),
        ("predefined", {"indices": [2]}, r"has networks 0\.\.1, received \[2\]"),
        ("test", {"indices": [500]}, r"has networks 0\.\.499, received \[500\]"),
        ("wide", {"num": 101}, r"has 100 networks, received num=101"),
        ("wide", {"num": 0}, r"num must be at least 1"),
        ("wide", {"num": 1, "indices": [0]}, r"not both"),
    ],
)
def test_wrong_networks_are_refused_with_the_choices(split, options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.choose_networks(split, **options)


def test_networks_of_a_file(tmp_path):
    from ppuda_jax.archs.hdf5 import SplitWriter

    path = tmp_path / "nets.hdf5"
    config = arch_at("val", 0)
    with SplitWriter(str(path)) as writer:
        adjacency, nodes = np.triu(np.ones((2, 2), np.uint8), 1), np.zeros((2, 3), np.uint16)
        writer.write_split("val", iter([(config.to_dict(), adjacency, nodes)]))
    (net,) = evaluation.choose_networks(str(path))
    assert (net.split, net.index, net.config) == ("val", 0, config)
    with pytest.raises(ValueError, match=r"has the splits val, received 'test'"):
        evaluation.choose_networks(f"{path}:test")
    with pytest.raises(FileNotFoundError, match="which is missing"):
        evaluation.choose_networks("nowhere.hdf5")


def test_fewer_networks_than_asked_for_are_not_given_without_a_word():
    with pytest.raises(
        ValueError, match=r"\d+ have one of its 1 most .*received num=95: .*max_var"
    ):
        evaluation.choose_networks("wide", 95, max_variants=1)
    some = evaluation.choose_networks("wide", indices=range(20), max_variants=1)
    assert 0 < len(some) < 20  # all that there are
    with pytest.raises(ValueError, match="max_variants must be at least 1, received 0"):
        evaluation.choose_networks("wide", 1, max_variants=0)


def test_fingerprints_tell_networks_apart_that_differ_in_anything():
    (net,) = evaluation.choose_networks("wide", 1)
    same = dataclasses.replace(net, config=arch_at("wide", 0))
    assert same.fingerprint == net.fingerprint
    config = net.config
    others = [
        dataclasses.replace(net, config=dataclasses.replace(config, C=config.C + 16)),
        dataclasses.replace(net, config=dataclasses.replace(config, fc_dim=config.fc_dim + 1)),
        dataclasses.replace(net, config=arch_at("wide", 1)),
        dataclasses.replace(net, num_classes=100),
        dataclasses.replace(net, image_size=224),
        *evaluation.choose_networks("predefined"),
    ]
    assert len({other.fingerprint for other in [net, *others]}) == 1 + len(others)


def test_networks_of_another_width():
    own = evaluation.choose_networks("val", 3)
    narrow = evaluation.choose_networks("val", 3, channels=32)
    assert [net.config.C for net in narrow] == [32] * 3
    assert [dataclasses.replace(net.config, C=32) for net in own] == [n.config for n in narrow]
    with pytest.raises(ValueError, match="resnet50 is a hand-made model"):
        evaluation.choose_networks("predefined", channels=32)
    with pytest.raises(ValueError, match="C must be a positive even number, received 0"):
        evaluation.choose_networks("val", 1, channels=0)
