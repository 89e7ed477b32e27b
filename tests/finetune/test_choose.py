"""Networks by what people call them."""

import json

import pytest

from ppuda_jax.archs.genotypes import DARTS, PDARTS
from ppuda_jax.evaluation.networks import choose_networks
from ppuda_jax.finetune import choose as module
from ppuda_jax.finetune.choose import choose
from ppuda_jax.finetune.recipe import FULL, LONG
from ppuda_jax.nets.zoo import build_model


@pytest.fixture
def chosen(monkeypatch):
    """What would be trained, without the functions that train it."""
    seen = []

    def best_way(net, recipe):
        seen.append(net)
        return net

    monkeypatch.setattr(module, "best_way", best_way)

    def call(recipe=FULL, **options):
        return choose(recipe, 10, 32, **options).network

    return call


def test_a_network_of_a_split(chosen):
    assert chosen(split="test", index=3) == choose_networks("test", indices=(3,))[0]


@pytest.mark.parametrize("name,genotype", [("darts", DARTS), ("pdarts", PDARTS)])
def test_cells_of_searches(chosen, name, genotype):
    net = chosen(model=name)
    assert net.config.genotype == genotype and net.plan == build_model(name).plan
    small = chosen(LONG, model=name, cells=8, channels=16)
    assert (small.config.n_cells, small.config.C) == (8, 16)


def test_a_genotype_file(chosen, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DARTS.to_dict()))
    net = chosen(model=str(path))
    assert (net.config.n_cells, net.config.C, net.split) == (20, 36, "mine")
    record = choose_networks("test", indices=(1,))[0].config
    path.write_text(json.dumps(record.to_dict()))
    assert chosen(model=str(path)).config == record
    assert chosen(model=str(path), channels=48).config.C == 48


def test_a_model_of_ones_own():
    found = choose(FULL, 10, 32, model="experiments.own_network:build")
    assert found.module is not None and found.network.graph is not None


@pytest.mark.parametrize(
    "options,message",
    [
        ({}, "give model or split, received model=None and split=None"),
        ({"model": "vit", "split": "test"}, "give model or split"),
        ({"model": "vitt"}, "model must be one of .*received 'vitt'"),
        ({"split": "test", "index": 500}, r"has networks 0..499, received \[500\]"),
        ({"split": "test", "cells": 3}, "cells and channels are of networks that a genotype"),
        ({"model": "resnet18", "channels": 8}, "describes, not of resnet18"),
        ({"model": "resnet18", "recipe": LONG}, "drop_path and auxiliary .* not of resnet18"),
        ({"split": "predefined", "recipe": LONG}, "drop_path and auxiliary .* not of resnet50"),
        ({"model": "{}.json"}, "No such file"),
    ],
)
def test_what_does_not_exist(chosen, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        chosen(**options)


@pytest.mark.parametrize("text,message", [("{", "is no JSON"), ("[1]", "a genotype or a record")])
def test_files_that_are_no_genotypes(chosen, tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        chosen(model=str(path))
