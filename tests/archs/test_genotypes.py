"""Genotypes and network records: constants, round trips, and what is refused."""

import collections
import dataclasses
import json
import types

import numpy as np
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


Usual = collections.namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
FORMS = {
    "namedtuple": lambda g: Usual(list(g.normal), range(2, 2 + g.steps), list(g.reduce), [2, 3]),
    "namedtuple in another order": lambda g: collections.namedtuple(
        "Cells", "reduce reduce_concat normal normal_concat"
    )(g.reduce, [2, 3], g.normal, list(g.normal_concat)),
    "object": lambda g: types.SimpleNamespace(
        normal=g.normal, normal_concat=g.normal_concat, reduce=g.reduce, reduce_concat=(2, 3)
    ),
    "mapping": lambda g: {**g.to_dict(), "reduce_concat": range(2, 4)},
    "numpy numbers": lambda g: Usual(
        [(op, np.int64(state)) for op, state in g.normal],
        np.array(g.normal_concat),
        [(np.str_(op), state) for op, state in g.reduce],
        np.arange(2, 4),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_a_genotype_is_taken(form):
    genotype = dataclasses.replace(DARTS, reduce_concat=(2, 3))
    given = FORMS[form](genotype)
    assert NetConfig.from_dict({"genotype": given, "n_cells": 4, "C": 32}).genotype == genotype
    config = NetConfig(given, 4, 32)
    assert config.genotype == genotype and hash(config) == hash(NetConfig(genotype, 4, 32))
    assert json.loads(json.dumps(config.to_dict()))["genotype"] == genotype.to_dict()
    assert dataclasses.replace(config, genotype=given) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("DARTS", "a genotype must be a mapping or an object with the fields .*, received str"),
        (None, "received NoneType"),
        (Usual, "received type"),
        (collections.namedtuple("Genotype", "normal reduce")([], []), "received Genotype"),
        (DARTS.to_dict() | {"normal": [("conv_1x1",)]}, "normal must be pairs"),
        (DARTS.to_dict() | {"normal": 3}, "normal must be pairs"),
        (DARTS.to_dict() | {"normal": [("conv_1x1", 0.5)] * 2}, "normal must be pairs"),
        (DARTS.to_dict() | {"reduce_concat": ["2"]}, "reduce_concat must be numbers of states"),
    ],
)
def test_what_is_no_genotype_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        NetConfig(given, 4, 32)
    with pytest.raises(ValueError, match=message):
        NetConfig.from_dict({"genotype": given, "n_cells": 4, "C": 32})


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm", 1), ("C", "32"), ("C", 32.5), ("n_cells", None), ("glob_avg", "yes"), ("ks", [3])],
)
def test_fields_of_another_type_are_named(field, value):
    with pytest.raises(ValueError, match=rf"NetConfig\.{field}: expected"):
        NetConfig(**{"genotype": VIT, "n_cells": 4, "C": 32, field: value})


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
