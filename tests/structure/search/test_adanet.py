"""AdaNet: mixture weights against a convex solver, growth, names, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from ppuda_jax.structure.search.adanet import (
    ComplexityRegularizedEnsembler,
    Member,
    Subnetwork,
    adanet,
)
from ppuda_jax.structure.search.problem import Objects

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(60, 3)), jnp.float32)
Y = X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.1 * jnp.asarray(RNG.normal(size=60), jnp.float32)
KEY = jax.random.key(0)


def loss(outputs, y):
    return jnp.mean((outputs[:, 0] - y) ** 2)


def subnetwork(values, complexity):
    return Subnetwork(jnp.stack([values, values**2], 1), values[:, None], complexity)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A candidate that needs no training, as one with predicted weights."""

    name: str
    power: int
    column: int
    complexity: float

    def build(self, key, train):
        def predict(x):
            return subnetwork(x[:, self.column] ** self.power, self.complexity)

        return Member(self.name, predict, parameters=7)


class Features:
    def __init__(self, builders):
        self.builders, self.calls = builders, []

    def generate_candidates(self, previous_ensemble, iteration):
        self.calls.append(([m.name for m in previous_ensemble], iteration))
        return self.builders


LINEAR = Feature("linear", 1, 0, 1.0)
SQUARE = Feature("square", 2, 1, 2.0)
NOISE = Feature("noise", 1, 2, 1.0)


def test_mixture_weights_minimise_the_objective():
    ensembler = ComplexityRegularizedEnsembler(0.05, 0.01, steps=600)
    parts = [b.build(KEY, None).predict(X) for b in (LINEAR, SQUARE, NOISE)]
    fit = ensembler.fit(parts, Y, loss)
    outputs = np.stack([np.asarray(p.logits[:, 0]) for p in parts])

    def objective(w):
        penalties = np.array([0.06, 0.11, 0.06])
        return np.mean((w @ outputs - np.asarray(Y)) ** 2) + penalties @ np.abs(w)

    exact = optimize.minimize(objective, np.ones(3) / 3, method="Powell", tol=1e-10)
    assert fit.objective == pytest.approx(exact.fun, rel=1e-3)
    np.testing.assert_allclose([float(w) for w in fit.mixture], exact.x, atol=5e-3)


def test_an_ensemble_grows_until_its_objective_does_not_fall():
    generator = Features([NOISE, LINEAR, SQUARE])
    result = adanet(
        generator,
        ComplexityRegularizedEnsembler(0.1),
        Objects(X, Y),
        loss,
        KEY,
        iterations=5,
    )
    assert [m.name for m in result.members] == ["linear", "square"]
    assert result.iterations[-1].chosen is None and len(result.iterations) == 3
    assert generator.calls == [([], 0), (["linear"], 1), (["linear", "square"], 2)]
    assert set(result.iterations[0].objectives) == {"noise", "linear", "square"}
    assert result.parameters == 2 * 7 + 2
    assert loss(result.predict(X), Y) < 0.05


def test_complexity_decides_between_equal_candidates():
    heavy = dataclasses.replace(LINEAR, name="heavy", complexity=4.0)
    result = adanet(
        Features([heavy, LINEAR]),
        ComplexityRegularizedEnsembler(0.02),
        Objects(X, Y),
        loss,
        KEY,
        iterations=1,
    )
    assert result.iterations[0].chosen == "linear"


@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_mixture_weights_may_be_vectors_or_matrices(kind):
    ensembler = ComplexityRegularizedEnsembler(mixture_weight_type=kind, steps=800, rate=0.1)
    part = SQUARE.build(KEY, None).predict(X)
    fit = ensembler.fit([part], part.logits[:, 0] * 2, loss)
    assert fit.mixture[0].shape == {"vector": (1,), "matrix": (2, 1)}[kind]
    assert fit.objective < 1e-3


def test_weights_of_the_ensemble_so_far_are_a_warm_start():
    parts = [b.build(KEY, None).predict(X) for b in (LINEAR, SQUARE)]
    previous = (jnp.asarray(3.0),)
    warm = ComplexityRegularizedEnsembler(warm_start_mixture_weights=True, steps=1, rate=1e-6)
    cold = dataclasses.replace(warm, warm_start_mixture_weights=False)
    fits = [e.fit(parts, Y, loss, previous) for e in (warm, cold)]
    np.testing.assert_allclose([float(f.mixture[0]) for f in fits], [3.0, 0.5], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ComplexityRegularizedEnsembler(-1.0), "adanet_lambda must not be negative"),
        (
            lambda: ComplexityRegularizedEnsembler(mixture_weight_type="tensor"),
            "one of .*received 'tensor'",
        ),
        (lambda: ComplexityRegularizedEnsembler(steps=0), "steps must be at least 1"),
        (lambda: ComplexityRegularizedEnsembler().fit([], Y, loss), "at least one subnetwork"),
        (
            lambda: adanet(
                Features([]),
                ComplexityRegularizedEnsembler(),
                Objects(X, Y),
                loss,
                KEY,
                iterations=1,
            ),
            "gave no candidates in iteration 0",
        ),
        (
            lambda: adanet(
                Features([LINEAR]),
                ComplexityRegularizedEnsembler(),
                Objects(X, Y),
                loss,
                KEY,
                iterations=0,
            ),
            "iterations must be at least 1",
        ),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
