"""Spike and slab against the exact posterior of linear models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppuda_jax.structure.relevance.spike_slab import SpikeSlab, coordinate_ascent, linear_bound

RNG = np.random.default_rng(1)
SETTINGS = {"noise_std": 0.5, "prior_probability": 0.3, "slab_std": 1.2}
ORTHOGONAL = np.linalg.qr(RNG.normal(size=(20, 4)))[0] * np.sqrt(20)
CORRELATED = RNG.normal(size=(20, 4)) @ (np.eye(4) + 0.2)


def exact(x, y):
    """Evidence and probabilities of use, by a sum over all 2^D sets of weights."""
    logs, sets = [], list(itertools.product([0, 1], repeat=x.shape[1]))
    for used in sets:
        part = x[:, np.flatnonzero(used)]
        covariance = 0.25 * np.eye(len(y)) + 1.44 * part @ part.T
        prior = np.sum(np.where(used, np.log(0.3), np.log(0.7)))
        logs.append(prior + stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y))
    evidence = special.logsumexp(logs)
    return evidence, np.exp(np.array(logs) - evidence) @ np.array(sets)


def fitted(x):
    y = x @ np.array([1.0, 0.0, 0.15, 0.0]) + 0.5 * RNG.normal(size=20)
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    q = coordinate_ascent(*arrays, **SETTINGS)
    return q, linear_bound(q, *arrays, **SETTINGS), exact(x, y), arrays


def test_bound_is_the_evidence_for_orthogonal_features():
    q, bound, (evidence, probability), _ = fitted(ORTHOGONAL)
    np.testing.assert_allclose(bound, evidence, rtol=1e-5)
    np.testing.assert_allclose(q.probability, probability, atol=1e-4)


def test_bound_is_below_the_evidence_for_correlated_features():
    q, bound, (evidence, probability), _ = fitted(CORRELATED)
    assert evidence - 1 < bound < evidence
    np.testing.assert_array_equal(q.probability > 0.5, probability > 0.5)


def test_ascent_ends_where_the_gradient_vanishes():
    q, _, _, arrays = fitted(CORRELATED)
    slope = jax.grad(lambda q: linear_bound(q, *arrays, **SETTINGS))(q)
    assert all(np.abs(leaf).max() < 2e-2 for leaf in jax.tree.leaves(slope))


def test_samples_are_spikes_and_slabs_at_low_temperature():
    q = SpikeSlab(jnp.array([1.0, -2.0]), jnp.array([2.0, -3.0]), jnp.log(jnp.array([0.1, 0.2])))
    draws = np.asarray(q.sample(jax.random.key(0), 0.01, (20_000,)))
    used = np.abs(draws) > 0.5
    np.testing.assert_allclose(used.mean(0), special.expit([1.0, -2.0]), atol=0.02)
    np.testing.assert_allclose(np.median(draws[used[:, 0], 0]), 2.0, atol=0.02)
    with pytest.raises(ValueError, match="temperature must be above zero"):
        q.sample(jax.random.key(0), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior_probability": 1.0}, "prior_probability must lie between 0 and 1, received 1.0"),
        ({"slab_std": 0.0}, "slab_std must be above zero"),
        ({"noise_std": -1.0}, "noise_std must be above zero"),
    ],
)
def test_settings_without_sense_are_refused(change, message):
    q = SpikeSlab(jnp.zeros(4), jnp.zeros(4), jnp.zeros(4))
    with pytest.raises(ValueError, match=message):
        linear_bound(q, jnp.zeros((3, 4)), jnp.zeros(3), **(SETTINGS | change))


def test_shapes_and_sweeps_are_checked():
    q = SpikeSlab(jnp.zeros(4), jnp.zeros(4), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"entries \[D\], received \(3, 5\)"):
        linear_bound(q, jnp.zeros((3, 5)), jnp.zeros(3), **SETTINGS)
    with pytest.raises(ValueError, match="sweeps must be at least 1"):
        coordinate_ascent(jnp.zeros((3, 4)), jnp.zeros(3), sweeps=0, **SETTINGS)
