"""Jobs in threads."""

import threading

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax.finetune.side_by_side import side_by_side


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_the_order_of_the_jobs(at_once):
    jobs = [lambda n=n: n * n for n in range(7)]
    assert side_by_side(jobs, at_once) == [n * n for n in range(7)]


def test_so_many_run_at_once():
    barrier = threading.Barrier(2, timeout=30)
    assert sorted(side_by_side([barrier.wait] * 4, 2)) == [0, 0, 1, 1]


def test_the_first_failure_ends_it():
    begun = []

    def fail():
        raise KeyError("broken")

    jobs = [fail, *[lambda n=n: begun.append(n) for n in range(50)]]
    with pytest.raises(KeyError, match="broken"):
        side_by_side(jobs, 1)
    assert begun == []
    with pytest.raises(KeyError, match="broken"):
        side_by_side(jobs, 2)


def test_threads_have_the_precision_of_their_caller():
    def dtype():
        return jnp.zeros(()).dtype.name

    with jax.enable_x64(True):
        assert side_by_side([dtype] * 2, 2) == ["float64", "float64"]
    with jax.enable_x64(False):
        assert side_by_side([dtype] * 2, 2) == ["float32", "float32"]


def test_at_least_one_at_once():
    with pytest.raises(ValueError, match="at_once must be at least 1, received 0"):
        side_by_side([], 0)
