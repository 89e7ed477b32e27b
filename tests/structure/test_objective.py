"""The two-level objective: its special cases, its limits, its errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure import criteria
from ppuda_jax.structure.functions import two_layer
from ppuda_jax.structure.objective import Coefficients, TwoLevel, inverse_gamma, near_vertex
from ppuda_jax.structure.posterior import (
    count_kept,
    init_posterior,
    init_prior,
    relative_density,
    scaled,
    weight_divergence,
)

FAMILY = two_layer(3, 1)
X = jax.random.normal(jax.random.key(1), (6, 2))
Y = jnp.sin(X[:, :1])
KEY = jax.random.key(2)
ONE = jnp.zeros(1)


def log_likelihood(weights, structure):
    return -jnp.sum((FAMILY.apply(weights, structure, X) - Y) ** 2)


def held_out(weights, structure):
    return -jnp.sum((FAMILY.apply(weights, structure, -X) + Y) ** 2)


def setup(temperature=0.7):
    weights = FAMILY.init(KEY, X)
    logits = {(0, 1): jnp.array([0.3, -0.2, 0.5]), (1, 2): ONE}
    posterior = init_posterior(weights, logits, temperature=temperature)
    prior_logits = {(0, 1): jnp.array([0.0, 1.0, -1.0]), (1, 2): ONE}
    return posterior, init_prior(weights, prior_logits, log_precision=0.4)


def value_and_gradients(function):
    posterior, prior = setup()
    return jax.value_and_grad(function, argnums=(0, 1))(posterior, prior, KEY)


def assert_same(first, second):
    """Values and gradients of two objectives are equal to rounding."""
    a, b = value_and_gradients(first), value_and_gradients(second)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-5 * max(1, np.abs(y).max()))


FORMS = [{"form": "non_centred"}, {"form": "centred", "floor": 0.1}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_elbo_has_one_function_for_both_levels(options):
    objective = TwoLevel(log_likelihood, criteria.elbo(), **options)
    assert_same(objective.lower, objective.upper)


@pytest.mark.parametrize(("prior", "likelihood"), [(0.3, 2.0), (4.0, 0.5)])
def test_one_level_problems_maximise_one_function(prior, likelihood):
    objective = TwoLevel(log_likelihood, criteria.one_level(prior, likelihood))
    assert_same(lambda *args: likelihood * objective.lower(*args), objective.upper)


def test_maximum_likelihood_does_not_see_the_hyperparameters():
    objective = TwoLevel(log_likelihood, criteria.ml())
    assert_same(objective.lower, objective.upper)
    assert_same(objective.lower, lambda *args: objective.terms(*args).log_likelihood)
    _, (_, slope) = value_and_gradients(objective.lower)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_evidence_chooses_hyperparameters_by_likelihood():
    objective = TwoLevel(log_likelihood, criteria.evidence_ml())
    assert_same(objective.lower, TwoLevel(log_likelihood).lower)
    assert_same(objective.upper, lambda *args: objective.terms(*args).log_likelihood)


def test_minimal_complexity_only_sees_the_divergence():
    objective = TwoLevel(log_likelihood, criteria.min_complexity(0.7))
    assert_same(objective.upper, lambda *args: -0.7 * objective.terms(*args).divergence)


def test_hold_out_scores_other_objects():
    objective = TwoLevel(log_likelihood, criteria.hold_out(), upper_log_likelihood=held_out)
    assert_same(objective.lower, TwoLevel(log_likelihood, criteria.ml()).lower)
    assert_same(objective.upper, TwoLevel(held_out, criteria.ml()).lower)


@pytest.mark.parametrize("strength", [-1.0, 2.0])
def test_references_act_on_the_prior_of_structures_alone(strength):
    reference = near_vertex({(0, 1): 2, (1, 2): 0}, FAMILY.num_functions, 1.0, 50.0)
    objective = TwoLevel(log_likelihood, criteria.exhaustive(strength), references=(reference,))
    plain = TwoLevel(log_likelihood)

    def expected(posterior, prior, key):
        pull = objective.prior_structure(prior, (0, 1)).kl_divergence(reference[0, 1])
        return plain.upper(posterior, prior, key) - strength * pull

    assert_same(objective.upper, expected)
    _, (_, slope) = value_and_gradients(lambda *args: objective.upper(*args) - plain.upper(*args))
    # Along the gradient the prior comes nearer to function 2 if the strength is above zero.
    assert np.sign(slope.logits[0, 1][2]) == np.sign(strength)


def test_map_is_the_joint_density_up_to_a_constant():
    objective = TwoLevel(log_likelihood, criteria.map_estimate(), num_samples=1)
    posterior, prior = setup()
    still = dataclasses.replace(
        posterior, log_std=jax.tree.map(lambda s: jnp.full_like(s, -12.0), posterior.log_std)
    )

    def joint(mean):
        theta = dataclasses.replace(still, mean=mean)
        logs = [
            -0.5 * jnp.sum(jnp.exp(a) * jnp.square(m))
            for m, a in zip(
                jax.tree.leaves(mean), jax.tree.leaves(prior.log_precision), strict=True
            )
        ]
        return objective.terms(theta, prior, KEY).log_likelihood + sum(logs)

    slope = jax.grad(lambda m: objective.lower(dataclasses.replace(still, mean=m), prior, KEY))
    for a, b in zip(
        jax.tree.leaves(slope(still.mean)),
        jax.tree.leaves(jax.grad(joint)(still.mean)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_divergence_of_the_non_centred_form_is_the_same_for_every_structure(temperature):
    posterior, prior = setup(temperature)
    objective = TwoLevel(log_likelihood, num_samples=64)
    terms = objective.terms(posterior, prior, KEY)
    exact = sum(
        0.5 * np.sum(np.exp(2 * s + a) + m**2 * np.exp(a) - 1 - 2 * s - a)
        for m, s, a in zip(
            *map(jax.tree.leaves, (posterior.mean, posterior.log_std, prior.log_precision)),
            strict=True,
        )
    )
    np.testing.assert_allclose(terms.weights, exact, rtol=1e-5)
    assert np.isfinite(terms.log_likelihood)


def test_the_printed_form_grows_without_limit_and_a_floor_bounds_it():
    posterior, prior = setup(temperature=0.3)
    raw = posterior.structure((0, 1)).sample_raw(KEY, (5000,))

    def divergence(logs, floor):
        structure = {(0, 1): jnp.exp(logs), (1, 2): jnp.ones(1)}
        gammas = scaled(jax.tree.map(jnp.ones_like, posterior.mean), structure)
        return weight_divergence(posterior, prior, gammas, floor)

    floored = np.asarray(jax.vmap(lambda r: divergence(r, 0.05))(raw))
    printed = np.asarray(jax.vmap(lambda r: divergence(r, 0.0))(raw))
    assert np.isfinite(floored).all() and floored.std() < floored.mean()
    assert not np.mean(printed) < 100 * np.mean(floored)


def test_a_point_prior_at_its_posterior_has_no_divergence():
    posterior, _ = setup()
    centred = dataclasses.replace(posterior, mean=jax.tree.map(jnp.zeros_like, posterior.mean))
    prior = init_prior(posterior.mean, posterior.logits, log_precision=-2 * float(np.log(0.1)))
    objective = TwoLevel(log_likelihood, tied_temperatures=True)
    terms = objective.terms(centred, prior, KEY)
    np.testing.assert_allclose(terms.divergence, 0, atol=1e-4)


def test_tied_temperatures_give_the_expectation_of_the_estimate():
    posterior, prior = setup(temperature=1.0)
    exact = TwoLevel(log_likelihood, tied_temperatures=True).terms(posterior, prior, KEY)
    estimate = TwoLevel(log_likelihood, num_samples=20_000).terms(posterior, prior, KEY)
    np.testing.assert_allclose(exact.structure, estimate.structure, rtol=0.05)


def test_hyperprior_is_added_to_the_upper_level():
    _, prior = setup()
    log_density = inverse_gamma(2.0, 0.5)
    leaves = np.concatenate([np.ravel(a) for a in jax.tree.leaves(prior.log_precision)])
    np.testing.assert_allclose(
        log_density(prior), np.sum(3 * leaves - 0.5 * np.exp(leaves)), rtol=1e-5
    )
    with_it = TwoLevel(log_likelihood, hyperprior=log_density)
    assert_same(
        with_it.upper, lambda t, h, k: TwoLevel(log_likelihood).upper(t, h, k) + log_density(h)
    )


def test_complexity_counts_the_weights_that_pruning_keeps():
    posterior, _ = setup()
    density = relative_density(posterior)
    kernel = np.asarray(posterior.mean[0, 1][0]["kernel"])
    np.testing.assert_allclose(
        density[0, 1][0]["kernel"], np.exp(-(kernel**2) / (2 * 0.1**2)), rtol=1e-5
    )
    kept = count_kept(posterior, 0.5)
    total = sum(leaf.size for leaf in jax.tree.leaves(posterior.mean))
    assert 0 < kept < total
    assert criteria.aic(-10.0, posterior) == -10 - kept
    assert criteria.bic(-10.0, posterior, 50) == pytest.approx(-10 - 0.5 * np.log(50) * kept)


def test_more_weight_of_the_prior_gives_a_smaller_divergence():
    """The theorem on prior_upper, on the closed form of the best precision."""
    posterior, prior = setup()
    objective = TwoLevel(log_likelihood, criteria.min_complexity(), tied_temperatures=True)

    def step(prior, _):
        slope = jax.grad(objective.upper, argnums=1)(posterior, prior, KEY)
        return jax.tree.map(lambda h, g: h + 0.3 * g, prior, slope), None

    best, _ = jax.lax.scan(step, prior, length=400)
    for a, m in zip(
        jax.tree.leaves(best.log_precision), jax.tree.leaves(posterior.mean), strict=True
    ):
        np.testing.assert_allclose(np.exp(-a), m**2 + 0.1**2, rtol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coefficients(1.0, 0.0, 0.0), "nothing to maximise"),
        (lambda: Coefficients(1.0, 0.0, 0.0, (0.0,)), "nothing to maximise"),
        (lambda: Coefficients(-1.0), "prior_lower must not be negative, received -1.0"),
        (lambda: TwoLevel(log_likelihood, temperature=0.0), "temperature must be above zero"),
        (lambda: TwoLevel(log_likelihood, num_samples=0), "num_samples must be at least 1"),
        (
            lambda: TwoLevel(log_likelihood, form="other"),
            "form must be one of .*, received 'other'",
        ),
        (lambda: TwoLevel(log_likelihood, floor=-0.1), "floor must not be negative"),
        (
            lambda: TwoLevel(log_likelihood, Coefficients(struct_upper=(1.0,))),
            "belongs to a reference, received 1 and 0",
        ),
        (lambda: near_vertex({}, {}, 1.0, 1.0), "odds must be above 1"),
        (lambda: inverse_gamma(-1.0, 0.0), "must not be negative, received -1.0 and 0.0"),
        (lambda: criteria.exhaustive(0.0), "strength of 0 visits no structure"),
        (lambda: init_posterior({}, {}, temperature=0.0), "temperature must be above zero"),
        (lambda: count_kept(setup()[0], 0.0), r"threshold must lie in \(0, 1\]"),
        (lambda: criteria.bic(0.0, setup()[0], 0), "num_objects must be at least 1"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
