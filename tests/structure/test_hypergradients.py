"""Hypergradients on a quadratic whose answer is known, and on a smooth function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure import hypergradients as hg

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 4))
A = ROOT @ ROOT.T + 2 * np.eye(4)  # Hessian of the lower level
B = RNG.normal(size=(4, 3))
C = RNG.normal(size=4)
H = RNG.normal(size=3)
RATE, STEPS = 0.02, 40


def lower(theta, h):
    return 0.5 * theta @ jnp.asarray(A) @ theta - theta @ (jnp.asarray(B) @ h)


def upper(theta, h):
    return 0.5 * jnp.sum((theta - jnp.asarray(C)) ** 2) + 0.1 * jnp.sum(h**2)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def minimiser(h):
    return np.linalg.solve(A, B @ h)


def test_hoag_is_exact_at_the_minimum():
    theta = minimiser(H)
    expected = B.T @ np.linalg.solve(A, theta - C) + 0.2 * H
    found = hg.hoag(upper, lower, jnp.asarray(theta), jnp.asarray(H))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_damping_is_added_to_the_hessian():
    theta = minimiser(H)
    expected = B.T @ np.linalg.solve(A + 0.5 * np.eye(4), theta - C) + 0.2 * H
    found = hg.hoag(upper, lower, jnp.asarray(theta), jnp.asarray(H), damping=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_greedy_is_one_unrolled_step():
    theta = RNG.normal(size=4)
    stepped = theta - RATE * (A @ theta - B @ H)
    expected = RATE * B.T @ (stepped - C) + 0.2 * H
    found = hg.greedy(upper, lower, jnp.asarray(theta), jnp.asarray(H), RATE)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_first_order_takes_the_weights_as_they_are():
    found = hg.darts(upper, lower, jnp.asarray(C), jnp.asarray(H))
    np.testing.assert_allclose(found, 0.2 * H, rtol=1e-10)


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_second_order_is_one_step_on_a_smooth_function(method):
    weights = {"a": jnp.asarray(RNG.normal(size=(3, 2))), "b": jnp.asarray(RNG.normal(size=3))}
    x = jnp.asarray(RNG.normal(size=(5, 3)))

    def train(w, h):
        return jnp.mean(jnp.tanh(x @ w["a"] * h[None]) ** 2) + jnp.sum(jnp.sin(w["b"]) * h[0])

    def validate(w, h):
        return jnp.mean(jnp.cos(x @ w["a"]) * h[None]) + jnp.sum(w["b"] ** 2) * h[1]

    h = jnp.asarray([0.7, -0.4])
    unrolled = hg.greedy(validate, train, weights, h, 0.05)
    found = hg.darts(validate, train, weights, h, 0.05, method)
    np.testing.assert_allclose(found, unrolled, rtol=1e-5)


def unroll(h):
    theta = jnp.zeros(4)
    for _ in range(STEPS):
        theta = theta - RATE * jax.grad(lower)(theta, h)
    return theta


def test_drmad_is_exact_on_a_quadratic():
    """The Hessian does not depend on theta, so neither does the path's part of the derivative."""
    expected = jax.grad(lambda h: upper(unroll(h), h))(jnp.asarray(H))
    found = hg.drmad(
        upper, lower, jnp.zeros(4), unroll(jnp.asarray(H)), jnp.asarray(H), rate=RATE, steps=STEPS
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_drmad_follows_the_line_where_the_hessian_changes():
    def bent(theta, h):
        return lower(theta, h) + 0.1 * jnp.sum(theta**4)

    h = jnp.asarray(H)

    def descend(h):
        theta = jnp.zeros(4)
        for _ in range(STEPS):
            theta = theta - RATE * jax.grad(bent)(theta, h)
        return theta

    exact = jax.grad(lambda h: upper(descend(h), h))(h)
    found = hg.drmad(upper, bent, jnp.zeros(4), descend(h), h, rate=RATE, steps=STEPS)
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


def test_largest_eigenvalue_of_a_hessian():
    def loss(h):
        return 0.5 * h @ jnp.asarray(A) @ h

    found = hg.hessian_eigenvalue(loss, jnp.ones(4), jax.random.key(0), steps=100)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(A)[-1], rtol=1e-4)
    negative = hg.hessian_eigenvalue(lambda h: -loss(h), jnp.ones(4), jax.random.key(0), steps=100)
    np.testing.assert_allclose(negative, -np.linalg.eigvalsh(A)[-1], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((hg.greedy, (0.0,), {}), "rate must be above zero, received 0.0"),
        ((hg.darts, (-0.1,), {}), "rate must not be negative"),
        ((hg.darts, (0.1, "jvp"), {}), "exact or finite_difference, received 'jvp'"),
        ((hg.hoag, (), {"steps": 0}), "steps must be at least 1"),
        ((hg.hoag, (), {"damping": -1.0}), "damping must not be negative"),
    ],
)
def test_settings_without_sense_are_refused(options, message):
    function, args, kwargs = options
    with pytest.raises(ValueError, match=message):
        function(upper, lower, jnp.asarray(C), jnp.asarray(H), *args, **kwargs)
