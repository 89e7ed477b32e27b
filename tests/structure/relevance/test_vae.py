"""Autoencoders with relevances and with the buffet: used dimensions on data of known rank."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from ppuda_jax.structure.relevance import vae
from ppuda_jax.structure.relevance.vae import Linear, Relevances, Sticks

RANK, LATENT, SIZE, OBJECTS = 3, 6, 8, 400
RNG = np.random.default_rng(0)
LOADINGS = np.linalg.qr(RNG.normal(size=(SIZE, RANK)))[0].T * np.array([[3.0], [2.5], [2.0]])
KEY = jax.random.key(0)


def maximise(bound, params, steps, rate):
    optimizer = optax.adam(rate)

    def step(carry, key):
        params, state = carry
        slope = jax.grad(lambda p: -bound(p, key))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return run(params, jax.random.split(KEY, steps))


def test_relevances_find_the_rank_and_the_evidence_of_the_principal_components():
    z = RNG.normal(size=(OBJECTS, RANK))
    data = z @ LOADINGS + 0.5 * RNG.normal(size=(OBJECTS, SIZE))
    x = jnp.asarray(data - data.mean(0), jnp.float32)
    start = (
        Linear.init(KEY, SIZE, LATENT, 2 * LATENT),
        Relevances(jnp.ones(LATENT), jnp.full(LATENT, -2.0)),
        jnp.zeros(()),
    )

    def bound(params, key):
        net, relevances, log_noise = params
        # A unit prior of the decoder keeps it from growing as relevances shrink.
        penalty = 0.5 * jnp.sum(jnp.square(net.decoder)) / OBJECTS
        value = vae.ard_bound(net.encode, net.decode, relevances, log_noise, x, OBJECTS, key)
        return value - penalty

    net, relevances, log_noise = maximise(bound, start, 1500, 0.02)
    assert int(jnp.sum(relevances.used())) == RANK
    np.testing.assert_allclose(jnp.exp(log_noise), 0.5, rtol=0.1)
    # The marginal of the fitted linear model is normal: it must be as likely as the true one.
    scaled = np.asarray(relevances.mean)[:, None] * np.asarray(net.decoder)
    fitted = scaled.T @ scaled + np.exp(2 * log_noise) * np.eye(SIZE)
    true = LOADINGS.T @ LOADINGS + 0.25 * np.eye(SIZE)
    likelihoods = [
        stats.multivariate_normal(np.zeros(SIZE), c).logpdf(x).mean() for c in (fitted, true)
    ]
    assert abs(likelihoods[0] - likelihoods[1]) < 0.15


def test_the_divergence_of_relevances_is_that_from_the_best_prior():
    relevances = Relevances(jnp.array([0.5, -2.0]), jnp.log(jnp.array([0.3, 0.1])))
    second = np.array([0.25 + 0.09, 4 + 0.01])
    terms = np.log(second / np.array([0.09, 0.01])) + 1 - 1
    np.testing.assert_allclose(relevances.divergence(), 0.5 * terms.sum(), rtol=1e-5)
    np.testing.assert_array_equal(relevances.used(), [True, True])
    np.testing.assert_array_equal(Relevances(jnp.array([0.1]), jnp.array([0.0])).used(), [False])


def test_buffet_uses_the_features_of_the_data():
    present = RNG.random(size=(OBJECTS, RANK)) < 0.6
    z = present * (1 + 0.2 * RNG.normal(size=(OBJECTS, RANK)))
    x = jnp.asarray(z @ LOADINGS + 0.3 * RNG.normal(size=(OBJECTS, SIZE)), jnp.float32)
    start = (
        Linear.init(KEY, SIZE, LATENT, 3 * LATENT),
        Sticks(jnp.full(LATENT, 0.7), jnp.zeros(LATENT)),
        jnp.zeros(()),
    )

    def bound(params, key):
        net, sticks, log_noise = params
        return (
            vae.buffet_bound(
                net.encode,
                net.decode,
                sticks,
                log_noise,
                x,
                OBJECTS,
                key,
                alpha=2.0,
                temperature=0.5,
            )
            - 0.5 * jnp.sum(jnp.square(net.decoder)) / OBJECTS
        )

    net, sticks, _ = maximise(bound, start, 1500, 0.02)
    _, mean, log_std = jnp.split(net.encode(x), 3, axis=1)
    used = np.asarray(vae.informative(mean, log_std))
    assert used.sum() == RANK
    sticks_drawn = jnp.exp(sticks.distribution.sample_log(KEY, (500,))).mean(0)
    # The buffet ends behind the last feature in use: the next stick is shorter than those before.
    assert sticks_drawn[~used].min() < 0.9 * sticks_drawn[used].min()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda e, d: vae.ard_bound(
                e, d, Relevances(jnp.ones(2), jnp.zeros(2)), jnp.zeros(()), jnp.ones((3, 4)), 3, KEY
            ),
            r"\[n, 4\] for 2 latent dimensions, received \(3, 5\)",
        ),
        (
            lambda e, d: vae.buffet_bound(
                e,
                d,
                Sticks(jnp.ones(2), jnp.zeros(2)),
                jnp.zeros(()),
                jnp.ones((3, 4)),
                3,
                KEY,
                alpha=0.0,
                temperature=1.0,
            ),
            "alpha must be above zero, received 0.0",
        ),
        (
            lambda e, d: vae.ard_bound(
                lambda x: jnp.ones((3, 4)),
                d,
                Relevances(jnp.ones(2), jnp.zeros(2)),
                jnp.zeros(()),
                jnp.ones((3, 4)),
                0,
                KEY,
            ),
            "num_objects must be at least 1",
        ),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(lambda x: jnp.ones((3, 5)), lambda z: jnp.ones((3, 4)))
