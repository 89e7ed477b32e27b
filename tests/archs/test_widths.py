"""Widths: parameter counts of the reference, and the rules for training and evaluation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from ppuda_jax.archs.genotypes import DARTS, VIT_CONFIG, Genotype, NetConfig
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.archs.widths import (
    CHANNELS,
    HIDDEN,
    count_params,
    evaluation_width,
    has_large_conv,
    training_width,
)
from tests.archs.strategies import archs
from tests.reference import DEEPNETS_SPLITS, deepnets_records, needs_reference


@needs_reference
@pytest.mark.parametrize("split", DEEPNETS_SPLITS)
def test_counts_are_those_of_the_reference(split):
    for record in deepnets_records(split):
        config = NetConfig.from_dict(record, C=32)
        counts = {"cifar10": count_params(config), "imagenet": count_params(config, 10, 224)}
        assert counts == record["num_params"]


@settings(max_examples=40, deadline=None)
@given(archs())
def test_counts_include_what_the_plan_leaves_out(config):
    assert make_plan(config).num_params <= count_params(config)


def test_counts_equal_the_plan_without_dead_parts():
    for config in (VIT_CONFIG, NetConfig(DARTS, 6, 32, stem_type=1, glob_avg=False)):
        for classes, size in ((10, 32), (1000, 224)):
            plan = make_plan(config, classes, size)
            assert plan.num_params == count_params(config, classes, size)


def test_evaluation_width_is_the_smallest_that_suffices():
    for index in range(30):
        config = arch_at("test", index)
        assert config.C % 16 == 0 and config.C >= 32
        assert count_params(config) >= 2_500_000
        if config.C > 32:
            assert count_params(dataclasses.replace(config, C=config.C - 16)) < 2_500_000


def test_networks_that_cannot_grow_are_refused():
    pools = (("max_pool_3x3", 0), ("avg_pool_3x3", 1))
    config = NetConfig(Genotype(pools, (2,), pools, (2,)), 4, 32, preproc=False, C_mult=1)
    with pytest.raises(ValueError, match="set C by hand"):
        evaluation_width(config)


def test_training_widths_follow_the_rule():
    rng = np.random.default_rng(0)
    seen = set()
    for index in range(300):
        base = dataclasses.replace(arch_at("train", index), C=32, fc_dim=256)
        config = training_width(base, rng.random)
        millions = count_params(base) / 1e6
        assert config.C in CHANNELS and config.fc_dim in HIDDEN
        assert config.fc_dim <= 256 or (config.C <= 64 and millions <= 0.2)
        heavy = millions > 0.8 or not base.glob_avg or has_large_conv(base.genotype)
        if heavy or base.n_cells > 12:
            assert config.C == 32
        elif millions > 0.4 or base.n_cells > 10:
            assert config.C <= 48
        elif millions > 0.2 or base.n_cells > 8:
            assert config.C <= 64
        seen.add(config.C)
    assert seen == set(CHANNELS)


def test_wide_networks_are_multiplied():
    for index in range(5):
        small, large = arch_at("wide", index, 32), arch_at("wide", index, 224)
        assert small.C == 2 * large.C == 4 * evaluation_width(small)


# (millions of parameters at width 32, cells, global pooling, large convolutions) -> how many of
# the widths may be drawn, and whether wide hidden layers may; published thresholds 0.2, 0.4, 0.8
# million and 8, 10, 12 cells, each excluded from the class below it.
PUBLISHED_RULE = [
    (0.10, 8, True, False, 7, True),
    (0.20, 8, True, False, 7, True),
    (0.21, 8, True, False, 3, False),
    (0.10, 9, True, False, 3, False),
    (0.40, 10, True, False, 3, False),
    (0.41, 8, True, False, 2, False),
    (0.10, 11, True, False, 2, False),
    (0.80, 12, True, False, 2, False),
    (0.81, 8, True, False, 1, False),
    (0.89, 4, True, False, 1, False),
    (0.10, 13, True, False, 1, False),
    (0.10, 8, False, False, 1, False),
    (0.10, 8, True, True, 1, False),
]


@pytest.mark.parametrize(("millions", "cells", "pool", "large", "widths", "wide"), PUBLISHED_RULE)
def test_the_published_rule(monkeypatch, millions, cells, pool, large, widths, wide):
    monkeypatch.setattr("ppuda_jax.archs.widths.count_params", lambda *_, **__: int(1e6 * millions))
    op = "conv_7x7" if large else "conv_1x1"
    cell = ((op, 0), ("skip_connect", 1))
    config = NetConfig(Genotype(cell, (2,), cell, (2,)), cells, 64, glob_avg=pool)
    draws = [(a, b, c) for a in (0.0, 0.99) for b in np.arange(0.5, 84) / 84 for c in (0.0, 0.99)]
    drawn = [training_width(config, iter(draw).__next__) for draw in draws]
    assert {net.C for net in drawn} == {32, 48, 64, 80, 96, 112, 128} & set(CHANNELS[:widths])
    assert all(net.fc_dim <= 256 or (wide and net.C <= 64) for net in drawn)
    assert any(net.fc_dim > 256 for net in drawn) == wide
    counts = [sum(width == net.C for net in drawn) for width in CHANNELS[:widths]]
    assert max(counts) <= 1.1 * min(counts)  # every width is as likely as the others
