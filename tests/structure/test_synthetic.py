"""The published selection among three models; one seed of three settings, at full length."""

import jax
import numpy as np
import pytest

from ppuda_jax.structure import synthetic


def test_only_the_first_feature_explains_the_targets():
    data = synthetic.objects(jax.random.key(0), 20_000)
    assert data.x.shape == (20_000, 12)
    np.testing.assert_array_equal(data.x[:, -1], np.ones(20_000))
    residual = np.asarray(data.y) - np.tanh(np.asarray(data.x[:, 0]))
    assert residual.std() == pytest.approx(0.5, rel=0.02)
    assert np.abs(np.asarray(data.x[:, 1:11]).T @ residual / 20_000).max() < 0.02


def test_the_models_have_1_2_and_12_weights():
    weights = synthetic.family().init(jax.random.key(0), synthetic.objects(jax.random.key(1)).x)
    counts = [sum(leaf.size for leaf in jax.tree.leaves(w)) for w in weights[0, 1]]
    assert counts == [1, 2, 12]


@pytest.mark.parametrize(
    ("number", "mode", "place"), [(1, 1, "vertex"), (2, 2, "vertex"), (7, None, "centre")]
)
def test_the_mode_moves_to_more_weights_as_the_prior_weakens(number, mode, place):
    setting = synthetic.settings()[number]
    outcome = synthetic.select(setting, seeds=(0, 1))
    assert outcome.places == [place] * 2, setting
    if mode is not None:
        assert outcome.modes == [mode] * 2, setting


def test_references_move_the_mode_between_them():
    outcome = synthetic.select(synthetic.settings()[-1], seeds=(0,), steps=600)
    assert outcome.modes == [1]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 2"):
        synthetic.select(synthetic.settings()[0], (0,), steps=1)
