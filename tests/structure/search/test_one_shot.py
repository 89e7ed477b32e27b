"""Every one-shot search finds the one function that fits."""

import numpy as np
import optax
import pytest

from ppuda_jax.structure.search import SearchSettings, search
from ppuda_jax.structure.search.one_shot import darts, gdas, random_sharing, snas
from tests.structure.search.problems import absolute_value

PROBLEM = absolute_value()
# Without momentum the weights do not overshoot, which would teach the logits the zero function.
WEIGHTS, LOGITS = optax.sgd(0.2), optax.adam(0.1)
COOLING = optax.linear_schedule(2.0, 0.2, 60)
SETTINGS = SearchSettings(epochs=15, batch_size=16, eigenvalue_steps=3)
METHODS = {
    "darts": lambda: darts(PROBLEM, WEIGHTS, LOGITS),
    "darts_second_order": lambda: darts(PROBLEM, WEIGHTS, LOGITS, rate=0.05),
    "snas": lambda: snas(PROBLEM, WEIGHTS, LOGITS, COOLING),
    "gdas": lambda: gdas(PROBLEM, WEIGHTS, LOGITS, COOLING),
    "random": lambda: random_sharing(PROBLEM, WEIGHTS, candidates=8),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_search_finds_the_function_that_fits(name):
    result = search(PROBLEM, METHODS[name](), SETTINGS, seeds=(3, 4))
    assert result.method == name
    assert [result.choice(i) for i in range(2)] == [{(0, 1): 2}] * 2
    history = result.history
    assert history.score.shape == (2, 15)
    assert history.probabilities[0, 1].shape == (2, 15, 3)
    np.testing.assert_allclose(history.size[:, -1], 4)
    assert np.isfinite(history.eigenvalue).all()
    if name in ("snas", "gdas"):
        np.testing.assert_allclose(history.temperature[:, -1], 0.23, atol=0.01)
    else:
        assert np.isnan(history.temperature).all()


def test_an_expected_number_of_parameters_is_a_penalty():
    """With a huge coefficient the function without parameters wins over the one that fits."""
    method = darts(PROBLEM, WEIGHTS, LOGITS, resource=1e7)
    result = search(PROBLEM, method, SETTINGS)
    assert result.choice(0) == {(0, 1): 0}
    assert result.history.size[0, -1] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: darts(PROBLEM, WEIGHTS, LOGITS, rate=-1.0), "rate must not be negative"),
        (lambda: gdas(PROBLEM, WEIGHTS, LOGITS, COOLING, resource=-1.0), "resource must not be"),
        (lambda: random_sharing(PROBLEM, WEIGHTS, candidates=0), "candidates must be at least 1"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
