"""Searches on a table, on predicted losses and on shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure import nasbench201_net as net
from ppuda_jax.structure import nasbench201_search as nbs
from ppuda_jax.structure import tasks
from ppuda_jax.structure.comparison import Budget
from ppuda_jax.structure.hypergradients import hessian_eigenvalue
from ppuda_jax.structure.nasbench201_net import Skeleton, supernet
from ppuda_jax.structure.search import classification, search
from ppuda_jax.structure.search.named import METHODS, Optimizers
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.supernet import Supernet, linear_measure
from ppuda_jax.structure.weights import predicted


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
    moves = []
    found = nbs.by_table(
        table,
        ("random", "evolution"),
        queries=60,
        seeds=(0, 1, 2),
        progress=lambda share, name: moves.append((round(6 * share), name)),
    )
    assert dict.fromkeys(moves) == dict.fromkeys(
        [*((i, "random") for i in range(3)), *((i, "evolution") for i in range(3, 6))]
    )
    (_, random), (_, evolved) = found.picks
    assert np.mean([worth(c) for c in evolved]) > np.mean([worth(c) for c in random])
    rows = found.rows(table)
    assert [row[0] for row in rows] == ["random", "evolution", "all skips", "all cells"]
    assert all(len(row) == len(nbs.HEADER) for row in rows)
    assert rows[-2][2] == "0.00 ± 0.00" and rows[-2][-1] == "6"
    # A fifth of six edges are 3x3 convolutions: 12 on average, deviation 10 sqrt(6 * 4 / 25).
    assert rows[-1][2] == "12.00 ± 9.80" and rows[-1][-1] == "1.2"
    assert len(found.against_all(table)) == 2


def small_task(rows=16):
    """A supernet of the same edges whose weights a structure only scales."""
    space = Supernet(
        nb.NAMES,
        lambda key: jax.random.normal(key, (3, 2)),
        lambda w, structure, x: x @ w * sum(gamma[3] for gamma in structure.values()),
        linear_measure(dict.fromkeys(nb.EDGES, (0, 0, 1, 9, 0))),
        linear_measure(dict.fromkeys(nb.EDGES, (0, 0, 1, 9, 0))),
        connected=net.connected,
        text=nb.to_text,
    )
    x = jax.random.normal(jax.random.key(0), (2 * rows, 3))
    data = Objects(x, (x[:, 0] > 0).astype(jnp.int32))
    problem = classification(space, data, data)
    return tasks.Task(problem, problem, Optimizers(optax.sgd(0.1), optax.adam(0.02)))


def test_predicted_losses_are_asked_once_for_each_cell(table):
    """With fixed weights the loss falls with the number of 3x3 convolutions, as the table does."""
    problem = small_task().problem
    asked = []

    class Predictor:
        def inputs(self, choice):
            asked.append(nb.to_text(choice))
            return jnp.array([[-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])

        def weights(self, inputs):
            return inputs

    source = predicted(Predictor())
    found = nbs.by_source(problem, source, table, ("evolution",), queries=60, seeds=(0, 1))
    # The cell of skips is scored before, for the note and to compile.
    assert len(asked[1:]) == len(set(asked[1:]))
    assert "rank correlation of predicted loss" in found.notes[1]
    assert float(found.notes[1].split()[-1]) > 0.95  # cells that nothing passes through are last
    assert "all skips: predicted accuracy " in found.notes[2]


def test_shared_weights_give_picks_and_continue(table, tmp_path):
    """A search that was killed between its methods' epochs equals one that was not."""
    task = small_task()
    shares = []
    whole = nbs.by_sharing(
        task,
        table,
        ("random", "gdas"),
        Budget(2, 16, (0, 1)),
        progress=lambda share, _: shares.append(share),
    )
    assert shares == [0, 0.25, 0.5, 0.5, 0.75, 1]
    assert [name for name, _ in whole.picks] == ["random", "gdas"]
    for _, cells in whole.picks:
        assert len(cells) == 2 and all(set(cell) == set(nb.EDGES) for cell in cells)
    assert whole.notes[0].startswith("random: validation accuracy ")
    assert " of 2 all skips; rank correlation of shared loss" in whole.notes[0]
    lines = whole.against_all(table)
    assert lines[0].startswith("random: ") and "standard error of 2 picks" in lines[0]

    method = METHODS["random"](task.problem, task.optimizers, 4)
    settings = Budget(2, 16, (0, 1)).settings
    with pytest.raises(KeyboardInterrupt):
        search(
            task.problem, method, settings, (0, 1), directory=tmp_path / "random", progress=killed
        )
    again = nbs.by_sharing(task, table, ("random", "gdas"), Budget(2, 16, (0, 1), tmp_path))
    assert again == whole
    other = small_task(rows=15)
    with pytest.raises(ValueError, match="holds another search .its objects differ"):
        nbs.by_sharing(other, table, ("random",), Budget(2, 16, (0, 1), tmp_path))


def killed(epoch, report):
    del epoch, report
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["darts_second_order", "variational_centred", "random"])
def test_the_supernet_can_be_searched(name):
    """Steps, and the Hessian of the report, exist for every operation; nothing is compiled."""
    data = Objects(jnp.ones((2, 4, 4, 3)), jnp.zeros(2, jnp.int32))
    problem = classification(supernet(Skeleton(2, 2, 1, 4)), data, data)
    images = tasks.Images(data, data, 2)
    optimizers = tasks.cells(images, Skeleton(2, 2, 1, 4), 2).optimizers
    method = METHODS[name](problem, optimizers, 10)
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
        nbs.by_sharing(small_task(), table, (), Budget(1))
