"""Choices from weights of functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure import discretise
from ppuda_jax.structure.family import FamilyError
from ppuda_jax.structure.functions import two_layer

NAMES = ("none", "skip_connect", "conv")
# A cell of two nodes behind two inputs, as DARTS numbers them.
EDGES = ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
WEIGHTS = ([0.8, 0.1, 0.1], [0.1, 0.5, 0.4], [0.2, 0.3, 0.5], [0.9, 0.06, 0.04], [0.4, 0.2, 0.4])
CELL = {edge: np.array(w) for edge, w in zip(EDGES, WEIGHTS, strict=True)}
CELL_NAMES = dict.fromkeys(EDGES, NAMES)


def test_argmax_takes_the_largest_weight():
    assert discretise.argmax(CELL) == {(0, 2): 0, (1, 2): 1, (0, 3): 2, (1, 3): 0, (2, 3): 0}


def test_two_strongest_edges_as_darts():
    """Strengths of node 3: 0.5, 0.06 and 0.4, each without `none`."""
    choice = discretise.strongest_edges(CELL, CELL_NAMES)
    assert choice == {(0, 2): 1, (1, 2): 1, (0, 3): 2, (2, 3): 2}
    assert discretise.skip_count(choice, CELL_NAMES) == 2
    assert set(discretise.strongest_edges(CELL, CELL_NAMES, per_vertex=1)) == {(1, 2), (0, 3)}
    assert set(discretise.strongest_edges(CELL, CELL_NAMES, per_vertex=9)) == set(EDGES)


def test_without_a_function_for_none_all_may_be_chosen():
    choice = discretise.strongest_edges(CELL, CELL_NAMES, none=None)
    assert choice[0, 2] == 0


def test_perturbation_keeps_what_is_missed_most():
    """The score is a sum of gains: alpha prefers function 0, the gain function 1."""
    gains = {(0, 1): np.array([0.1, 1.0, 0.3]), (1, 2): np.array([0.9, 0.2])}
    structure = {(0, 1): jnp.array([0.6, 0.3, 0.1]), (1, 2): jnp.array([0.5, 0.5])}
    seen = []

    def score(gamma):
        for weights in gamma.values():
            np.testing.assert_allclose(np.sum(weights), 1, rtol=1e-6)
        return float(sum(np.sum(np.asarray(gamma[e]) * gains[e]) for e in gains))

    def tune(gamma):
        seen.append(int(np.argmax(gamma[1, 2])) if np.max(gamma[1, 2]) == 1 else None)

    choice = discretise.perturbation(score, structure, order=[(1, 2), (0, 1)], tune=tune)
    assert choice == {(0, 1): 1, (1, 2): 0}
    assert seen == [0, 0]


def test_a_restricted_family_is_the_network_of_the_choice():
    family = two_layer(3, 2)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    weights = family.init(jax.random.key(1), x)
    choice = {(0, 1): 1, (1, 2): 0}
    smaller, own = discretise.restrict(family, choice, weights)
    one = {edge: jnp.ones(1) for edge in choice}
    np.testing.assert_allclose(
        smaller.apply(own, one, x), family.apply(weights, family.select(choice), x), rtol=1e-6
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == 5 * 3 + 3 + 3 * 2 + 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: discretise.strongest_edges(CELL, CELL_NAMES, per_vertex=0),
            ValueError,
            "per_vertex must be at least 1",
        ),
        (
            lambda: discretise.strongest_edges(CELL, {}),
            ValueError,
            r"edge \(0, 2\) has 3 functions, received the names None",
        ),
        (
            lambda: discretise.strongest_edges({(0, 1): np.ones(1)}, {(0, 1): ("none",)}),
            ValueError,
            "no function but 'none'",
        ),
        (
            lambda: discretise.perturbation(lambda g: 0.0, CELL, order=[(0, 2)]),
            ValueError,
            r"order must name each of .*received \[\(0, 2\)\]",
        ),
        (
            lambda: discretise.restrict(two_layer(3, 2), {(0, 1): 5}, {}),
            ValueError,
            r"edge \(0, 1\) has 3 functions, received number 5",
        ),
        (
            lambda: discretise.restrict(two_layer(3, 2), {(0, 1): 0}, {(0, 1): ((),)}),
            FamilyError,
            "nothing leads from vertex",
        ),
        (lambda: discretise.restrict(two_layer(3, 2), {}, {}), FamilyError, "needs edges"),
    ],
)
def test_bad_choices_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
