"""The variational search: its levels, its warm-up, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.structure.objective import TwoLevel
from ppuda_jax.structure.search import SearchSettings, search
from ppuda_jax.structure.search.variational import WarmUp, variational
from tests.structure.search.problems import absolute_value

PROBLEM = absolute_value()
ADAM = optax.adam(0.05)


def objective(**options):
    return TwoLevel(lambda w, s: jnp.zeros(()), tied_temperatures=True, **options)


def test_the_search_finds_the_function_that_fits():
    method = variational(PROBLEM, objective(), ADAM, ADAM)
    result = search(PROBLEM, method, SearchSettings(30, 32, 2), seeds=(0, 1))
    assert [result.choice(i) for i in range(2)] == [{(0, 1): 2}] * 2
    # The prior of the structure follows its posterior.
    prior, posterior = result.state.prior.logits[0, 1], result.state.posterior.logits[0, 1]
    np.testing.assert_array_equal(np.argmax(prior, -1), np.argmax(posterior, -1))


def test_the_warm_up_ends_with_wide_priors():
    method = variational(
        PROBLEM, objective(form="centred", floor=0.1), ADAM, ADAM, warm_up=WarmUp(3)
    )
    state = method.init(jax.random.key(0))
    step = jax.jit(lambda s, n: method.step(s, PROBLEM.train, PROBLEM.valid, jax.random.key(1), n))
    precisions = []
    for number in range(5):
        state = step(state, jnp.asarray(number))
        precisions.append(float(state.prior.log_precision[0, 1][2]["kernel"][0, 0]))
    assert max(map(abs, precisions[:3])) < 0.5
    assert precisions[3] == pytest.approx(-10, abs=0.1)
    assert -10 < precisions[4] < -9.5 or precisions[4] == pytest.approx(-10, abs=0.2)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="warm-up must have at least 1 step, received 0"):
        WarmUp(0)
