"""The comparison of hyperparameter searches: its bound, its data, its outcome."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppuda_jax.structure import hyperparameters as hp
from ppuda_jax.structure.search.problem import Objects

SHORT = hp.Budget(outer=15, inner=30)


def test_the_bound_is_the_evidence_for_orthogonal_features():
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(10, 3)))[0] * np.array([1.0, 2.0, 3.0])
    y, h = rng.normal(size=10), np.array([-1.0, 0.5, 2.0])
    precision = np.sum(x**2, 0) + np.exp(h)
    theta = hp.Theta(
        jnp.asarray(x.T @ y / precision, jnp.float32),
        jnp.asarray(-0.5 * np.log(precision), jnp.float32),
    )
    data = Objects(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    found = -hp.negative_bound(data, theta, jnp.asarray(h, jnp.float32))
    covariance = np.eye(10) + x @ np.diag(np.exp(-h)) @ x.T
    evidence = stats.multivariate_normal(np.zeros(10), covariance).logpdf(y)
    assert float(found) - 5 * np.log(2 * np.pi) == pytest.approx(evidence, rel=1e-4)


def test_features_are_powers_sine_and_cosine():
    x = jnp.array([0.5, -2.0])
    found = hp.features(x)
    assert found.shape == (2, 12)
    np.testing.assert_allclose(found[1, :4], [1, -2, 4, -8])
    np.testing.assert_allclose(found[:, 10:], np.stack([np.sin(x), np.cos(x)], 1), rtol=1e-6)
    data = hp.objects(jax.random.key(0), 20_000)
    assert np.std(data.y - data.x[:, 1]) == pytest.approx(1, rel=0.02)


def test_gradients_reach_better_bounds_than_random_search():
    outcomes = {name: hp.run(name, (0, 1), SHORT) for name in ("random", "greedy", "hoag")}
    random = outcomes["random"]
    assert random.row()[2] is None
    for name in ("greedy", "hoag"):
        assert outcomes[name].row(random)[2] == "2 of 2"
        assert np.all(np.diff(outcomes[name].bounds, axis=1) >= 0)
        assert np.all((outcomes[name].steps >= 1) & (outcomes[name].steps <= 15))
        assert np.all(outcomes[name].errors < 1.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hp.run("grid", (0,), SHORT), "method must be one of .*'drmad'.*received 'grid'"),
        (lambda: hp.Budget(outer=0), "outer must be at least 1, received 0"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
