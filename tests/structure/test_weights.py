"""One interface of trained, shared and predicted weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.structure.family import Family
from ppuda_jax.structure.functions import ZERO, dense
from ppuda_jax.structure.search import SearchSettings, search
from ppuda_jax.structure.search.one_shot import random_sharing
from ppuda_jax.structure.supernet import largest, of_family
from ppuda_jax.structure.weights import Judge, predicted, shared, trained
from tests.close import assert_close
from tests.structure.search.problems import absolute_value

PROBLEM = absolute_value()
EDGE = (0, 1)
SETTINGS = SearchSettings(epochs=15, batch_size=16, eigenvalue_steps=0)
JUDGE = Judge(PROBLEM)
LEAST_SQUARES = jnp.linalg.lstsq(jnp.abs(PROBLEM.train.x), PROBLEM.train.y)[0]


class Solver:
    """Predicts the weights of the function that fits, exactly, and zeros for the others."""

    def inputs(self, choice):
        return jnp.where(choice[EDGE] == 2, LEAST_SQUARES, 0.0)

    def weights(self, inputs):
        start = PROBLEM.supernet.init(jax.random.key(0))
        return {EDGE: (*start[EDGE][:2], {"kernel": inputs[:, None]})}


def by_hand(kernel):
    outputs = jnp.abs(PROBLEM.valid.x) @ kernel
    return float(0.5 * jnp.mean(jnp.square(outputs - PROBLEM.valid.y)))


def test_trained_weights_belong_to_one_network_and_one_seed():
    source = trained(PROBLEM, optax.sgd(0.2), SETTINGS)
    linear, absolute = (JUDGE(source, {EDGE: number}) for number in (1, 2))
    assert linear.score < -0.8 and absolute.score > -0.2
    first, again, other = (source.of({EDGE: 1}, seed) for seed in (0, 0, 1))
    kernel = first[EDGE][1]["kernel"]
    np.testing.assert_array_equal(kernel, again[EDGE][1]["kernel"])
    assert not np.allclose(kernel, other[EDGE][1]["kernel"], atol=1e-6)


def test_shared_weights_are_those_of_the_search():
    method = random_sharing(PROBLEM, optax.sgd(0.2), candidates=4)
    result = search(PROBLEM, method, SETTINGS, (3, 4))
    state = jax.tree.map(lambda leaf: leaf[1], result.state)
    worth = JUDGE(shared(method.weights(state)), result.choice(1))
    assert_close(worth.score, float(result.history.score[1, -1]), 1e-5)
    assert_close(worth.loss, float(result.history.loss[1, -1]), 1e-5)


def test_predicted_weights_come_from_the_predictor():
    source = predicted(Solver())
    assert [s.name for s in (source, shared(()))] == ["predicted", "shared"]
    assert_close(JUDGE(source, {EDGE: 2}).loss, by_hand(LEAST_SQUARES), 1e-5)
    assert_close(JUDGE(source, {EDGE: 2}, seed=7).loss, by_hand(LEAST_SQUARES), 1e-5)
    assert JUDGE(source, {EDGE: 0}).loss > 1


def test_a_network_that_nothing_passes_through_is_worth_nothing():
    def connected(choice):
        return choice[EDGE] != 0

    supernet = dataclasses.replace(PROBLEM.supernet, connected=connected)
    judge = Judge(dataclasses.replace(PROBLEM, supernet=supernet))
    assert judge(predicted(Solver()), {EDGE: 0}) == (np.inf, -np.inf)


def test_a_vertex_computes_what_the_mixture_at_it_does():
    family = Family(
        3, {EDGE: (dense(4, jnp.tanh), dense(4)), (1, 2): (dense(2), dense(2, name="b"))}
    )
    supernet = of_family(family, jax.ShapeDtypeStruct((5, 3), jnp.float32))
    weights = supernet.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    numbers = {EDGE: jnp.asarray(1), (1, 2): jnp.asarray(0)}
    assert_close(
        supernet.run(weights, numbers, x),
        supernet.apply(weights, supernet.vertex(numbers), x),
        1e-6,
    )


def test_a_network_is_evaluated_in_whole_batches():
    """Of 64 objects the last 4 fill no batch of 20; all batches weigh the same."""
    problem = dataclasses.replace(PROBLEM, batch_size=20)
    weights = predicted(Solver()).of({EDGE: 2})
    worth = problem.evaluate(weights, {EDGE: jnp.asarray(2)})
    outputs = jnp.abs(PROBLEM.valid.x[:60]) @ LEAST_SQUARES
    squares = jnp.square(outputs - PROBLEM.valid.y[:60])
    assert_close(float(worth.loss), float(0.5 * squares.mean()), 1e-5)
    roots = jnp.sqrt(squares.reshape(3, 20).mean(1))
    assert_close(float(worth.score), float(-roots.mean()), 1e-5)


def test_uniform_networks_are_uniform():
    family = Family(2, {EDGE: (ZERO, ZERO, ZERO)})
    supernet = of_family(family, jax.ShapeDtypeStruct((5, 3), jnp.float32))
    drawn = jax.vmap(supernet.uniform)(jax.random.split(jax.random.key(0), 3000))[EDGE]
    counts = np.bincount(np.asarray(drawn), minlength=3)
    # Five deviations of a binomial variable.
    assert np.abs(counts - 1000).max() < 5 * (3000 * 2 / 9) ** 0.5
    assert int(largest({EDGE: jnp.array([0.1, 0.5, 0.4])})[EDGE]) == 1


def test_a_batch_of_no_objects_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
        dataclasses.replace(PROBLEM, batch_size=0)
