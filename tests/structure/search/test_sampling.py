"""Random search and evolution on a score whose best network is known."""

import numpy as np
import pytest

from ppuda_jax.structure.search.sampling import random_search, regularised_evolution

EDGES = {(0, 1): 4, (0, 2): 4, (1, 2): 4, (2, 3): 4, (1, 3): 4, (0, 3): 1}


def score(choice):
    return -sum(abs(choice[edge] - 2) for edge in EDGES if EDGES[edge] > 1)


def test_evolution_climbs_where_random_search_does_not():
    """4^5 networks, 120 queries: a uniform one is the best with a chance of 11 in 100."""
    climbed = [
        regularised_evolution(score, EDGES, np.random.default_rng(s), queries=120).score
        for s in range(10)
    ]
    drawn = [
        random_search(score, EDGES, np.random.default_rng(s), queries=120).score for s in range(10)
    ]
    assert climbed.count(0) >= 8
    assert np.mean(climbed) > np.mean(drawn)


def test_children_differ_by_one_edge_and_the_oldest_dies():
    found = regularised_evolution(
        score, EDGES, np.random.default_rng(0), queries=40, population=5, tournament=5
    )
    networks = [choice for choice, _ in found.history]
    scores = [value for _, value in found.history]
    for number in range(5, 40):
        alive = range(number - 5, number)
        parent = max(alive, key=lambda i: scores[i])
        changed = [e for e in EDGES if networks[number][e] != networks[parent][e]]
        candidates = [networks[i] for i in alive if scores[i] == scores[parent]]
        assert len(changed) == 1 or any(
            sum(networks[number][e] != other[e] for e in EDGES) == 1 for other in candidates
        )
        assert all(networks[number][edge] < count for edge, count in EDGES.items())
    assert found.score == max(scores) and score(found.best) == found.score


@pytest.mark.parametrize(
    ("search", "options", "message"),
    [
        (random_search, {"queries": 0}, "queries must be at least 1"),
        (regularised_evolution, {"queries": 5}, "must not fall, from 1 up, received 3, 10 and 5"),
        (regularised_evolution, {"queries": 20, "tournament": 0}, "received 0, 10 and 20"),
    ],
)
def test_settings_without_sense_are_refused(search, options, message):
    with pytest.raises(ValueError, match=message):
        search(score, EDGES, np.random.default_rng(0), **options)


def test_spaces_without_a_choice_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="every edge needs a function, received {}"):
        random_search(score, {}, rng, queries=1)
    with pytest.raises(ValueError, match="no edge has more than one function"):
        regularised_evolution(score, {(0, 1): 1}, rng, queries=10)
