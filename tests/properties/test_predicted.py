"""A property of networks from the embeddings of others: fitted, at one width, in any order."""

import dataclasses

import numpy as np
import pytest

from ppuda_jax.evaluation.networks import EvalNet, choose_networks
from ppuda_jax.properties.ground_truth import Measured
from ppuda_jax.properties.predicted import fit_property


@pytest.fixture(scope="module")
def pool(plans):
    nets = [EvalNet("test", i, plan.config) for i, plan in enumerate(plans)]
    points = {"points": []}
    measured = [
        Measured(
            net.split, net.index, net.fingerprint, 1, net.config.n_cells / 10, 0.1, 1.0, points
        )
        for net in nets
    ]
    failed = dataclasses.replace(measured[4], clean_accuracy=None, failure="its loss")
    return nets, [*measured[:4], failed, *measured[5:]]


def _predictor(ghn, pool, **options):
    return fit_property(ghn, *pool, regressor="ridge", folds=2, **options)


def test_what_the_embedding_tells_is_found(ghn, pool):
    nets, _ = pool
    found = _predictor(ghn, pool)(nets)
    depth = np.array([10.0 * net.config.n_cells for net in nets])  # accuracies are in percent
    assert np.corrcoef(found, depth)[0, 1] > 0.9
    assert abs(found.mean() - depth.mean()) < 2


def test_networks_are_embedded_at_the_width_of_the_pool(ghn, pool):
    nets, _ = pool
    wide = [dataclasses.replace(n, config=dataclasses.replace(n.config, C=64)) for n in nets[:2]]
    own, fixed = _predictor(ghn, pool), _predictor(ghn, pool, channels=nets[0].config.C)
    np.testing.assert_allclose(fixed(wide), fixed(nets[:2]), rtol=1e-6)
    assert np.abs(own(wide) - own(nets[:2])).max() > 1e-3
    assert fixed([]).shape == (0,)


def test_refuses(ghn, pool):
    nets, measured = pool
    with pytest.raises(ValueError, match="records must be of the networks"):
        fit_property(ghn, nets[1:], measured)
    with pytest.raises(ValueError, match="property must be one of .*received 'beauty'"):
        fit_property(ghn, nets, measured, "beauty")
    (model,) = choose_networks("predefined", indices=[0])
    with pytest.raises(ValueError, match="hand-made model"):
        _predictor(ghn, pool)([model])
