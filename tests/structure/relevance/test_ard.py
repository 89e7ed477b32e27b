"""Automatic relevance determination against the closed forms of linear models."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppuda_jax.structure.posterior import init_posterior, init_prior, weight_divergence
from ppuda_jax.structure.relevance import ard
from tests.close import assert_close

RNG = np.random.default_rng(0)
TRUE = np.array([1.5, 0.0, -2.0, 0.0, 0.0, 1.0])
X = RNG.normal(size=(40, 6))
Y = X @ TRUE + 0.5 * RNG.normal(size=40)
BETA = 4.0
XS, YS = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)


def test_posterior_is_that_of_ridge_regression():
    log_precision = np.array([0.0, 1.0, -1.0, 2.0, 0.5, 0.3])
    matrix = np.diag(np.exp(log_precision)) + BETA * X.T @ X
    found = ard.linear_posterior(XS, YS, jnp.asarray(log_precision, jnp.float32), BETA)
    assert_close(found.covariance, np.linalg.inv(matrix), 1e-4)
    assert_close(found.mean, np.linalg.solve(matrix, BETA * X.T @ Y), 1e-4)


def test_evidence_is_the_density_of_the_targets():
    log_precision = np.array([0.0, 1.0, -1.0, 2.0, 0.5, 0.3])
    covariance = X @ np.diag(np.exp(-log_precision)) @ X.T + np.eye(40) / BETA
    expected = stats.multivariate_normal(np.zeros(40), covariance).logpdf(Y)
    found = ard.log_evidence(XS, YS, jnp.asarray(log_precision, jnp.float32), BETA)
    assert_close(found, expected, 1e-4)


def test_orthogonal_features_have_a_known_precision():
    """With X'X = n I the best precision is 1 / (m^2 - 1 / (n beta)) where that is above 0."""
    x = np.linalg.qr(RNG.normal(size=(32, 3)))[0] * np.sqrt(32)
    targets = x @ np.array([1.0, 0.4, 0.0]) + 0.01 * x[:, 2]
    slope = x.T @ targets / 32
    excess = slope**2 - 1 / (32 * BETA)
    found = ard.fixed_point(
        jnp.asarray(x, jnp.float32), jnp.asarray(targets, jnp.float32), BETA, steps=3000
    )
    assert_close(np.exp(-np.asarray(found.log_precision[:2])), excess[:2], 1e-3)
    assert found.log_precision[2] > 8


def test_both_ways_find_the_same_evidence_and_the_weights_in_use():
    first = ard.fixed_point(XS, YS, BETA, steps=1000)
    second = ard.by_gradient(XS, YS, BETA)
    assert_close(second.log_evidence, first.log_evidence, 1e-3)
    for found in (first, second):
        np.testing.assert_array_equal(found.used(), TRUE != 0)


def test_no_step_of_the_fixed_point_lowers_the_evidence():
    values = [ard.fixed_point(XS, YS, BETA, steps=n).log_evidence for n in (1, 5, 100)]
    assert np.all(np.diff(values) > 0)


def test_best_prior_is_nearest_to_the_posterior():
    weights = {(0, 1): (jnp.array([0.5, -2.0, 0.0]),)}
    posterior = init_posterior(weights, {}, std=0.3)
    best = ard.best_prior(posterior, init_prior(weights, {}))
    np.testing.assert_allclose(np.exp(-best.log_precision[0, 1][0]), [0.34, 4.09, 0.09], rtol=1e-5)

    def divergence(shift):
        prior = init_prior(weights, {})
        leaf = best.log_precision[0, 1][0] + shift
        prior = ard.Prior({(0, 1): (leaf,)}, prior.logits)
        return weight_divergence(posterior, prior)

    assert divergence(0.0) < min(divergence(0.1), divergence(-0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ard.linear_posterior(XS, YS[:3], jnp.zeros(6), 1.0), r"y \[N\].*\(3,\)"),
        (lambda: ard.log_evidence(XS, YS, jnp.zeros(5), 1.0), r"log_precision \[D\].*\(5,\)"),
        (lambda: ard.log_evidence(XS, YS, jnp.zeros(6), 0.0), "noise_precision must be above"),
        (lambda: ard.fixed_point(XS, YS, 1.0, steps=0), "steps must be at least 1"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
