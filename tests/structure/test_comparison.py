"""The comparison of searches on digits, at the smallest budget."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure import comparison, tasks
from ppuda_jax.structure.search.named import METHODS

NAMES = ("gdas", "variational", "adanet")


@pytest.fixture(scope="module")
def task():
    return tasks.perceptrons(tasks.load("digits", max_images=200), widths=(4, 8), layers=1)


@pytest.fixture(scope="module")
def results(task, tmp_path_factory):
    budget = comparison.Budget(6, 50, (0, 1), tmp_path_factory.mktemp("searches"))
    moves = []
    found = comparison.compare(task, NAMES, budget, progress=lambda *move: moves.append(move))
    # Of each method its beginning, six epochs and two tests; AdaNet has two ensembles.
    assert [name for _, name in moves] == ["gdas"] * 9 + ["variational"] * 9 + ["adanet"] * 3
    shares = [share for share, _ in moves]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares[9] == 1 / 3
    return found


def test_every_method_has_a_row_per_seed(results):
    assert tuple(result.method for result in results) == NAMES
    for result in results:
        assert [row.seed for row in result.rows] == [0, 1]
        for row in result.rows:
            assert 0 <= row.test_score <= 1 and row.parameters >= 64 * 4 + 4 + 4 * 10 + 10
        cells = result.summary()
        assert len(cells) == len(comparison.HEADER) and "±" in cells[1]
    searched, grown = results[0], results[2]
    assert searched.scores.shape == searched.sizes.shape == (2, 6)
    assert searched.sizes[0, -1] == searched.rows[0].parameters
    assert len(searched.rows[0].epochs) == 6
    assert searched.rows[0].epochs[-1] == searched.rows[0].choice
    assert "tanh" in grown.rows[0].choice and grown.scores is None


def test_what_was_chosen_is_trained(results):
    assert np.mean([row.test_score for row in results[0].rows]) > 0.15


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_made(task, name):
    method = METHODS[name](task.problem, task.optimizers, 10)
    assert name.startswith(method.name)
    state = jax.eval_shape(method.init, jax.random.key(0))
    stepped = jax.eval_shape(
        method.step, state, task.problem.train, task.problem.valid, jax.random.key(0), 0
    )
    assert jax.tree.map(jnp.shape, stepped) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("names", [(), ("gdas", "enas")])
def test_methods_that_do_not_exist_are_refused(task, names):
    with pytest.raises(ValueError, match="methods must be of .*'adanet'.*received"):
        comparison.compare(task, names, comparison.Budget(1))


def test_families_without_candidates_have_no_adanet(task):
    with pytest.raises(ValueError, match="methods must be of .*received .'adanet'"):
        comparison.compare(
            dataclasses.replace(task, candidates=None), ("adanet",), comparison.Budget(1)
        )
