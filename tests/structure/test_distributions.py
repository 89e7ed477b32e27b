"""Distributions of structures against closed forms, quadrature and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from ppuda_jax.structure import distributions as d

LOGITS = np.array([0.3, -1.0, 0.9])
KEY = jax.random.key(0)


def gumbel_softmax(logits, temperature=0.7, dtype=jnp.float32):
    return d.GumbelSoftmax(jnp.asarray(logits, dtype), temperature)


# The parameters are such that the density is bounded.
BOUNDED = {
    "gumbel_softmax": lambda: gumbel_softmax(LOGITS, 1.3, jnp.float64),
    "logit_normal": lambda: d.LogitNormal(jnp.array([0.2, -0.5]), jnp.array([0.8, 0.6])),
    "dirichlet": lambda: d.Dirichlet(jnp.array([2.0, 3.5, 1.5])),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_density_integrates_to_one(name):
    with jax.enable_x64(True):
        distribution = BOUNDED[name]()
        log_prob = jax.jit(lambda value: distribution.log_prob(value))

        def density(point):
            point = np.clip(point, 1e-12, None)
            return float(np.exp(log_prob(jnp.array(point))))

        points, weights = np.polynomial.legendre.leggauss(60)
        # The map (u, v) -> (u, (1 - u) v, (1 - u)(1 - v)) takes the square to the triangle.
        u, w = (points + 1) / 2, weights / 2
        grid_u, grid_v = np.meshgrid(u, u, indexing="ij")
        simplex = np.stack([grid_u, (1 - grid_u) * grid_v, (1 - grid_u) * (1 - grid_v)], -1)
        values = np.exp(jax.vmap(jax.vmap(log_prob))(jnp.array(simplex))) * (1 - grid_u)
        assert density([1 / 3, 1 / 3, 1 / 3]) > 0
        assert np.einsum("i,j,ij->", w, w, values) == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0, 10.0])
def test_largest_weight_follows_the_logits_at_every_temperature(temperature):
    samples = gumbel_softmax(LOGITS, temperature).sample_raw(KEY, (20_000,))
    counts = np.bincount(np.argmax(samples, -1), minlength=3)
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum()
    deviation = (counts - 20_000 * probs) / np.sqrt(20_000 * probs * (1 - probs))
    assert np.abs(deviation).max() < 5


def test_limits_of_the_temperature():
    cold = gumbel_softmax(LOGITS, 0.01).sample(KEY, (1000,))
    assert np.mean(np.max(cold, -1)) > 0.99
    hot = gumbel_softmax(LOGITS, 1000.0).sample(KEY, (1000,))
    np.testing.assert_allclose(hot, 1 / 3, atol=0.02)


def test_float32_is_safe_at_a_low_temperature():
    q = gumbel_softmax([5.0, 0.0, -5.0], 0.05)

    def estimate(logits):
        q = d.GumbelSoftmax(logits, 0.05)
        logs = q.sample_raw(KEY, (512,))
        return jnp.mean(q.log_prob_of_raw(logs))

    value, slope = jax.value_and_grad(estimate)(q.logits)
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert not np.isfinite(q.log_prob(q.sample(KEY, (512,)))).all()  # why logarithms are offered


@given(
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
@settings(deadline=None, max_examples=30)
def test_exact_divergence_equals_the_divided_difference(first, second):
    with jax.enable_x64(True):
        p, q = gumbel_softmax(first, dtype=jnp.float64), gumbel_softmax(second, dtype=jnp.float64)
        r = np.asarray(q.probs / p.probs)
        gaps = np.abs(r[:, None] - r[None]) + np.eye(4)
        value = float(p.kl_divergence(q))
        assert value >= -1e-12
        if gaps.min() > 0.05:  # elsewhere the closed form is 0 / 0
            parts = [
                r[i] ** 3 * np.log(r[i]) / np.prod([r[i] - r[j] for j in range(4) if j != i])
                for i in range(4)
            ]
            closed = -np.log(r).sum() + 4 * (sum(parts) - (1 + 1 / 2 + 1 / 3))
            assert value == pytest.approx(closed, rel=1e-7, abs=1e-7)


def test_exact_divergence_of_two_functions_is_that_of_the_cube():
    p, q = gumbel_softmax([1.5, 0.0]), gumbel_softmax([-0.5, 0.3])
    a = d.BinConcrete(jnp.array([1.5]), 0.7)
    b = d.BinConcrete(jnp.array([-0.8]), 0.7)
    assert float(p.kl_divergence(q)) == pytest.approx(float(a.kl_divergence(b)), rel=1e-5)
    assert float(p.kl_divergence(p)) == pytest.approx(0, abs=1e-6)


def beta_gamma(alpha):
    return d.Dirichlet(jnp.asarray(alpha, jnp.float32))


PAIRS = {
    "gumbel_softmax": (gumbel_softmax(LOGITS), gumbel_softmax([0.0, 1.0, -1.0])),
    "logit_normal": (
        d.LogitNormal(jnp.array([0.2, -0.5]), jnp.array([0.8, 0.6])),
        d.LogitNormal(jnp.array([0.0, 0.4]), jnp.array([1.1, 0.9])),
    ),
    "dirichlet": (beta_gamma([2.0, 3.5, 1.5]), beta_gamma([1.2, 1.0, 4.0])),
    "bin_concrete": (
        d.BinConcrete(jnp.array([0.5, -1.0]), 0.7),
        d.BinConcrete(jnp.array([0.0, 0.3]), 0.7),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_divergence_agrees_with_monte_carlo(name):
    p, q = PAIRS[name]
    values = p.sample_raw(KEY, (40_000,))
    gaps = np.asarray(p.log_prob_of_raw(values) - q.log_prob_of_raw(values), np.float64)
    exact = float(p.kl_divergence(q))
    assert abs(gaps.mean() - exact) < 5 * gaps.std() / np.sqrt(len(gaps))
    estimate = float(d.monte_carlo_kl(p, q, KEY, 40_000))
    assert estimate == pytest.approx(gaps.mean(), rel=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_reach_the_parameters(name):
    p, q = PAIRS[name]

    def loss(p):
        return jnp.sum(p.sample(KEY, (8,))[..., 0]) + jnp.sum(p.kl_divergence(q))

    slopes = jax.grad(loss)(p)
    first = jax.tree.leaves(slopes)[0]
    assert np.isfinite(first).all() and np.abs(first).max() > 1e-3


@pytest.mark.parametrize("name", [*PAIRS, "kumaraswamy"])
def test_batches_are_distributions_side_by_side(name):
    if name == "kumaraswamy":
        p = d.Kumaraswamy(jnp.array([1.5, 0.8]), jnp.array([2.0, 0.5]))
    else:
        p = PAIRS[name][0]
    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 3), p)
    values = p.sample(KEY, (3,))
    np.testing.assert_allclose(
        jax.vmap(lambda p, v: p.log_prob(v))(stacked, values), p.log_prob(values), rtol=1e-5
    )


def test_bounds_of_the_entropy_hold():
    p = gumbel_softmax(LOGITS, 0.2)
    assert float(p.entropy_bound()) >= float(
        -jnp.mean(p.log_prob_of_raw(p.sample_raw(KEY, (9999,))))
    )
    cold = gumbel_softmax(LOGITS, 0.02)
    estimate = -jnp.mean(cold.log_prob_of_raw(cold.sample_raw(KEY, (9999,))))
    assert float(cold.entropy_bound()) == pytest.approx(float(estimate), rel=0.02)
    q = PAIRS["logit_normal"][0]
    assert float(q.entropy_bound()) >= float(-jnp.mean(q.log_prob(q.sample(KEY, (9999,)))))
    r = PAIRS["dirichlet"][0]
    assert float(r.entropy()) == pytest.approx(stats.dirichlet(r.concentration).entropy(), rel=1e-4)


def test_mode_of_a_logit_normal_is_stationary():
    q = PAIRS["logit_normal"][0]

    def at(logits):
        return q.log_prob(jax.nn.softmax(logits))

    slope = jax.grad(at)(jnp.log(q.mode()))
    np.testing.assert_allclose(slope, 0, atol=1e-3)


def test_mode_of_a_dirichlet():
    np.testing.assert_allclose(beta_gamma([2.0, 3.0, 4.0]).mode(), [1 / 6, 2 / 6, 3 / 6], rtol=1e-6)
    np.testing.assert_array_equal(beta_gamma([0.5, 3.0, 4.0]).mode(), [0, 0, 1])


def test_straight_through_is_hard_forwards_and_soft_backwards():
    x = jnp.array([0.2, 0.5, 0.3])
    np.testing.assert_array_equal(np.round(d.straight_through(x), 6), [0, 1, 0])
    weights = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.grad(lambda x: d.straight_through(x) @ weights)(x), weights)


def test_hard_concrete_has_the_closed_form_mass_at_zero():
    gate = d.HardConcrete(jnp.array([-1.0, 0.0, 2.0]))
    samples = np.asarray(gate.sample(KEY, (40_000,)))
    assert samples.min() == 0 and samples.max() == 1
    expected = np.asarray(gate.probability_of_use)
    used = (samples > 0).mean(0)
    assert np.abs(used - expected).max() < 5 * 0.5 / np.sqrt(40_000)


def test_kumaraswamy_samples_and_divergence():
    stick = d.Kumaraswamy(jnp.array([2.0]), jnp.array([3.0]))
    samples = np.asarray(stick.sample(KEY, (20_000,)))[:, 0]
    assert stats.kstest(samples, lambda x: 1 - (1 - x**2) ** 3).pvalue > 1e-4
    for alpha, beta in ((3.0, 1.0), (2.0, 2.5)):
        exact, _ = integrate.quad(
            lambda x, alpha=alpha, beta=beta: (
                (f := 6 * x * (1 - x**2) ** 2) * (np.log(f) - stats.beta(alpha, beta).logpdf(x))
            ),
            1e-9,
            1 - 1e-9,
        )
        assert float(stick.kl_to_beta(alpha, beta)[0]) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gumbel_softmax(LOGITS, 0.0), "temperature must be above zero, received 0.0"),
        (lambda: gumbel_softmax(LOGITS, -1.0), "temperature must be above zero"),
        (lambda: gumbel_softmax(1.0), r"K >= 1, received \(\)"),
        (lambda: gumbel_softmax([]), r"K >= 1, received \(0,\)"),
        (lambda: d.BinConcrete(jnp.zeros(3), 0.0), "temperature must be above zero"),
        (lambda: d.LogitNormal(jnp.zeros(2), jnp.array([1.0, 0.0])), "scale must be above zero"),
        (lambda: beta_gamma([1.0, 0.0]), "concentration must be above zero"),
        (lambda: d.HardConcrete(jnp.zeros(2), low=0.0), "below 0 and above 1, received 0.0 to 1.1"),
        (lambda: d.Kumaraswamy(jnp.ones(2), jnp.zeros(2)), "b must be above zero"),
        (
            lambda: gumbel_softmax(LOGITS, 0.5).kl_divergence(gumbel_softmax(LOGITS, 0.6)),
            "equal temperatures, received 0.5 and 0.6: use monte_carlo_kl",
        ),
        (lambda: d.monte_carlo_kl(*PAIRS["dirichlet"], KEY, 0), "num_samples must be at least 1"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
