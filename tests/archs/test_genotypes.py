"""Genotypes and network records: constants, round trips, and what is refused."""

import json

import pytest
from hypothesis import given, settings

from ppuda_jax.archs.genotypes import DARTS, PDARTS, VIT, VIT_CONFIG, Genotype, NetConfig
from tests.archs.strategies import archs

RECORD = {"genotype": VIT.to_dict(), "n_cells": 4, "C": 32}


@pytest.mark.parametrize("genotype", [DARTS, PDARTS, VIT])
def test_constants_survive_json(genotype):
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@settings(max_examples=30, deadline=None)
@given(archs())
def test_records_survive_json(config):
    assert NetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    hash(config)


def test_defaults_are_those_of_the_reference():
    config = NetConfig.from_dict({**RECORD, "num_nodes": 3, "num_params": {}})
    assert (config.C_mult, config.ks, config.norm, config.preproc) == (2, 3, "bnorm", True)
    assert config.reduction_cells == (1, 2)
    assert VIT_CONFIG.is_vit and not NetConfig(DARTS, 2, 32).is_vit
    assert NetConfig(DARTS, 2, 32).reduction_cells == (1,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, "unknown \\['width'\\]"),
        ({"C": None}, "missing \\['C'\\]"),
        ({"C": 33}, "C must be a positive even number, received 33"),
        ({"norm": "bn-track"}, "norm must be 'bnorm' or None, received 'bn-track'"),
        ({"norm": "gn"}, "norm must be"),
        ({"ks": 4}, "ks must be odd"),
        ({"stem_type": 2}, "stem_type must be 0"),
        ({"preproc": False}, "preproc must be True"),
        ({"genotype": "DARTS"}, "genotype must be a mapping"),
        ({"fc_layers": 2, "fc_dim": 0}, "fc_dim must be positive"),
    ],
)
def test_records_are_refused(change, message):
    record = {k: v for k, v in {**RECORD, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        NetConfig.from_dict(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal": [["none", 0]]}, "two edges per step, received 1"),
        ({"normal": [["conv_9x9", 0], ["none", 1]]}, "received 'conv_9x9'"),
        ({"normal": [["none", 0], ["none", 2]]}, "state below 2, received 2"),
        ({"normal_concat": [3]}, "normal_concat must name"),
        ({"normal_concat": []}, "normal_concat must name"),
        ({"extra": 1}, "unknown \\['extra'\\]"),
    ],
)
def test_genotypes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Genotype.from_dict({**VIT.to_dict(), **change})


def test_norm_none_and_names_of_batch_norm():
    assert NetConfig(DARTS, 4, 32, norm="none").norm is None
    assert NetConfig(DARTS, 4, 32, norm="bn").norm == "bnorm"
