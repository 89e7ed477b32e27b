"""The loop: exact resume, independent seeds, what it refuses."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from ppuda_jax.structure.search import SearchSettings, search
from ppuda_jax.structure.search.one_shot import gdas
from ppuda_jax.structure.search.problem import Objects
from tests.structure.search.problems import absolute_value

PROBLEM = absolute_value()
METHOD = gdas(PROBLEM, optax.adam(0.05), optax.adam(0.1), optax.linear_schedule(2.0, 0.2, 60))
SETTINGS = SearchSettings(epochs=4, batch_size=16, eigenvalue_steps=2)


class Killed(Exception):
    pass


def kill_after(epoch):
    def progress(done, report):
        if done == epoch:
            raise Killed

    return progress


def test_a_search_that_was_killed_continues_bit_for_bit(tmp_path):
    whole = search(PROBLEM, METHOD, SETTINGS, seeds=(0, 1))
    with pytest.raises(Killed):
        search(PROBLEM, METHOD, SETTINGS, (0, 1), directory=tmp_path, progress=kill_after(1))
    epochs = []
    again = search(
        PROBLEM,
        METHOD,
        SETTINGS,
        (0, 1),
        directory=tmp_path,
        progress=lambda epoch, report: epochs.append(epoch),
    )
    assert epochs == [2, 3]
    for a, b in zip(
        jax.tree.leaves((whole.history, whole.state)),
        jax.tree.leaves((again.history, again.state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    finished = search(PROBLEM, METHOD, SETTINGS, (0, 1), directory=tmp_path)
    np.testing.assert_array_equal(finished.history.score, whole.history.score)
    with pytest.raises(ValueError, match="holds another search .its seeds differ"):
        search(PROBLEM, METHOD, SETTINGS, (0, 2), directory=tmp_path)


def test_seeds_do_not_depend_on_each_other():
    alone = search(PROBLEM, METHOD, SETTINGS, seeds=(5,))
    among = search(PROBLEM, METHOD, SETTINGS, seeds=(4, 5))
    np.testing.assert_allclose(alone.history.loss[0], among.history.loss[1], rtol=1e-4)
    assert not np.allclose(among.history.loss[0], among.history.loss[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search(PROBLEM, METHOD, SETTINGS, ()), "at least one, received"),
        (lambda: search(PROBLEM, METHOD, SETTINGS, (1, 1)), "seeds must be different numbers"),
        (lambda: SearchSettings(epochs=0), "epochs must be at least 1"),
        (lambda: SearchSettings(epochs=1, batch_size=0), "batch_size must be at least 1"),
        (
            lambda: dataclasses.replace(PROBLEM, valid=Objects(np.ones((3, 4)), np.ones(2))),
            "valid must be objects with one target each, received 3 and 2",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
