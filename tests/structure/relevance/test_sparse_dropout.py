"""Sparse variational dropout against quadrature, and on a linear model of known weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import integrate, stats

from ppuda_jax.structure.relevance.sparse_dropout import SparseDense, log_uniform_divergence

KEY = jax.random.key(0)


def exact(log_alpha):
    """-H(N(1, alpha)) + E log |w|, the divergence up to the prior's constant."""
    alpha = np.exp(log_alpha)
    normal = stats.norm(1, np.sqrt(alpha))
    low, high = 1 - 12 * np.sqrt(alpha), 1 + 12 * np.sqrt(alpha)
    ends = [low, 0.0, high] if low < 0 < high else [low, high]
    parts = [
        integrate.quad(lambda w: normal.pdf(w) * np.log(abs(w)), a, b, limit=200)[0]
        for a, b in itertools.pairwise(ends)
    ]
    return sum(parts) - normal.entropy()


def test_divergence_is_the_integral_up_to_its_constant():
    grid = np.array([-6.0, -3.0, -1.0, 0.0, 1.0, 3.0])
    limit = exact(10.0)
    found = log_uniform_divergence(jnp.asarray(grid, jnp.float32))
    np.testing.assert_allclose(found, [exact(a) - limit for a in grid], atol=0.015)


def test_divergence_falls_to_zero_with_the_rate():
    values = np.asarray(log_uniform_divergence(jnp.linspace(-8, 12, 50)))
    assert np.all(np.diff(values) < 0)
    assert abs(values[-1]) < 1e-3


def test_samples_have_the_moments_of_the_weights():
    layer = SparseDense.init(KEY, 3, 2, log_variance=-1.0)
    x = jnp.array([[1.0, -2.0, 0.5]])
    draws = jax.vmap(lambda k: layer.sample(k, x)[0])(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(np.mean(draws, 0), (x @ layer.mean)[0], atol=0.05)
    np.testing.assert_allclose(np.var(draws, 0), 5.25 * np.exp(-1.0), rtol=0.05)


def test_noise_weights_are_pruned_and_others_kept():
    rng = np.random.default_rng(0)
    # Noise that is orthogonal to the features: least squares gives the true weights.
    basis = np.linalg.qr(rng.normal(size=(200, 9)))[0] * np.sqrt(200)
    x = jnp.asarray(basis[:, :8], jnp.float32)
    true = jnp.asarray([1.0, 0, 0, -1.5, 0, 0, 0.7, 0], jnp.float32)
    y = x @ true + 0.3 * jnp.asarray(basis[:, 8], jnp.float32)
    optimizer = optax.adam(0.02)

    def loss(layer, key):
        residual = layer.sample(key, x)[:, 0] - y
        return 0.5 * jnp.sum(residual**2) / 0.09 + layer.divergence()

    def step(carry, key):
        layer, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(layer, key), state)
        return (optax.apply_updates(layer, updates), state), None

    layer = SparseDense.init(KEY, 8, 1)
    keys = jax.random.split(KEY, 1500)
    (layer, _), _ = jax.lax.scan(step, (layer, optimizer.init(layer)), keys)
    np.testing.assert_array_equal(layer.used()[:, 0], true != 0)
    np.testing.assert_allclose(layer.pruned()[:, 0], true, atol=0.03)
