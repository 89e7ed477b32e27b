"""Searches on a table, on predicted losses and on shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure import nasbench201_search as nbs
from ppuda_jax.structure.hypergradients import hessian_eigenvalue
from ppuda_jax.structure.nasbench201_net import Skeleton, supernet
from ppuda_jax.structure.nasbench201_predicted import Score
from ppuda_jax.structure.search import SearchSettings, classification
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.supernet import Supernet, linear_measure


def worth(cell):
    return 10.0 * sum(nb.OPS[op] == "nor_conv_3x3" for op in cell.values())


@pytest.fixture(scope="module")
def table():
    """Every cell is worth 10 for each of its 3x3 convolutions."""
    cells = list(nb.all_cells())
    values = np.array([worth(cell) for cell in cells])
    names = [f"{d}_test_200" for d in ("c10", "c100", "im16")] + ["c10_val_12"]
    return nb.Table(tuple(map(nb.to_text, cells)), dict.fromkeys(names, values))


def test_evolution_on_the_table_finds_more_than_random_search(table):
    found = nbs.by_table(table, ("random", "evolution"), queries=60, seeds=(0, 1, 2))
    (_, random), (_, evolved) = found.picks
    assert np.mean([worth(c) for c in evolved]) > np.mean([worth(c) for c in random])
    rows = found.rows(table)
    assert [row[0] for row in rows] == ["random", "evolution", "all skips"]
    assert all(len(row) == len(nbs.HEADER) for row in rows)
    assert rows[-1][2] == "0.00 ± 0.00" and rows[-1][-1] == "6"


def test_predicted_losses_are_asked_once_for_each_cell(table):
    class Scorer:
        def __init__(self):
            self.asked = []

        def score(self, choice):
            self.asked.append(nb.to_text(choice))
            return Score(0.5, -worth(choice))

    scorer = Scorer()
    found = nbs.by_prediction(scorer, table, ("evolution",), queries=60, seeds=(0, 1))
    # The cell of skips is scored before, for the note and to compile.
    assert len(scorer.asked[1:]) == len(set(scorer.asked[1:]))
    assert "rank correlation of predicted loss and trained accuracy: 1.00" in found.notes
    assert f"{len(scorer.asked) - 1} cells in" in found.notes[0]
    assert "all skips: predicted accuracy 0.500" in found.notes[2]


def test_shared_weights_give_picks(table):
    """A supernet of the same edges whose weights a structure only scales."""
    space = Supernet(
        nb.NAMES,
        lambda key: jax.random.normal(key, (3, 2)),
        lambda w, structure, x: x @ w * sum(gamma[3] for gamma in structure.values()),
        linear_measure(dict.fromkeys(nb.EDGES, (0, 0, 1, 9, 0))),
        linear_measure(dict.fromkeys(nb.EDGES, (0, 0, 1, 9, 0))),
    )
    x = jax.random.normal(jax.random.key(0), (32, 3))
    data = Objects(x, (x[:, 0] > 0).astype(jnp.int32))
    found = nbs.by_sharing(
        classification(space, data, data), ("random", "gdas"), SearchSettings(2, 16, 0), (0, 1)
    )
    assert [name for name, _ in found.picks] == ["random", "gdas"]
    for _, cells in found.picks:
        assert len(cells) == 2 and all(set(cell) == set(nb.EDGES) for cell in cells)
    assert found.notes[0].startswith("random: validation accuracy ")
    assert found.notes[0].endswith(" of 2 all skips")


@pytest.mark.parametrize("name", nbs.SHARED)
def test_the_supernet_can_be_searched(name):
    """Steps, and the Hessian of the report, exist for every operation; nothing is compiled."""
    data = Objects(jnp.ones((2, 4, 4, 3)), jnp.zeros(2, jnp.int32))
    problem = classification(supernet(Skeleton(2, 2, 1, 4)), data, data)
    method = nbs.SHARED[name](problem, 10)
    key = jax.random.key(0)
    state = jax.eval_shape(method.init, key)
    stepped = jax.eval_shape(method.step, state, data, data, key, 0)
    assert jax.tree.map(jnp.shape, stepped) == jax.tree.map(jnp.shape, state)


def test_the_hessian_of_the_supernet_exists():
    data = Objects(jnp.ones((2, 4, 4, 3)), jnp.zeros(2, jnp.int32))
    problem = classification(supernet(Skeleton(2, 2, 1, 4)), data, data)
    logits = {edge: jnp.zeros(5) for edge in nb.EDGES}

    def eigenvalue(weights):
        def loss(values):
            structure = {edge: jax.nn.softmax(v) for edge, v in values.items()}
            return problem.loss_of(weights, structure, data)

        return hessian_eigenvalue(loss, logits, jax.random.key(0), 2)

    weights = jax.eval_shape(problem.supernet.init, jax.random.key(0))
    assert jax.eval_shape(eigenvalue, weights).shape == ()


def test_methods_that_do_not_exist_are_refused(table):
    with pytest.raises(ValueError, match="methods must be of .*received .'gdas'"):
        nbs.by_table(table, ("gdas",), queries=10, seeds=(0,))
    with pytest.raises(ValueError, match="methods must be of .*'darts'"):
        nbs.by_sharing(None, (), SearchSettings(1), (0,))
