"""The table of splits: published ranges, own seeds, no shared part of the space."""

import pytest

from ppuda_jax.archs.sampling import arch_at, fingerprint, sample_base
from ppuda_jax.archs.splits import FINGERPRINT_PARTS, SPLITS, get_split


def test_splits_share_neither_seed_nor_part():
    assert len({split.seed for split in SPLITS.values()}) == len(SPLITS)
    owned = [part for split in SPLITS.values() for part in range(*split.parts)]
    assert sorted(owned) == list(range(FINGERPRINT_PARTS))


@pytest.mark.parametrize("name", SPLITS)
def test_architectures_obey_their_split(name):
    split = get_split(name)
    assert split.name == name
    for index in range(40):
        config = arch_at(name, index)
        assert split.cells[0] <= config.n_cells <= split.cells[1]
        steps = len(config.genotype.normal) // 2
        assert split.min_steps <= steps <= split.max_steps
        if config.n_cells > max(split.deep_from):
            assert steps <= split.max_steps_deep
        assert split.parts[0] <= fingerprint(config) % FINGERPRINT_PARTS < split.parts[1]
        assert split.norm != "never" or config.norm is None
        assert split.norm != "always" or config.norm == "bnorm"


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split must be one of .*received 'tset'"):
        get_split("tset")


def test_base_networks_have_the_base_width():
    import numpy as np

    config = sample_base(np.random.default_rng(0), "wide")
    assert (config.C, config.fc_dim) == (32, 256)
